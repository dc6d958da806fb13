// A file at an origin that has ranges.

package readerhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/mediad/mediad/core/container"
	"github.com/mediad/mediad/core/media"
)

// A file is an open file at an origin.
type file interface {
	container.File
	version() string
}

// The pieces that a file is read in: small ones here and there, larger ones
// when it is read on from where the last one ended.
const (
	minPiece  = 64 << 10
	maxPiece  = 1 << 20
	maxPieces = 3 // that are kept: audio and video may lie apart
)

// A visit is a request for the first bytes of a file. Whoever opens the file
// meanwhile shares its answer, so that viewers who come at once cost one request.
type visit struct {
	key  string
	over chan struct{} // closed when the rest is set
	f    *ranged       // nil when there is an error, or no ranges
	err  error
}

// open opens the file of a name with a request for its first n bytes. It lives on when
// ctx has ended.
func (o *origin) open(ctx context.Context, name string, n int64) (file, error) {
	url := o.url(name)
	for {
		v, first := o.visit(fmt.Sprint(n, " ", url))
		if first {
			f, err := o.ask(ctx, url, n)
			v.f, _ = f.(*ranged)
			v.err = err
			o.leave(v)
			return f, err
		}
		select {
		case <-v.over:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case v.f != nil:
			return v.f.again(ctx), nil
		case v.err == nil: // a file without ranges has one reader
			return o.ask(ctx, url, n)
		case errors.Is(v.err, context.Canceled), errors.Is(v.err, context.DeadlineExceeded):
			continue // that was its context, not ours
		}
		return nil, v.err
	}
}

// visit returns the visit that is under way for a key, or the first.
func (o *origin) visit(key string) (v *visit, first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if v = o.visits[key]; v != nil {
		return v, false
	}
	v = &visit{key: key, over: make(chan struct{})}
	o.visits[key] = v
	return v, true
}

// leave tells those who share v what has come of it.
func (o *origin) leave(v *visit) {
	o.mu.Lock()
	delete(o.visits, v.key)
	o.mu.Unlock()
	close(v.over)
}

// ask opens a file by a request of its own.
func (o *origin) ask(ctx context.Context, url string, n int64) (f file, err error) {
	err = o.try(ctx, func() error {
		f, err = o.begin(ctx, url, n)
		return err
	})
	return f, known(err)
}

// known gives an error of the network a name that others know. What it returns is no
// io.EOF, which a connection may end with but a file must not.
func known(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the connection was closed", media.ErrUnavailable)
	}
	for _, target := range []error{nil, media.ErrNotFound, media.ErrDenied, media.ErrUnavailable,
		media.ErrChanged, media.ErrClosed, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, target) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", media.ErrUnavailable, err)
}

// begin asks for the first bytes of a file, and finds out from the answer how it can be
// read. Not HEAD: signed URLs are good for GET alone.
func (o *origin) begin(ctx context.Context, url string, n int64) (file, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	f, err := o.beginIn(life, end, url, n)
	if !stop() { // ctx ended, and the file with it
		if err == nil {
			f.Close()
		}
		return nil, ctx.Err()
	}
	if err != nil {
		end()
	}
	return f, err
}

func (o *origin) beginIn(life context.Context, end context.CancelFunc, url string, n int64) (file, error) {
	r, err := o.get(life, url, 0, n)
	if err != nil {
		return nil, err
	}
	if r.StatusCode == http.StatusOK {
		return newSpool(r, end)
	}
	defer r.Close()
	got, size, err := r.contentRange(0)
	if err != nil {
		return nil, err
	}
	p := make([]byte, min(got, n))
	if _, err := io.ReadFull(r, p); err != nil {
		return nil, err
	}
	f := &ranged{origin: o, url: url, is: r.version(size), life: life, end: end, turn: make(chan struct{}, 1)}
	f.first = piece{0, p}
	f.pieces = append(f.pieces, f.first)
	return f, nil
}

// again opens the same version of the file once more, without a request.
func (f *ranged) again(ctx context.Context) *ranged {
	g := &ranged{origin: f.origin, url: f.url, is: f.is, first: f.first, turn: make(chan struct{}, 1)}
	g.life, g.end = context.WithCancel(context.WithoutCancel(ctx))
	g.pieces = append(g.pieces, g.first)
	return g
}

// A ranged file is read in ranges.
type ranged struct {
	origin *origin
	url    string
	is     version
	life   context.Context
	end    context.CancelFunc
	first  piece // what it began with; others may have it too

	turn   chan struct{} // has room for the one who may use pieces
	pieces []piece       // the last used last
}

// A piece is some bytes of a file.
type piece struct {
	off int64
	p   []byte
}

func (f *ranged) version() string { return f.is.String() }

// Size implements media.File.
func (f *ranged) Size() int64 { return f.is.size }

// Close implements container.File.
func (f *ranged) Close() error {
	f.end()
	return nil
}

// ReadAt implements media.File.
func (f *ranged) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.life, cancel)()
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, f.ended(ctx.Err())
	}
	defer func() { <-f.turn }()
	n := 0
	for n < len(p) && off < f.is.size {
		piece, err := f.piece(ctx, off, int64(len(p)-n))
		if err != nil {
			return n, f.ended(known(err))
		}
		m := copy(p[n:], piece.p[off-piece.off:])
		n, off = n+m, off+int64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// ended returns what an error is after Close.
func (f *ranged) ended(err error) error {
	if f.life.Err() != nil {
		return media.ErrClosed
	}
	return err
}

// piece returns a piece that has the byte off, and where it is read now, up to need bytes from there.
func (f *ranged) piece(ctx context.Context, off, need int64) (piece, error) {
	size := int64(minPiece)
	for i, p := range f.pieces {
		end := p.off + int64(len(p.p))
		if p.off <= off && off < end {
			f.pieces = append(slices.Delete(f.pieces, i, i+1), p)
			return p, nil
		}
		if off == end {
			size = 2 * int64(len(p.p))
		}
	}
	size = min(max(size, need), maxPiece, f.is.size-off)
	p := piece{off: off}
	if len(f.pieces) == maxPieces {
		if f.pieces[0].off > 0 {
			p.p = f.pieces[0].p // nobody has it any more
		}
		f.pieces = f.pieces[1:]
	}
	if int64(cap(p.p)) < size {
		p.p = make([]byte, size)
	}
	p.p = p.p[:size]
	for n := int64(0); n < size; {
		err := f.origin.try(ctx, func() error {
			m, err := f.fetch(ctx, p.p[n:], off+n)
			n += int64(m)
			if m >= pace { // worth the request: go on from there
				return nil
			}
			return err
		})
		if err != nil {
			return piece{}, err
		}
	}
	f.pieces = append(f.pieces, p)
	return p, nil
}

// fetch reads at least one byte at off, or fails.
func (f *ranged) fetch(ctx context.Context, p []byte, off int64) (int, error) {
	r, err := f.origin.get(ctx, f.url, off, int64(len(p)))
	if err != nil {
		var status statusError
		if errors.As(err, &status) && status == http.StatusRequestedRangeNotSatisfiable {
			return 0, fmt.Errorf("%w: byte %d is there no more", media.ErrChanged, off)
		}
		return 0, err
	}
	defer r.Close()
	if r.StatusCode == http.StatusOK { // from byte 0
		if now := r.version(r.ContentLength); !f.is.same(now) {
			return 0, fmt.Errorf("%w: it was %v, now it is %v", media.ErrChanged, f.is, now)
		}
		return 0, fmt.Errorf("%w: it has no range, but earlier ones had", errAnswer)
	}
	n, size, err := r.contentRange(off)
	if err != nil {
		return 0, err
	}
	if now := r.version(size); !f.is.same(now) {
		return 0, fmt.Errorf("%w: it was %v, now it is %v", media.ErrChanged, f.is, now)
	}
	return io.ReadFull(r, p[:min(n, int64(len(p)))])
}
