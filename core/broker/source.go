// A source of recorded media that survives the input it came from.

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/mediad/mediad/core/media"
)

// source reads from one input, and when that fails in the middle from another
// that has the same version of the media, from the very frame on. Batches may be
// divided in other places there, so it counts frames.
type source struct {
	b    *broker
	req  media.OpenRequest
	info media.Info

	// What Next alone uses.
	in     *input
	at     media.Place
	broken error // why the source is to be replaced; nil when it is not
	tries  int   // replacements since the last batch

	life context.Context // ends with Close
	end  context.CancelFunc
	mu   sync.Mutex
	src  media.Source // replaced by Next, closed by Close
}

func newSource(b *broker, req media.OpenRequest, src media.Source, in *input) *source {
	s := &source{b: b, req: req, info: src.Info(), in: in, src: src, at: media.NewPlace(req.From)}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

func (s *source) Info() media.Info { return s.info }

func (s *source) Close() error {
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.src.Close()
}

// Buffered is that of the input's source.
func (s *source) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.src.(media.Buffered); ok && s.broken == nil {
		return b.Buffered()
	}
	return 0
}

// Outline is that of the input's source.
func (s *source) Outline(ctx context.Context, add func(*media.Header, media.Frame, int) error) error {
	s.mu.Lock()
	src := s.src
	s.mu.Unlock()
	return media.Outline(ctx, src, add)
}

func (s *source) Next(ctx context.Context) (*media.Batch, error) {
	for {
		if s.life.Err() != nil {
			return nil, media.ErrClosed
		}
		if s.broken != nil {
			batch, err := s.resume(ctx)
			if err != nil {
				return nil, err
			}
			s.broken = nil
			if batch != nil {
				return s.pass(batch), nil
			}
		}
		batch, err := s.src.Next(ctx)
		switch {
		case err == nil:
			return s.pass(batch), nil
		case errors.Is(err, io.EOF), ctx.Err() != nil, s.life.Err() != nil, !s.resumable(err):
			return nil, err
		}
		s.b.failed(s.in, s.info.Name, err)
		s.broken = err
		s.tries++
	}
}

func (s *source) pass(batch *media.Batch) *media.Batch {
	s.at.Pass(batch)
	s.tries = 0
	return batch
}

// resumable reports whether another input may do better: content that is known
// to be another, and a position that cannot be found again, end the source.
func (s *source) resumable(err error) bool {
	cause := causeOf(err)
	return (cause == unavailable || cause == failed) && !errors.Is(err, media.ErrChanged) && !errors.Is(err, media.ErrClosed) &&
		!s.at.Lost && s.tries < len(s.b.inputs)
}

// resume opens the media at their place from the best input that has the same
// version, and reads up to it. The batch that it returns is what is left
// of the one in which the place lies, nil when it lies between two.
func (s *source) resume(ctx context.Context) (*media.Batch, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()

	req := s.req
	req.From, req.RecordedOnly = s.at.From, true
	reason := s.broken
	for _, c := range s.b.ask(ctx, req) {
		if c.err != nil {
			continue
		}
		src, batch, err := s.reopen(ctx, c.in, req)
		if err == nil {
			if err := s.replace(src); err != nil {
				return nil, err
			}
			s.b.log.Warn("source failed, resumed", "name", s.info.Name, "input", s.in.Name, "by", c.in.Name, "at", s.at.DTS(), "error", s.broken)
			s.b.metrics.resumes.Inc()
			s.in = c.in
			return batch, nil
		}
		if ctx.Err() != nil {
			if s.life.Err() != nil {
				return nil, media.ErrClosed
			}
			return nil, ctx.Err()
		}
		s.b.failed(c.in, s.info.Name, err)
		reason = fmt.Errorf("%w; %s cannot go on with it: %s", reason, c.in.Name, err.Error())
	}
	return nil, fmt.Errorf("read %s from %s: %w", s.info.Name, s.in.Name, reason)
}

func (s *source) reopen(ctx context.Context, in *input, req media.OpenRequest) (media.Source, *media.Batch, error) {
	src, err := in.Reader.Open(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	if v := src.Info().Version; v != s.info.Version {
		err = fmt.Errorf("%w: it has version %q, not %q", media.ErrChanged, v, s.info.Version)
	}
	var batch *media.Batch
	if err == nil {
		batch, _, err = s.at.Find(ctx, src)
	}
	if err != nil {
		_ = src.Close()
		return nil, nil, err
	}
	return src, batch, nil
}

// replace puts src in the place of the source that failed.
func (s *source) replace(src media.Source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		_ = src.Close()
		return media.ErrClosed
	}
	_ = s.src.Close()
	s.src = src
	return nil
}
