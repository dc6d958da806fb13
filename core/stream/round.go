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
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// A Feed is live media that many read at the same place, such as a channel of a
// broadcast. Its batches are numbered in the order in which they came. Feeds can be compared.
type Feed interface {
	// Ready is closed once there is something that was not there at the time of
	// the call, be it a batch or the end.
	Ready() <-chan struct{}
	// Take appends the batches from number at on to dst, and returns the number of what
	// comes next. It fails when that is not what a reader would be given there: at the end,
	// or where frames are skipped.
	Take(dst []*media.Batch, at uint64) (batches []*media.Batch, next uint64, err error)
	// Pending is how many bytes Take would have, about.
	Pending(at uint64) int
}

// A Fed is a Source that reads a Feed.
type Fed interface {
	media.Source
	media.Buffered
	// Place returns the Feed, and the number of the batch that comes next. The Feed is
	// nil where that is not certain.
	Place() (feed any, at uint64)
	// Move goes on at another, before which all was read elsewhere.
	Move(at uint64)
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
	// one system call. longestHold is a little more than an AAC frame at 44.1 kHz lasts: with
	// a little less, each would begin a round of its own. Bytes that take as long to copy as
	// the call does beside that are enough: then nothing is gained by waiting.
	holdFactor  = 10
	freeRound   = time.Millisecond
	longestHold = 24 * time.Millisecond
	enough      = 32 << 10
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
	of map[Feed][]*round
}

// A round is a number of viewers that watch the same.
//
// All who ride have been sent the same, so that the system call is nearly all there is
// to do for each. Where they stand the round knows, and tells a player who leaves.
type round struct {
	feed    Feed
	latency Latency
	metrics *metrics
	size    int           // players that board or ride; guarded by rounds.mu
	empty   chan struct{} // closed when the last has left
	boarded chan struct{} // holds one, after a player has boarded

	door  sync.Mutex // apart from mu, so that a crowd that boards does not stand between the round and its writing
	queue []*player  // who stand where they came, until the next write

	mu       sync.Mutex // held while writing: players belong to the round's goroutine then
	boarding []*player  // who were in the queue
	riders   []rider
	at       uint64      // what riders are sent next
	sent     media.Clock // what riders have been sent
	bytes    int         // sent to a rider who was there from the beginning

	took         time.Duration  // by writing, on average
	batches      []*media.Batch // taken
	last, merged []*media.Batch // what merge was given and has returned
}

// A rider is a player and its viewer.
type rider struct {
	*player
	Prompt
}

// rides reports whether what comes next can be sent in a round.
func (p *player) rides() bool {
	if p.fed == nil || p.batch != nil || p.jump || p.until != forever || p.through != media.NoClock {
		return false
	}
	feed, _ := p.fed.Place()
	return feed != nil && p.fed.Buffered() == 0
}

// board has what is new sent in a round. The goroutine of p ends with it, and is
// begun again once p has left the round: at an event, or where the rest is p's own to do.
func (p *player) board() {
	feed, _ := p.fed.Place()
	r := p.stage.rounds.join(feed.(Feed))
	r.door.Lock()
	defer r.door.Unlock()
	p.round = r
	r.queue = append(r.queue, p)
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
	r.door.Lock()
	r.queue = slices.DeleteFunc(r.queue, func(x *player) bool { return x == p })
	r.door.Unlock()
	r.riders = slices.DeleteFunc(r.riders, func(x rider) bool {
		if x.player == p {
			r.settle(p)
		}
		return x.player == p
	})
}

// settle tells p, who has ridden, where it stands.
func (r *round) settle(p *player) {
	p.fed.Move(r.at)
	p.sent, p.from = r.sent, r.sent.Max()
	p.bytes += r.bytes - p.before
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
func (rs *rounds) join(feed Feed) *round {
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
				r.dry()
				continue
			case <-r.empty:
				return
			}
			since = time.Now()
		}
		if !r.gather(timer, r.latency.hold(r.took)-time.Since(since)) {
			return
		}
	}
}

// gather waits for more to be written with what there is, and reports false when
// there is nobody left to write to.
func (r *round) gather(timer *time.Timer, hold time.Duration) bool {
	if hold <= 0 {
		return true
	}
	timer.Reset(hold)
	for {
		pending, more := r.pending()
		if pending >= enough {
			return true
		}
		select {
		case <-more:
		case <-timer.C:
			return true
		case <-r.empty:
			return false
		}
	}
}

// pending is how much waits to be written to each rider, and what is closed when there is
// more. A latency that is given holds, however much there is.
func (r *round) pending() (bytes int, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.latency != Auto || len(r.riders) == 0 {
		return 0, nil
	}
	more = r.feed.Ready() // before it is asked, so that nothing is missed
	return r.feed.Pending(r.at), more
}

// write writes what is new to all, and returns what is closed when there is more.
func (r *round) write() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.door.Lock()
	r.boarding, r.queue = r.queue, r.boarding
	r.door.Unlock()
	ready := r.feed.Ready() // before anything is read, so that nothing is missed
	from := uint64(math.MaxUint64)
	if len(r.riders) > 0 {
		from = r.at
	}
	for _, p := range r.boarding {
		_, at := p.fed.Place()
		from = min(from, at)
	}
	if from == math.MaxUint64 {
		return nil
	}
	var next uint64
	var err error
	if r.batches, next, err = r.feed.Take(r.batches[:0], from); err != nil {
		r.dismiss() // they meet it again
		return nil
	}
	before := r.at
	r.at = next
	if len(r.riders) > 0 {
		r.serve(r.batches[before-from:])
	}
	r.seat(r.batches, from)
	clear(r.batches) // they are not kept alive while nothing comes
	return ready
}

// serve sends all riders the batches, which are what comes next for them.
func (r *round) serve(batches []*media.Batch) {
	if len(batches) == 0 {
		return
	}
	batches = r.merge(batches)
	frames, bytes := 0, 0
	for _, b := range batches {
		for _, f := range b.Frames() {
			*r.sent.At(f.Track) = f.DTS
			bytes += len(f.Body)
		}
		frames += len(b.Frames())
	}
	r.bytes += bytes
	r.metrics.frames.Add(float64(frames * len(r.riders)))
	r.metrics.bytes.Add(float64(bytes * len(r.riders)))
	r.riders = slices.DeleteFunc(r.riders, func(x rider) bool {
		done, err := x.Try(batches)
		if done && err == nil {
			return false
		}
		r.settle(x.player)
		x.say(err)
		x.owed = !done
		x.putOff()
		return true
	})
}

// seat sends those who board what they do not have of the batches, the first of which has the number
// from: then they are where riders are.
func (r *round) seat(batches []*media.Batch, from uint64) {
	for _, p := range r.boarding {
		if _, at := p.fed.Place(); !p.catchUp(r.merge(batches[at-from:])) {
			p.fed.Move(r.at)
			p.putOff()
			continue
		}
		if len(r.riders) == 0 {
			r.sent = p.sent
		}
		p.before = r.bytes
		r.riders = append(r.riders, rider{p, p.prompt})
	}
	clear(r.boarding)
	r.boarding = r.boarding[:0]
}

// catchUp sends p what is new, and reports false when p is to go on by itself.
func (p *player) catchUp(batches []*media.Batch) bool {
	if len(batches) == 0 {
		return true
	}
	done, err := p.prompt.Try(batches)
	p.count(batches)
	p.say(err)
	p.owed = !done
	return done && err == nil
}

// dry leaves all players to themselves, to say that nothing comes.
func (r *round) dry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.riders {
		x.dry = true
	}
	r.dismiss()
}

// dismiss leaves all players to themselves.
func (r *round) dismiss() {
	for _, x := range r.riders {
		r.settle(x.player)
		x.putOff()
	}
	for _, p := range r.boarding {
		p.putOff()
	}
	clear(r.boarding)
	r.riders, r.boarding = nil, r.boarding[:0]
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
