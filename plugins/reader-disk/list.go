// What is in the folder.

package readerdisk

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/mediad/mediad/core/media"
)

// maxWalk is how many files are looked at for a listing.
const maxWalk = 100_000

// List implements media.Lister. What can't be read is left out.
func (r *reader) List(ctx context.Context) ([]media.Entry, error) {
	root, err := os.OpenRoot(r.root)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", media.ErrUnavailable, err)
	}
	defer root.Close() //nolint:errcheck // only read
	var list []media.Entry
	seen := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if seen++; seen > maxWalk {
			return fs.SkipAll
		}
		if err != nil || !d.Type().IsRegular() || !slices.Contains(suffixes[1:], path.Ext(name)) || media.CheckName(name) != nil {
			return ctx.Err()
		}
		if info, err := d.Info(); err == nil {
			list = append(list, media.Entry{Name: name, Size: info.Size(), Modified: info.ModTime()})
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(x, y media.Entry) int {
		return cmp.Or(y.Modified.Compare(x.Modified), cmp.Compare(x.Name, y.Name))
	})
	return list[:min(len(list), media.MaxEntries)], nil
}
