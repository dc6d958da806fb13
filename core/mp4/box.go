// Boxes and their fields.

package mp4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/mediad/mediad/core/media"
)

// A window reads a file here and there, through a buffer that small reads near
// each other share.
type window struct {
	ctx  context.Context
	file media.File
	at   int64
	buf  []byte
}

const windowSize = 8 << 10

// A head is the head of a box.
type head struct {
	kind string
	head int64 // size of the head
	size int64 // of the whole box, 0 for one that goes to the end of the file
}

// box reads the head of the box at a byte of the file; io.EOF when the file has
// fewer bytes than a head.
func (w *window) box(at int64) (head, error) {
	p, err := w.peek(at, 16)
	if len(p) < 8 {
		return head{}, err
	}
	h := head{kind: string(p[4:8]), head: 8, size: int64(binary.BigEndian.Uint32(p))}
	if h.size == 1 { // 64 bits follow
		if len(p) < 16 {
			return head{}, io.ErrUnexpectedEOF
		}
		h.head, h.size = 16, int64(binary.BigEndian.Uint64(p[8:]))
	}
	return h, nil
}

// peek returns n bytes at a byte of the file, at most windowSize, or with an error what
// there is. They are valid until the next call.
func (w *window) peek(at int64, n int) ([]byte, error) {
	if at < w.at || at+int64(n) > w.at+int64(len(w.buf)) {
		w.buf = slices.Grow(w.buf[:0], windowSize)[:windowSize]
		n, err := w.file.ReadAt(w.ctx, w.buf, at)
		w.at, w.buf = at, w.buf[:n]
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	p := w.buf[at-w.at:]
	if len(p) < n {
		return p, io.EOF
	}
	return p[:n], nil
}

// body reads the content of the box at a byte of the file. It is valid until the
// next call.
func (w *window) body(at int64, h head, limit int64) ([]byte, error) {
	if h.size > limit {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", h.size, limit)
	}
	if h.size <= windowSize {
		p, err := w.peek(at, int(h.size))
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		return p[h.head:], nil
	}
	p := make([]byte, h.size-h.head)
	return p, readFull(w.ctx, w.file, p, at+h.head)
}

// readFull fills p. A file that ends too early is an error.
func readFull(ctx context.Context, f media.File, p []byte, at int64) error {
	n, err := f.ReadAt(ctx, p, at)
	switch {
	case n == len(p):
		return nil
	case err == nil, errors.Is(err, io.EOF):
		return fmt.Errorf("read %d bytes at %d: %w", len(p), at, io.ErrUnexpectedEOF)
	}
	return err
}

// A box is a box in memory.
type box struct {
	kind string
	body []byte
}

// boxes are the boxes that lie side by side in p. Fewer bytes than a head at the
// end are padding.
func boxes(p []byte) iter.Seq2[box, error] {
	return func(yield func(box, error) bool) {
		for len(p) >= 8 {
			kind, head, size := string(p[4:8]), uint64(8), uint64(binary.BigEndian.Uint32(p))
			if size == 1 && len(p) >= 16 {
				head, size = 16, binary.BigEndian.Uint64(p[8:])
			}
			if size < head || size > uint64(len(p)) {
				yield(box{}, fmt.Errorf("box %q says that it has %d bytes, its place has %d", kind, size, len(p)))
				return
			}
			if !yield(box{kind, p[head:size]}, nil) {
				return
			}
			p = p[size:]
		}
	}
}

// find returns the content of the first box at the end of the path, nil when
// there is none.
func find(p []byte, path ...string) ([]byte, error) {
	for _, kind := range path {
		var found []byte
		for b, err := range boxes(p) {
			if err != nil {
				return nil, err
			}
			if b.kind == kind {
				found = b.body
				break
			}
		}
		if p = found; p == nil {
			return nil, nil
		}
	}
	return p, nil
}

// fields reads the fields of a box one after another. Behind the end of the box
// there are zeros, and short is set.
type fields struct {
	p     []byte
	short bool
}

// take returns the next n bytes, all zero when they are not there.
func (f *fields) take(n int) []byte {
	if len(f.p) < n {
		f.p, f.short = nil, true
		return make([]byte, min(n, 8)) // no field is longer
	}
	p := f.p[:n]
	f.p = f.p[n:]
	return p
}

func (f *fields) uint8() uint8   { return f.take(1)[0] }
func (f *fields) uint16() uint16 { return binary.BigEndian.Uint16(f.take(2)) }
func (f *fields) uint32() uint32 { return binary.BigEndian.Uint32(f.take(4)) }
func (f *fields) uint64() uint64 { return binary.BigEndian.Uint64(f.take(8)) }
func (f *fields) skip(n int)     { f.take(n) }

// word reads 32 bits, or 64 when long is set.
func (f *fields) word(long bool) uint64 {
	if long {
		return f.uint64()
	}
	return uint64(f.uint32())
}

// full reads the head of a full box (4.2).
func (f *fields) full() (version uint8, flags uint32) {
	v := f.uint32()
	return uint8(v >> 24), v & 0xffffff
}

// A table is entries of equal size.
type table struct {
	p    []byte
	size int
}

// table reads a count and the entries that follow.
func (f *fields) table(size int) (table, error) {
	n := f.uint32()
	if room := len(f.p) / size; uint64(n) > uint64(room) {
		return table{}, fmt.Errorf("it says that it has %d entries, but has room for %d", n, room)
	}
	if f.short {
		return table{}, errors.New("it ends too early")
	}
	return table{f.take(int(n) * size), size}, nil
}

func (t table) len() int {
	if t.size == 0 {
		return 0
	}
	return len(t.p) / t.size
}

// at returns the fields of entry i.
func (t table) at(i int) *fields { return &fields{p: t.p[i*t.size : (i+1)*t.size]} }
