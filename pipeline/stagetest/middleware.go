// Checks of a stage that reads from a reader and is one: a cache, a broker.

package stagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A Middleware makes the stage to be checked over an upstream reader, and
// returns how to end it.
type Middleware func(upstream media.Reader) (r media.Reader, stop func() error, err error)

// CheckMiddleware checks a reader of readers and tells report, which may be nil,
// of each check.
func CheckMiddleware(ctx context.Context, m Middleware, report func(name string, err error)) error {
	return run(ctx, middlewareChecks(), m, report)
}

// middlewareChecks are the checks of a reader, over an upstream that works, and
// what must hold over one that does not.
func middlewareChecks() []Check[Middleware] {
	var list []Check[Middleware]
	for _, c := range readerChecks {
		list = append(list, Check[Middleware]{c.Name, func(ctx context.Context, m Middleware) error {
			return m.over(library(), func(r media.Reader) error {
				return c.Run(ctx, Reader{r, "film", "missing"})
			})
		}})
	}
	return append(list,
		Check[Middleware]{"empty media", checkEmpty},
		Check[Middleware]{"an upstream that refuses", checkRefusing},
		Check[Middleware]{"an upstream that fails midway, then heals", checkFailing},
		Check[Middleware]{"an upstream that is slow", checkSlow},
		Check[Middleware]{"an upstream that ends early", checkShort},
	)
}

func library() Library {
	film := Film(6, 300)
	return Library{"film": film, "short": film[:2], "empty": nil}
}

// over runs the check on a stage over upstream, and ends the stage.
func (m Middleware) over(upstream media.Reader, check func(r media.Reader) error) error {
	r, stop, err := m(upstream)
	if err != nil {
		return err
	}
	return errors.Join(check(r), stop())
}

func checkEmpty(ctx context.Context, m Middleware) error {
	return m.over(library(), func(r media.Reader) error {
		batches, _, err := readAll(ctx, Reader{Reader: r, Name: "empty"}, 0)
		if err == nil && len(batches) > 0 {
			return fmt.Errorf("%d batches came from nowhere", len(batches))
		}
		return err
	})
}

func checkShort(ctx context.Context, m Middleware) error {
	return m.over(library(), func(r media.Reader) error {
		batches, _, err := readAll(ctx, Reader{Reader: r, Name: "short"}, 0)
		if err == nil && len(batches) != 2 {
			return fmt.Errorf("%d batches came, want 2", len(batches))
		}
		return err
	})
}

func checkRefusing(ctx context.Context, m Middleware) error {
	for _, kind := range []error{media.ErrNotFound, media.ErrDenied, media.ErrUnavailable} {
		upstream := &faulty{Library: library(), refuse: kind}
		err := m.over(upstream, func(r media.Reader) error {
			src, err := r.Open(ctx, media.OpenRequest{Name: "film"})
			if err == nil { // it may open late
				_, err = src.Next(ctx)
				src.Close()
			}
			return want(kind, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// healing is how long a stage may go on failing after its upstream has healed.
const healing = 5 * time.Second

// checkFailing lets each source of the upstream fail after two batches. What
// comes is right up to the failure, which is not remembered once the upstream has healed.
func checkFailing(ctx context.Context, m Middleware) error {
	upstream := &faulty{Library: library()}
	upstream.failAt.Store(3)
	return m.over(upstream, func(r media.Reader) error {
		src, err := r.Open(ctx, media.OpenRequest{Name: "film"})
		if err != nil {
			return err
		}
		got, err := rest(ctx, src)
		src.Close()
		whole := upstream.Library["film"]
		if err == nil && len(got) < len(whole) {
			return fmt.Errorf("after %d of %d batches the media ended well", len(got), len(whole))
		}
		if hash(got) != hash(whole[:len(got)]) { // the stage may have read on by itself
			return fmt.Errorf("of the %d batches that came some are not the upstream's", len(got))
		}
		upstream.failAt.Store(0)
		for deadline := time.Now().Add(healing); ; { // it may back off for a while
			got, _, err = readAll(ctx, Reader{Reader: r, Name: "film"}, 0)
			if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			return fmt.Errorf("the upstream has healed, but: %w", err)
		}
		if hash(got) != hash(whole) {
			return errors.New("the upstream has healed, but other batches come")
		}
		return nil
	})
}

// checkSlow lets a Next of the upstream wait. A viewer's Next ends with its context
// all the same, and loses nothing by that.
func checkSlow(ctx context.Context, m Middleware) error {
	upstream := &faulty{Library: library(), gate: make(chan struct{})}
	return m.over(upstream, func(r media.Reader) error {
		opened := make(chan error, 1)
		var src media.Source
		go func() {
			var err error
			src, err = r.Open(ctx, media.OpenRequest{Name: "film"})
			opened <- err
		}()
		select {
		case err := <-opened:
			if err != nil {
				return err
			}
			brief, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			_, err = src.Next(brief)
			cancel()
			if want(context.DeadlineExceeded, err) != nil {
				return fmt.Errorf("Next while the upstream waits: %w", want(context.DeadlineExceeded, err))
			}
			close(upstream.gate)
		case <-time.After(time.Second): // it reads in Open
			close(upstream.gate)
			if err := <-opened; err != nil {
				return err
			}
		}
		defer src.Close()
		got, err := rest(ctx, src)
		if err == nil && hash(got) != hash(upstream.Library["film"]) {
			err = errors.New("other batches came than the upstream has")
		}
		return err
	})
}

// faulty is a library that does not work as it should.
type faulty struct {
	Library
	refuse error         // what Open returns
	failAt atomic.Int64  // the batch, counted from 1, that cannot be read
	gate   chan struct{} // Next waits until it is closed
}

func (f *faulty) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	if f.refuse != nil {
		return nil, fmt.Errorf("%s is refused: %w", req.Name, f.refuse)
	}
	src, err := f.Library.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return &faultySource{Source: src, faulty: f, closed: make(chan struct{})}, nil
}

func (f *faulty) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	if f.refuse != nil {
		return media.Cost{}, fmt.Errorf("%s is refused: %w", req.Name, f.refuse)
	}
	return f.Library.Cost(ctx, req)
}

type faultySource struct {
	media.Source
	faulty *faulty
	read   int64
	closed chan struct{}
	once   atomic.Bool
}

func (s *faultySource) Next(ctx context.Context) (*media.Batch, error) {
	if s.faulty.gate != nil {
		select {
		case <-s.faulty.gate:
		case <-s.closed:
			return nil, media.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	b, err := s.Source.Next(ctx)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	s.read++
	if at := s.faulty.failAt.Load(); at > 0 && s.read >= at {
		return nil, errors.New("the disk is on fire")
	}
	return b, err
}

func (s *faultySource) Close() error {
	if !s.once.Swap(true) {
		close(s.closed)
	}
	return s.Source.Close()
}
