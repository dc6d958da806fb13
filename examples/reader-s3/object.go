// One version of an object, read in large blocks and ahead of the play.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/mediad/mediad/core/media"
	"github.com/minio/minio-go/v7"
)

// The blocks that an object is read in: small ones here and there, twice as large each
// time one follows on another.
const (
	minBlock  = 128 << 10
	maxBlock  = 1 << 20
	maxBlocks = 6 // that are kept: before, at and ahead of two places, since audio and video may lie apart
)

var errSlow = fmt.Errorf("%w: the server is too slow", media.ErrUnavailable)

// An object is a container.File.
type object struct {
	reader *reader
	key    string
	etag   string
	size   int64

	life     context.Context // until Close
	end      context.CancelFunc
	fetching sync.WaitGroup

	mu     sync.Mutex
	blocks []*block // the last used last
}

// A block is a range of an object that is there, or on its way.
type block struct {
	off, size int64
	done      chan struct{} // closed when p or err is set
	p         []byte
	err       error
}

func (r *reader) newObject(info minio.ObjectInfo) *object {
	o := &object{reader: r, key: info.Key, etag: info.ETag, size: info.Size}
	o.life, o.end = context.WithCancel(context.Background())
	return o
}

func (o *object) String() string { return o.key + " in bucket " + o.reader.settings.Bucket }

// Size implements media.File.
func (o *object) Size() int64 { return o.size }

// Close implements io.Closer.
func (o *object) Close() error {
	o.mu.Lock() // so that no fetch begins after it
	o.end()
	o.mu.Unlock()
	o.fetching.Wait()
	return nil
}

// ReadAt implements media.File. What is on its way when ctx ends stays so.
func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off < o.size {
		b, err := o.block(off, int64(len(p)-n))
		if err != nil {
			return n, err
		}
		select {
		case <-b.done:
		case <-ctx.Done():
			return n, ctx.Err()
		}
		if b.err != nil {
			return n, b.err
		}
		m := copy(p[n:], b.p[off-b.off:])
		n, off = n+m, off+int64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// block returns the block that has the byte off, where need bytes are to be read. If none
// has, one is begun; if it follows on another, so is the one after it.
func (o *object) block(off, need int64) (*block, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.life.Err() != nil {
		return nil, media.ErrClosed
	}
	b, before := o.find(off)
	switch {
	case b != nil:
		_, before = o.find(b.off)
	case before != nil:
		b = o.begin(off, max(2*before.size, need))
	default:
		b = o.begin(off, max(minBlock, need))
	}
	o.use(b)
	end := b.off + b.size
	switch ahead, _ := o.find(end); {
	case ahead != nil:
		o.use(ahead)
	case before != nil && end < o.size:
		o.begin(end, 2*b.size)
	}
	return b, nil
}

// find returns the block with the byte off, and the one that ends before it.
func (o *object) find(off int64) (b, before *block) {
	for _, have := range o.blocks {
		switch end := have.off + have.size; {
		case have.off <= off && off < end:
			b = have
		case end == off:
			before = have
		}
	}
	return b, before
}

// use makes b the last used.
func (o *object) use(b *block) {
	i := slices.Index(o.blocks, b)
	o.blocks = append(slices.Delete(o.blocks, i, i+1), b)
}

// begin begins to fetch a block, which takes the place of the one that was used longest ago.
func (o *object) begin(off, size int64) *block {
	b := &block{off: off, size: min(size, maxBlock, o.size-off), done: make(chan struct{})}
	if len(o.blocks) == maxBlocks {
		o.blocks = slices.Delete(o.blocks, 0, 1)
	}
	o.blocks = append(o.blocks, b)
	o.fetching.Go(func() {
		defer close(b.done)
		if b.p, b.err = o.fetch(b.off, b.size); b.err != nil {
			o.forget(b)
		}
	})
	return b
}

// forget makes room for another try.
func (o *object) forget(b *block) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blocks = slices.DeleteFunc(o.blocks, func(have *block) bool { return have == b })
}

// fetch reads size bytes at off.
func (o *object) fetch(off, size int64) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(o.life, o.reader.settings.Timeout, errSlow)
	defer cancel()
	p := make([]byte, size)
	n, err := 0, error(nil)
	for range attempts {
		var m int
		m, err = o.get(ctx, p[n:], off+int64(n))
		if n += m; n == len(p) {
			return p, nil
		}
		if err = known(ctx, err); !errors.Is(err, media.ErrUnavailable) {
			break
		}
	}
	switch {
	case o.life.Err() != nil:
		return nil, media.ErrClosed
	case errors.Is(err, media.ErrNotFound):
		return nil, fmt.Errorf("%w: it was removed", media.ErrChanged)
	}
	return nil, err
}

// get asks for len(p) bytes at off of this version, and reads them as far as they come.
func (o *object) get(ctx context.Context, p []byte, off int64) (int, error) {
	var opts minio.GetObjectOptions
	if err := errors.Join(opts.SetMatchETag(o.etag), opts.SetRange(off, off+int64(len(p))-1)); err != nil {
		return 0, err
	}
	body, info, header, err := o.reader.client.GetObject(ctx, o.reader.settings.Bucket, o.key, opts)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	if info.ETag != o.etag { // a server that knows no If-Match
		return 0, fmt.Errorf("%w: its ETag was %s and is %s", media.ErrChanged, o.etag, info.ETag)
	}
	if got := header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", off)) {
		return 0, fmt.Errorf("asked for the bytes from %d on, the server answers with the range %q", off, got)
	}
	return io.ReadFull(body, p)
}

// known gives what a request of ctx failed with a name that the daemon knows. It hides
// what err wraps: an io.EOF of a connection is not the end of an object.
func known(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, media.ErrChanged) {
		return err
	}
	name := media.ErrUnavailable
	switch minio.ToErrorResponse(err).StatusCode {
	case http.StatusNotFound:
		name = media.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		name = media.ErrDenied
	case http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable:
		name = media.ErrChanged
	}
	return fmt.Errorf("%w: %v", name, err) //nolint:errorlint // see above
}
