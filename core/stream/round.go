// Rounds: how live media are written to many viewers at once.
//
// A viewer who has been sent all there is goes along in a round: one goroutine
// that writes what is new to hundreds of viewers, one after another and never
// waiting for any. To wake a goroutine for each viewer and frame would cost as
// much as the writing, and to keep one takes more memory than all else of a player: so the
// goroutine of a player ends when it boards a round. A player whose client does not
// keep up, or who has anything else to do, leaves the round and has a goroutine again.

package stream

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// A Feed is a Source that many read at the same place, such as a cursor of a
// broadcast.
type Feed interface {
	media.Source
	media.Buffered
	// Feed is the same for all who read the same, and can be compared.
	Feed() any
	// Ready is closed once there is something that was not there at the time of
	// the call, be it a batch or the end.
	Ready() <-chan struct{}
	// Take appends what there is to dst. It fails, having taken nothing, when it
	// cannot go on as Next would: at the end, or where frames are skipped.
	Take(dst []*media.Batch) ([]*media.Batch, error)
}

// A Prompt is a Viewer that can write without waiting.
type Prompt interface {
	Viewer
	// Try is Write, but returns false when the client's socket has not taken
	// everything. Write writes what is left, before anything else; it may be
	// called with no batches for that alone.
	Try(batches []*media.Batch) (done bool, err error)
}

const (
	// A frame waits for others this many times as long as a round takes beyond
	// freeRound, but no longer than longestHold: they are written together then.
	// So few viewers get each frame at once, and of many each gets several with
	// one system call.
	holdFactor  = 10
	freeRound   = time.Millisecond
	longestHold = 30 * time.Millisecond
	// dryAfter is how long nothing comes before viewers are told so.
	dryAfter = 5 * time.Second
	// fullRound is the number of viewers from which it pays to begin another
	// round, for another processor.
	fullRound = 64
)

// rounds are those of a stage, which waits for them when its players have ended.
type rounds struct {
	latency Latency
	metrics *metrics
	running sync.WaitGroup

	mu sync.Mutex
	of map[any][]*round // by what Feed returns
}

// A round is a number of viewers that watch the same.
type round struct {
	feed    any // what its players watch: the key in rounds.of
	latency Latency
	metrics *metrics
	size    int           // players that board or ride; guarded by rounds.mu
	empty   chan struct{} // closed when the last has left
	boarded chan struct{} // holds one, after a player has boarded

	mu     sync.Mutex // held while writing: riders belong to the round's goroutine then
	riders []*player

	took          time.Duration  // by writing, on average
	batches       []*media.Batch // taken for the player at hand
	last, merged  []*media.Batch // what merge was given and has returned
	frames, bytes int            // written, not yet counted
}

// rides reports whether what comes next can be sent in a round.
func (p *player) rides() bool {
	return p.feed != nil && p.batch == nil && !p.jump && p.until == forever &&
		p.through == media.NoClock && p.feed.Buffered() == 0
}

// board has what is new of p.feed sent in a round. The goroutine of p ends with it, and is
// begun again once p has left the round: at an event, or where the rest is p's own to do.
func (p *player) board() {
	r := p.stage.rounds.join(p.feed.Feed())
	r.mu.Lock()
	defer r.mu.Unlock()
	p.round = r
	r.riders = append(r.riders, p)
	p.stay = context.AfterFunc(p.calm, func() {
		r.remove(p)
		p.run()
	})
	select {
	case r.boarded <- struct{}{}:
	default:
	}
}

func (r *round) remove(p *player) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.riders, p); i >= 0 {
		r.riders = slices.Delete(r.riders, i, i+1)
	}
}

// putOff leaves p, which r has no longer, to its own goroutine. The caller holds r.mu.
func (p *player) putOff() {
	p.alone = true
	if p.stay() { // else an event has begun it
		go p.run()
	}
}

// alight is the first that the goroutine of p does after a round.
func (p *player) alight() {
	p.stage.rounds.leave(p.round)
	p.round, p.stay = nil, nil
	if p.owed {
		p.owed = false
		p.say(p.viewer.Write(nil))
	}
}

// join finds the round with the fewest viewers, or begins one.
func (rs *rounds) join(feed any) *round {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	var least *round
	for _, r := range rs.of[feed] {
		if least == nil || r.size < least.size {
			least = r
		}
	}
	if least == nil || least.size >= fullRound && len(rs.of[feed]) < runtime.GOMAXPROCS(0) {
		least = &round{feed: feed, latency: rs.latency, metrics: rs.metrics, empty: make(chan struct{}), boarded: make(chan struct{}, 1)}
		rs.of[feed] = append(rs.of[feed], least)
		rs.running.Go(least.run)
	}
	least.size++
	return least
}

func (rs *rounds) leave(r *round) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.size--; r.size > 0 {
		return
	}
	close(r.empty)
	rest := slices.DeleteFunc(rs.of[r.feed], func(other *round) bool { return other == r })
	if rs.of[r.feed] = rest; len(rest) == 0 {
		delete(rs.of, r.feed)
	}
}

// run is the goroutine of a round.
func (r *round) run() {
	timer, silence := time.NewTimer(0), time.NewTimer(0)
	defer timer.Stop()
	defer silence.Stop()
	for {
		since := time.Now() // what is not sent has come after that
		ready := r.write()
		r.took += (time.Since(since) - r.took) / 8
		select {
		case <-ready: // while it was writing
		default:
			silence.Reset(dryAfter)
			select {
			case <-ready:
			case <-r.boarded:
			case <-silence.C:
				r.disperse()
				continue
			case <-r.empty:
				return
			}
			since = time.Now()
		}
		hold := r.latency.hold(r.took) - time.Since(since)
		if hold <= 0 {
			continue
		}
		timer.Reset(hold)
		select {
		case <-timer.C:
		case <-r.empty:
			return
		}
	}
}

// write writes what is new to all, and returns what is closed when there is more.
func (r *round) write() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.riders) == 0 {
		return nil
	}
	ready := r.riders[0].feed.Ready() // before anything is read, so that nothing is missed
	r.riders = slices.DeleteFunc(r.riders, func(p *player) bool {
		if p.step(r) {
			return false
		}
		p.putOff()
		return true
	})
	clear(r.batches) // they are not kept alive while nothing comes
	r.metrics.frames.Add(float64(r.frames))
	r.metrics.bytes.Add(float64(r.bytes))
	r.frames, r.bytes = 0, 0
	return ready
}

// disperse leaves all players to themselves, to say that nothing comes.
func (r *round) disperse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.riders {
		p.dry = true
		p.putOff()
	}
	r.riders = nil
}

// step sends p what is new, and reports false when p is to go on by itself.
func (p *player) step(r *round) bool {
	var err error
	if r.batches, err = p.feed.Take(r.batches[:0]); err != nil {
		return false // p meets it again
	}
	if len(r.batches) == 0 {
		return true
	}
	batches := r.merge(r.batches)
	done, err := p.prompt.Try(batches)
	frames, bytes := p.count(batches)
	r.frames += frames
	r.bytes += bytes
	p.say(err)
	p.owed = !done
	return done && err == nil
}

// merge makes as few batches as it can of those that follow each other: what is
// copied once here need not be put together for each viewer. Mostly all viewers of
// a round are at the same place, so the last result is kept.
func (r *round) merge(batches []*media.Batch) []*media.Batch {
	if slices.Equal(batches, r.last) {
		return r.merged
	}
	r.last = append(r.last[:0], batches...)
	r.merged = r.merged[:0]
	for len(batches) > 0 {
		n, clock := 0, batches[0].Prev()
		var frames []media.Frame
		for _, b := range batches {
			if n > 0 && (b.Header() != batches[0].Header() || b.Prev() != clock || b.Frames()[0].Key) {
				break
			}
			frames = append(frames, b.Frames()...)
			for _, f := range b.Frames() {
				*clock.At(f.Track) = f.DTS
			}
			n++
		}
		merged := batches[0]
		if n > 1 {
			merged = media.NewBatch(merged.Header(), merged.Prev(), frames...)
		}
		r.merged = append(r.merged, merged)
		batches = batches[n:]
	}
	return r.merged
}

// A Latency is how long live frames may be held back to be written together.
type Latency time.Duration

// Auto holds them back by the load.
const Auto Latency = -1

// hold is how long a frame may wait for others when rounds take so long.
func (l Latency) hold(took time.Duration) time.Duration {
	if l == Auto {
		return min(holdFactor*max(took-freeRound, 0), longestHold)
	}
	return time.Duration(l)
}

// UnmarshalText reads a duration or "auto".
func (l *Latency) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*l = Auto
		return nil
	}
	d, err := stage.ParseDuration(string(text))
	if err != nil {
		return err
	}
	if d < 0 || d > time.Second {
		return fmt.Errorf("%v is not between 0 and 1s", d)
	}
	*l = Latency(d)
	return nil
}

func (l Latency) String() string {
	if l == Auto {
		return "auto"
	}
	return stage.FormatDuration(time.Duration(l))
}
