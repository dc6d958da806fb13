// A file at an origin without ranges: read once from front to back, by way of a
// temporary file.

package readerhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/mediad/mediad/core/media"
)

// A spool is a file that is on its way. Reads wait for what they ask for.
type spool struct {
	origin *origin
	is     version
	end    context.CancelFunc
	temp   *os.File // has no name any more
	taken  int64    // of the origin's spool; fill's until done

	mu   sync.Mutex
	n    int64         // bytes that are there
	err  error         // why there are no more; io.EOF at the end
	more chan struct{} // closed when the two change

	close sync.Once
	done  chan struct{} // closed when the reply is
}

// newSpool returns the file of a reply, which it closes; end ends the reply.
func newSpool(r *reply, end context.CancelFunc) (*spool, error) {
	s := &spool{
		origin: r.origin, is: r.version(r.ContentLength), end: end,
		more: make(chan struct{}), done: make(chan struct{}),
	}
	if err := s.open(); err != nil {
		r.Close()
		return nil, err
	}
	go s.fill(r)
	return s, nil
}

// open makes the temporary file, unless what comes is too large for it.
func (s *spool) open() (err error) {
	if s.is.size > s.origin.spool {
		return s.tooLarge()
	}
	if s.temp, err = os.CreateTemp("", "mediad-spool-"); err != nil {
		return fmt.Errorf("%w: %w", media.ErrUnavailable, err)
	}
	return os.Remove(s.temp.Name())
}

func (s *spool) tooLarge() error {
	return fmt.Errorf("%w: it has no ranges, and the file does not fit into the %d bytes of the setting spool", errAnswer, s.origin.spool)
}

// fill reads the reply to its end.
func (s *spool) fill(r *reply) {
	defer close(s.done)
	defer r.Close()
	buf := make([]byte, pace)
	for err := error(nil); err == nil; {
		var n int
		n, err = r.Read(buf)
		s.taken += int64(n)
		if s.origin.spooled.Add(int64(n)) > s.origin.spool {
			n, err = 0, s.tooLarge()
		}
		if _, failed := s.temp.Write(buf[:n]); failed != nil {
			n, err = 0, fmt.Errorf("%w: %w", media.ErrUnavailable, failed)
		}
		s.mu.Lock()
		s.n += int64(n)
		s.err = err
		close(s.more)
		s.more = make(chan struct{})
		s.mu.Unlock()
	}
}

// wait waits until there are size bytes, or no more.
func (s *spool) wait(ctx context.Context, size int64) error {
	for {
		s.mu.Lock()
		n, err, more := s.n, s.err, s.more
		s.mu.Unlock()
		if n >= size {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ReadAt implements media.File. When no more comes it returns what is there, and why.
func (s *spool) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	why := s.wait(ctx, off+int64(len(p)))
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	n, err := s.temp.ReadAt(p, off)
	switch {
	case errors.Is(err, os.ErrClosed), errors.Is(why, context.Canceled):
		return 0, media.ErrClosed
	case errors.Is(err, io.EOF) && why != nil && !errors.Is(why, io.EOF):
		err = known(why)
	}
	return n, err
}

// Size implements media.File.
func (s *spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.err, io.EOF) {
		return s.n
	}
	return s.is.size
}

func (s *spool) version() string { return s.is.String() }

// Close implements container.File.
func (s *spool) Close() (err error) {
	s.close.Do(func() {
		s.end()
		<-s.done
		s.origin.spooled.Add(-s.taken)
		err = s.temp.Close()
	})
	return err
}
