// Where one source of a channel ends and the next begins: the timeline goes on, and
// nothing is there twice.

package broadcast

import (
	"bytes"
	"time"

	"github.com/mediad/mediad/core/media"
)

const (
	// step is from the last frame of a channel to the first of a source whose
	// own time lies behind that.
	step = time.Millisecond
	// A track that runs back by more than this within a source has begun anew.
	// Less is a badly sorted file.
	maxBack = time.Second
)

// splice puts the batches of a source behind what the ring has. It begins anew with
// each source; the shift of the one before is kept, for it may be the same again.
type splice struct {
	floor   time.Duration // the source begins here or later, None for anywhere
	repeats bool          // it may begin with frames that the ring has

	shift  time.Duration // added to all times of the source
	joined bool          // its first new frame is in the ring
	known  bool          // the ring had the frames before it
}

// A seam is what became of the first new frame of a source.
type seam uint8

const (
	noSeam  seam = iota
	smooth       // it follows the last frame of the ring
	gap          // it begins behind that: frames are missing, or it is another publisher's
	shifted      // it lay behind, and was shifted
)

// begin starts with a source.
func (s *splice) begin() { s.joined, s.known = false, false }

// take returns what is new of b, nil when nothing is, and the seam if b made one.
func (s *splice) take(r *ring, b *media.Batch) (*media.Batch, seam) {
	first := &b.Frames()[0]
	last := *r.clock.At(first.Track)
	if s.joined && (last == media.None || first.DTS+s.shift >= last-maxBack) {
		return move(b, s.shift), noSeam
	}
	moved := move(b, s.shift)
	if s.repeats {
		n := 0
		for n < len(moved.Frames()) && r.has(moved.Frames()[n]) {
			n++
		}
		s.known = s.known || n > 0
		if moved = after(moved, n); moved == nil {
			return nil, noSeam
		}
	}
	s.joined = true
	if s.known && moved.DTS() >= *r.clock.At(moved.Frames()[0].Track) {
		return moved, smooth
	}
	least := max(s.floor, r.clock.Max()+step)
	back := moved.DTS() - s.shift // in the source's own time
	switch {
	case r.next == 0 && back >= least:
		return moved, smooth
	case back >= least:
		moved, s.shift = move(moved, -s.shift), 0
		return moved, gap
	case moved.DTS() >= least:
		return moved, gap
	}
	moved, s.shift = move(moved, least-moved.DTS()), least-back
	return moved, shifted
}

// move returns b with all times moved by d.
func move(b *media.Batch, d time.Duration) *media.Batch {
	if d == 0 {
		return b
	}
	clock := b.Prev()
	for _, t := range []*time.Duration{&clock.Audio, &clock.Video, &clock.Data} {
		if *t != media.None {
			*t += d
		}
	}
	frames := make([]media.Frame, len(b.Frames()))
	for i, f := range b.Frames() {
		f.DTS += d
		f.PTS += d
		frames[i] = f
	}
	return media.NewBatch(b.Header(), clock, frames...)
}

// after returns what follows the first n frames of b, nil when nothing does.
func after(b *media.Batch, n int) *media.Batch {
	frames := b.Frames()
	switch n {
	case 0:
		return b
	case len(frames):
		return nil
	}
	clock := b.Prev()
	for _, f := range frames[:n] {
		*clock.At(f.Track) = f.DTS
	}
	return media.NewBatch(b.Header(), clock, frames[n:]...)
}

// has reports whether the ring keeps the very frame f.
func (r *ring) has(f media.Frame) bool {
	for n := r.next; n > r.first; n-- {
		for _, g := range r.slot(n - 1).batch.Frames() {
			if g.Track == f.Track && g.DTS == f.DTS && g.PTS == f.PTS && bytes.Equal(g.Body, f.Body) {
				return true
			}
		}
	}
	return false
}
