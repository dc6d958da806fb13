// A place in media that can be found again when they are opened anew.

package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Place is a place behind a frame: so many frames after the join point at which
// an Open from a time begins. Frames are counted, since another reader may divide
// batches in other places.
type Place struct {
	// From is what to open to find the place.
	From time.Duration
	// Lost says that time went back, so that no From leads to the place.
	Lost bool

	dts    time.Duration // of the batch that From begins with; None before it is known
	join   bool          // that is a join point; the start of the media need not be one
	frames int           // from there
	last   frameID       // of the last frame before the place
}

// NewPlace returns the place before the first batch of media opened at from.
func NewPlace(from time.Duration) Place { return Place{From: from, dts: None} }

// DTS is that of the last frame before the place, None when there is none.
func (p *Place) DTS() time.Duration {
	if p.dts == None {
		return None
	}
	return p.last.dts
}

// frameID tells a frame from its neighbours.
type frameID struct {
	track    Track
	dts, pts time.Duration
	size     int
}

func idOf(f Frame) frameID { return frameID{f.Track, f.DTS, f.PTS, len(f.Body)} }

// Pass moves the place behind b. Of several join points at one time an Open
// begins at the last.
func (p *Place) Pass(b *Batch) {
	switch {
	case p.dts == None:
		p.dts, p.join = b.DTS(), b.Join()
		if p.join && (p.dts <= p.From || p.From < 0) {
			p.From = p.dts
		}
	case !b.Join():
	case b.DTS() < p.dts:
		p.Lost = true
	case b.DTS() > p.dts || p.join:
		p.From, p.dts, p.join, p.frames = b.DTS(), b.DTS(), true, 0
	}
	frames := b.Frames()
	p.frames += len(frames)
	p.last = idOf(frames[len(frames)-1])
}

// Find reads src, opened at p.From, up to the place. It returns what is left of the
// batch in which that lies, nil when it lies between two. Live media that do not
// have the place any more go on at the next join point, which is a gap; recorded
// media that do not have it are an error that wraps ErrChanged.
func (p *Place) Find(ctx context.Context, src Source) (rest *Batch, gap bool, err error) {
	if p.dts == None {
		return nil, false, nil // nothing has been read
	}
	b, err := nextBefore(ctx, src)
	if err != nil {
		return nil, false, err
	}
	if b.DTS() != p.dts {
		if !src.Info().Live {
			return nil, false, fmt.Errorf("%w: it starts at %v, not at %v", ErrChanged, b.DTS(), p.dts)
		}
		for !b.Join() || b.DTS() <= p.last.dts {
			if b, err = nextBefore(ctx, src); err != nil {
				return nil, false, err
			}
		}
		return b, true, nil
	}
	clock := b.Prev()
	for left := p.frames; ; {
		frames := b.Frames()
		n := min(left, len(frames))
		for _, f := range frames[:n] {
			*clock.At(f.Track) = f.DTS
		}
		if left -= n; left > 0 {
			if b, err = nextBefore(ctx, src); err != nil {
				return nil, false, err
			}
			continue
		}
		if idOf(frames[n-1]) != p.last {
			return nil, false, fmt.Errorf("%w: another frame is at %v", ErrChanged, p.last.dts)
		}
		if n == len(frames) {
			return nil, false, nil
		}
		return NewBatch(b.Header(), clock, frames[n:]...), false, nil
	}
}

// nextBefore is Next where the end must not come yet.
func nextBefore(ctx context.Context, src Source) (*Batch, error) {
	b, err := src.Next(ctx)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends before the place", ErrChanged)
	}
	return b, err
}
