// An open file: one version of it, however long it is read.

package readerdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/prometheus/client_golang/prometheus"
)

// A file is one version of a regular file. After each read it is checked that
// the content still is the one that was opened. A file that is replaced by
// rename needs no check, the descriptor keeps the old one. In place, a file may
// grow, as a recording does, and one that has grown may be changed before its old end
// (a finished recording gets its duration), as long as its last bytes stay.
type file struct {
	os      *os.File
	read    prometheus.Counter // bytes
	version string             // device, inode, size and time of the last change

	mu    sync.Mutex
	size  int64 // as it was last seen, with the two that follow
	mtime time.Time
	tail  []byte // the last bytes
	grown bool   // since it was opened
}

// tailSize is how many of a file's last bytes tell one content from another.
const tailSize = 64

var errNotRegular = errors.New("is not a regular file")

// openFile opens name in root. It does not wait for the writer of a named pipe.
// What is read is added to read.
func openFile(root *os.Root, name string, read prometheus.Counter) (*file, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := &file{os: f, read: read}
	if err := file.init(name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

func (f *file) init(name string) error {
	info, err := f.os.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	f.size, f.mtime = info.Size(), info.ModTime()
	stat := info.Sys().(*syscall.Stat_t)
	f.version = fmt.Sprintf("%x-%x-%x-%x", stat.Dev, stat.Ino, f.size, f.mtime.UnixNano())
	f.tail, err = f.readTail()
	return err
}

// Size implements media.File.
func (f *file) Size() int64 {
	info, err := f.os.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// ReadAt implements media.File. Reads of a disk are short, so ctx is only
// looked at before one.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := f.os.ReadAt(p, off)
	if errors.Is(err, os.ErrClosed) {
		return 0, media.ErrClosed
	}
	f.read.Add(float64(n))
	if changed := f.check(); changed != nil {
		return 0, changed
	}
	return n, err
}

// check returns an error that wraps media.ErrChanged when the content is not the
// one that was opened.
func (f *file) check() error {
	info, err := f.os.Stat()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	size, mtime := info.Size(), info.ModTime()
	switch {
	case size == f.size && mtime.Equal(f.mtime):
		return nil
	case size < f.size:
		return fmt.Errorf("%w: it had %d bytes, now %d", media.ErrChanged, f.size, size)
	case size == f.size && !f.grown:
		return fmt.Errorf("%w: it was written to at %s", media.ErrChanged, mtime.Format(time.RFC3339Nano))
	}
	tail, err := f.readTail()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(tail, f.tail) {
		return fmt.Errorf("%w: other bytes are at its old end", media.ErrChanged)
	}
	f.size, f.mtime, f.grown = size, mtime, true
	f.tail, err = f.readTail()
	return err
}

// readTail reads the last bytes before the size that was last seen.
func (f *file) readTail() ([]byte, error) {
	tail := make([]byte, min(f.size, tailSize))
	_, err := f.os.ReadAt(tail, f.size-int64(len(tail)))
	return tail, err
}

// Close implements io.Closer.
func (f *file) Close() error { return f.os.Close() }
