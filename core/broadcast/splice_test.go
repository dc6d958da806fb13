package broadcast

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// from is frames first..last-1 of a source whose clock is off by so much.
func from(off time.Duration, first, last int) (list []*media.Batch) {
	for n := first; n < last; n++ {
		list = append(list, move(frame(n), off))
	}
	return list
}

const frameTime = 40 * time.Millisecond

func TestSplice(t *testing.T) {
	for _, c := range []struct {
		name   string
		second []*media.Batch
		want   int // frames of it that are new
		at     time.Duration
		seam   seam
	}{
		{"from where it was", from(0, 20, 35), 5, 30 * frameTime, smooth},
		{"a parent that is behind", from(0, 10, 35), 5, 30 * frameTime, smooth},
		{"right after", from(0, 30, 35), 5, 30 * frameTime, gap},
		{"after a gap", from(0, 40, 45), 5, 40 * frameTime, gap},
		{"another, ahead", from(time.Hour, 0, 5), 5, time.Hour, gap},
		{"its time begins anew", renamed(from(0, 0, 5)), 5, 29*frameTime + step, shifted},
		{"a skewed clock", renamed(from(-300*time.Millisecond, 30, 35)), 5, 29*frameTime + step, shifted},
	} {
		r := newRing(time.Minute, 1<<20)
		s := splice{repeats: true, floor: media.None}
		var all []*media.Batch
		took := func(list []*media.Batch) (seams []seam) {
			s.begin()
			for _, b := range list {
				b, seam := s.take(r, b)
				if seam != noSeam {
					seams = append(seams, seam)
				}
				if b != nil {
					r.append(b)
					all = append(all, b)
				}
			}
			return seams
		}
		took(from(0, 0, 30))
		seams := took(c.second)
		if len(all)-30 != c.want {
			t.Errorf("%s: %d frames of it were taken, want %d", c.name, len(all)-30, c.want)
			continue
		}
		if len(seams) != 1 || seams[0] != c.seam || all[30].DTS() != c.at {
			t.Errorf("%s: it begins at %v with the seams %v, want %v and %v", c.name, all[30].DTS(), seams, c.at, c.seam)
		}
	}
}

// renamed are batches of the same times with other frames.
func renamed(list []*media.Batch) (out []*media.Batch) {
	for _, b := range list {
		f := b.Frames()[0]
		f.Body = append([]byte("other "), f.Body...)
		out = append(out, media.NewBatch(b.Header(), b.Prev(), f))
	}
	return out
}

// Whatever the sources are, a channel's time only goes on and no frame comes twice.
func TestSpliceOnlyGoesOn(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 5))
		r := newRing(10*time.Second, 1<<20)
		s := splice{repeats: true, floor: media.None}
		off := time.Duration(rng.IntN(10000)) * time.Millisecond // of the present timeline
		began, next := 0, 0                                      // its first frame that is kept anywhere, and the one after its last
		last := media.None
		came := map[string]bool{}
		for range 20 {
			if rng.IntN(3) == 0 { // another timeline
				off = time.Duration(rng.IntN(10000)) * time.Millisecond
				began, next = next/10*10+10, next/10*10+10
			}
			first := began + rng.IntN(next-began+1)/10*10
			end := max(next, first) + rng.IntN(40)
			s.begin()
			for _, b := range from(off-time.Duration(began)*frameTime, first, end) {
				b, _ := s.take(r, b)
				if b == nil {
					continue
				}
				name := string(b.Frames()[0].Body)
				if b.DTS() <= last || came[name] {
					t.Fatalf("seed %d: %s at %v comes after %v, again: %v", seed, name, b.DTS(), last, came[name])
				}
				came[name], last = true, b.DTS()
				r.append(b)
			}
			next = end
		}
	}
}
