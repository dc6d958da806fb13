// How much is kept, and the removal of what is beyond.

package writerdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/stage"
)

// Keep is how much is kept: an age or a size. The zero Keep keeps all.
type Keep struct {
	Age  time.Duration
	Size stage.Size
}

// UnmarshalText reads an age such as 7d or a size such as 500GiB.
func (k *Keep) UnmarshalText(b []byte) error {
	*k = Keep{}
	var err error
	if k.Age, err = stage.ParseDuration(string(b)); err != nil {
		err = k.Size.UnmarshalText(b)
	}
	if err != nil || *k == (Keep{}) {
		return fmt.Errorf("%q is neither an age such as 7d nor a size such as 500GiB", b)
	}
	return nil
}

func (k Keep) String() string {
	switch {
	case k.Age > 0:
		return stage.FormatDuration(k.Age)
	case k.Size > 0:
		return k.Size.String()
	}
	return ""
}

// A recording is one that a sweep has found.
type recording struct {
	name string
	size int64
	time time.Time // when it was last written
}

// sweep removes the oldest finished recordings beyond what is kept. What this
// stage has not recorded is not touched.
func (w *Writer) sweep(root *os.Root) error {
	keep := w.settings.Keep
	if keep == (Keep{}) {
		return nil
	}
	var found []recording
	var total int64
	err := walk(root, func(name string, info fs.FileInfo) error {
		ours, finished := inspect(root, name)
		if ours {
			total += info.Size()
		}
		if finished {
			found = append(found, recording{name, info.Size(), info.ModTime()})
		}
		return nil
	})
	slices.SortFunc(found, func(a, b recording) int { return a.time.Compare(b.time) })
	for _, r := range found {
		old := keep.Age > 0 && time.Since(r.time) > keep.Age
		many := keep.Size > 0 && total > int64(keep.Size)
		if !old && !many {
			break
		}
		total -= r.size
		err = errors.Join(err, w.remove(root, r.name))
	}
	return err
}

// inspect says whether the file at name is a recording of this stage, and whether
// it is finished.
func inspect(root *os.Root, name string) (ours, finished bool) {
	f, err := root.Open(name)
	if err != nil {
		return false, false
	}
	defer f.Close()
	finished, err = flv.Finished(f)
	return err == nil, finished
}

// remove removes a recording that nobody goes on with, and the folders that are
// empty then.
func (w *Writer) remove(root *os.Root, name string) error {
	if !w.claim(name) {
		return nil
	}
	defer w.release(name)
	if err := root.Remove(name); err != nil {
		return err
	}
	w.metrics.removed.Inc()
	w.log.Debug("removed an old recording", "file", name)
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if root.Remove(dir) != nil {
			break // not empty
		}
	}
	return nil
}
