// Package container tells the file formats apart, and holds what the readers of
// files share: the indexes that are kept, and the source of an open file.
package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/mp4"
)

// A format is a container format, known by the first bytes of its files.
type format struct {
	name string
	is   func(head []byte) bool
	read func(ctx context.Context, f media.File) (media.Index, error)
}

var formats = []format{
	{"FLV", isFLV, flv.ReadIndex},
	{"MP4", isMP4, mp4.ReadIndex},
}

// headSize is how many of a file's first bytes tell its format.
const headSize = 12

// Open reads the index of f, whose format it finds out from the first bytes.
func Open(ctx context.Context, f media.File) (media.Index, error) {
	head := make([]byte, headSize)
	n, err := f.ReadAt(ctx, head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the first bytes: %w", err)
	}
	if n == 0 {
		return nil, errors.New("the file is empty")
	}
	head = head[:n]
	var names []string
	for _, format := range formats {
		if !format.is(head) {
			names = append(names, format.name)
			continue
		}
		index, err := format.read(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", format.name, err)
		}
		return index, nil
	}
	return nil, fmt.Errorf("the file begins with %q, which is none of the formats that can be played: %q", head, names)
}

func isFLV(head []byte) bool { return bytes.HasPrefix(head, []byte("FLV")) }

// isMP4 looks at the kind of the first box. QuickTime files need not begin with
// ftyp, but with one of the others.
func isMP4(head []byte) bool {
	if len(head) < 8 {
		return false
	}
	switch string(head[4:8]) {
	case "ftyp", "styp", "moov", "mdat", "free", "skip", "wide", "pnot":
		return true
	}
	return false
}

// Notes say what of a file is not played though it could be read, from its index.
func Notes(index media.Index) []string {
	if n, ok := index.(interface{ Notes() []string }); ok {
		return n.Notes()
	}
	return nil
}

// Cause names an error of opening or reading a file, as the readers count them; ""
// for one that is only the end of a context.
func Cause(err error) string {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ""
	case errors.Is(err, media.ErrNotFound):
		return "not found"
	case errors.Is(err, media.ErrDenied):
		return "denied"
	case errors.Is(err, media.ErrChanged):
		return "changed"
	case errors.Is(err, media.ErrUnavailable):
		return "unavailable"
	}
	return "unreadable"
}
