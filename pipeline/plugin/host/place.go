// A place in media that can be found again when they are opened anew.

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mediad/mediad/core/media"
)

// place is a place behind a frame: so many frames after the join point at which an
// open from a time begins. Frames are counted, since another process may divide
// batches in other places.
type place struct {
	from   time.Duration // what to open
	dts    time.Duration // of the batch that this begins with; None before it is known
	join   bool          // that is a join point; the start of the media need not be one
	frames int           // from there
	last   frameID       // of the last frame before the place
	lost   bool          // time went back, so no time leads to the last join point
}

// frameID tells a frame from its neighbours.
type frameID struct {
	track    media.Track
	dts, pts time.Duration
	size     int
}

func idOf(f media.Frame) frameID { return frameID{f.Track, f.DTS, f.PTS, len(f.Body)} }

// pass moves the place behind b. Of several join points at one time an open
// begins at the last.
func (p *place) pass(b *media.Batch) {
	switch {
	case p.dts == media.None:
		p.dts, p.join = b.DTS(), b.Join()
		if p.join {
			p.from = p.dts
		}
	case !b.Join():
	case b.DTS() < p.dts:
		p.lost = true
	case b.DTS() > p.dts || p.join:
		p.from, p.dts, p.join, p.frames = b.DTS(), b.DTS(), true, 0
	}
	frames := b.Frames()
	p.frames += len(frames)
	p.last = idOf(frames[len(frames)-1])
}

// find reads src, opened at p.from, up to the place. It returns what is left of the batch
// in which that lies, nil when it lies between two. Live media that do not have the
// place any more go on at the next join point, which is a gap.
func (p *place) find(ctx context.Context, src media.Source, live bool) (rest *media.Batch, gap bool, err error) {
	if p.dts == media.None {
		return nil, false, nil // nothing has been read
	}
	b, err := p.next(ctx, src)
	if err != nil {
		return nil, false, err
	}
	if b.DTS() != p.dts {
		if !live {
			return nil, false, fmt.Errorf("%w: it starts at %v, not at %v", media.ErrChanged, b.DTS(), p.dts)
		}
		for !b.Join() || b.DTS() <= p.last.dts {
			if b, err = p.next(ctx, src); err != nil {
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
			if b, err = p.next(ctx, src); err != nil {
				return nil, false, err
			}
			continue
		}
		if idOf(frames[n-1]) != p.last {
			return nil, false, fmt.Errorf("%w: another frame is at %v", media.ErrChanged, p.last.dts)
		}
		if n == len(frames) {
			return nil, false, nil
		}
		return media.NewBatch(b.Header(), clock, frames[n:]...), false, nil
	}
}

func (p *place) next(ctx context.Context, src media.Source) (*media.Batch, error) {
	b, err := src.Next(ctx)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends before the place", media.ErrChanged)
	}
	return b, err
}
