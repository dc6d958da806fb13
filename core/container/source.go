// The source of an open file.

package container

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A File is an open file. Close may be called at any time, more than once, and
// ends the reads that are under way.
type File interface {
	media.File
	io.Closer
}

// A Source reads the batches of an open file.
type Source struct {
	// Near says that the file lies where reading it through costs less than passing on what is
	// in it, as a local one does: where its index has no outline, it may be skimmed for one.
	Near bool

	info   media.Info
	file   File
	index  media.Index
	next   func(context.Context) (*media.Batch, error)
	failed func(error) error
	err    error // what ended the source
	closed atomic.Bool
}

// NewSource returns the source of f, which it closes, from the last join point at
// or before from. failed is told the error that ends the source, once, and returns
// what Next returns for it; it is not told of the end of the file, a context or Close.
func NewSource(info media.Info, f File, index media.Index, from time.Duration, failed func(error) error) *Source {
	info.Start, info.Duration = index.Span()
	return &Source{info: info, file: f, index: index, next: index.Batches(f, from), failed: failed}
}

// Info implements media.Source.
func (s *Source) Info() media.Info { return s.info }

// Next implements media.Source.
func (s *Source) Next(ctx context.Context) (*media.Batch, error) {
	if s.closed.Load() {
		return nil, media.ErrClosed
	}
	if s.err != nil {
		return nil, s.err
	}
	b, err := s.next(ctx)
	switch {
	case err == nil:
		return b, nil
	case s.closed.Load():
		return nil, media.ErrClosed
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !errors.Is(err, io.EOF):
		err = s.failed(err)
	}
	s.err = err
	return nil, err
}

// Outline implements media.Outlined.
func (s *Source) Outline(ctx context.Context, add func(*media.Header, media.Frame, int) error) error {
	switch x := s.index.(type) {
	case interface {
		Outline(func(*media.Header, media.Frame, int) error) error
	}:
		return x.Outline(add)
	case interface {
		Skim(context.Context, media.File, func(*media.Header, media.Frame, int) error) error
	}:
		if s.Near {
			return x.Skim(ctx, s.file, add)
		}
	}
	return errors.ErrUnsupported
}

// Close implements media.Source.
func (s *Source) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.file.Close()
}
