// The ring of a channel: what was broadcast lately, once, for all who watch.

package broadcast

import (
	"time"

	"github.com/mediad/mediad/core/media"
)

// ring is an append-only sequence of batches of which the newest are kept. Each
// batch has a sequence number for good; a reader remembers the number it wants
// next and nothing else.
type ring struct {
	window time.Duration // how much media is kept
	memory int           // how many bytes are kept at the most

	slots       []slot // the batch n stands in slots[n%len(slots)]
	first, next uint64 // the oldest kept, and the number the next one gets
	join        uint64 // the newest join point; valid when it is >= first and < next
	bytes       int
	payload     int    // the part of bytes that is frames
	frames      uint64 // frames appended since the ring began
	total       int    // payload appended since the ring began
	clock       media.Clock
}

type slot struct {
	batch  *media.Batch
	frames uint64 // frames appended before this batch
	total  int    // payload appended before this batch
}

func newRing(window time.Duration, memory int) *ring {
	return &ring{window: window, memory: memory, slots: make([]slot, 64), join: none, clock: media.NoClock}
}

// none is a sequence number that no batch has.
const none = ^uint64(0)

func (r *ring) slot(n uint64) *slot { return &r.slots[n%uint64(len(r.slots))] }

// append adds b and lets go of what is too old. The newest join point is kept
// beyond the window, so that a joiner finds one however long the GOP is, but
// never beyond the memory.
func (r *ring) append(b *media.Batch) {
	if r.next-r.first == uint64(len(r.slots)) {
		r.grow()
	}
	*r.slot(r.next) = slot{b, r.frames, r.total}
	frames := b.Frames()
	r.frames += uint64(len(frames))
	for i := range frames {
		*r.clock.At(frames[i].Track) = frames[i].DTS
	}
	if b.Join() {
		r.join = r.next
	}
	r.next++
	r.bytes += b.Size()
	r.payload += len(b.Slab())
	r.total += len(b.Slab())

	for r.first+1 < r.next {
		old := r.slot(r.first)
		tooOld := b.DTS()-old.batch.DTS() > r.window && (r.join == none || r.first < r.join)
		if !tooOld && r.bytes <= r.memory {
			break
		}
		r.bytes -= old.batch.Size()
		r.payload -= len(old.batch.Slab())
		old.batch = nil
		r.first++
	}
}

// grow doubles the slots; each batch moves to where its number belongs.
func (r *ring) grow() {
	slots := make([]slot, 2*len(r.slots))
	for n := r.first; n < r.next; n++ {
		slots[n%uint64(len(slots))] = *r.slot(n)
	}
	r.slots = slots
}

// newest returns the newest join point.
func (r *ring) newest() (n uint64, ok bool) {
	return r.join, r.join != none && r.join >= r.first
}

// at returns the last join point at or before the time t, and the oldest one
// when t is before that.
func (r *ring) at(t time.Duration) (n uint64, ok bool) {
	n = none
	for i := r.next; i > r.first; i-- {
		b := r.slot(i - 1).batch
		if !b.Join() {
			continue
		}
		n = i - 1
		if b.DTS() <= t {
			break
		}
	}
	return n, n != none
}

// before is how many frames were appended before the batch n, which is kept or
// the one that comes next.
func (r *ring) before(n uint64) uint64 {
	if n == r.next {
		return r.frames
	}
	return r.slot(n).frames
}

// span is the time from the oldest batch to the newest.
func (r *ring) span() time.Duration {
	if r.next == r.first {
		return 0
	}
	return r.slot(r.next-1).batch.DTS() - r.slot(r.first).batch.DTS()
}
