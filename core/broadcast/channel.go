// A channel: one ring, the sink that its publisher writes to or the repeat that
// copies it from another node, and the cursors of those who read.

package broadcast

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

// channel is one name on air: published here, or repeated from another node. It begins
// with its first source, whichever of the two that is, and ends when it has had none
// for too long, or is repeated for nobody.
//
// What is marked `both` changes under the broadcast's mu and the channel's own, and
// may be read under either.
type channel struct {
	b     *Broadcast
	name  string
	since time.Time

	mu      sync.RWMutex
	ring    *ring
	wake    chan struct{} // closed and replaced when a batch has come, closed when the channel has ended
	over    chan struct{} // closed when the channel has ended
	pushers []*pusher     // replaced, not changed
	sink    *sink         // the publisher's, nil while there is none; both
	repeat  *repeat       // what looks for the channel on other nodes, nil while there is a sink; both
	own     bool          // published here, now or lately; both
	ended   bool          // both
	written time.Time     // when the last batch came
	path    []string      // the nodes it comes through, this one last; nil while there is no source, and on a node alone
	holding Holding       // nil while this node has a claim, and on a node alone

	sources int         // how many there have been
	lost    *time.Timer // running while there is no source
	readers int
	opened  int         // how many readers there have been
	idle    *time.Timer // running while nobody reads what is repeated
}

// newChannel makes a channel without a source. The caller holds b.mu.
func (b *Broadcast) newChannel(name string) *channel {
	c := &channel{
		b:     b,
		name:  name,
		ring:  newRing(b.settings.Window, int(b.settings.Memory)),
		wake:  make(chan struct{}),
		over:  make(chan struct{}),
		since: time.Now(),
	}
	b.channels[name] = c
	return c
}

// wakeAll lets all waiting cursors look again. The caller holds mu.
func (c *channel) wakeAll() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// append puts b on air. The caller holds mu.
func (c *channel) append(b *media.Batch) {
	c.ring.append(b)
	c.written = time.Now()
	c.wakeAll()
}

// attach gives the channel to a publisher, whose claim may be nil. The caller
// holds b.mu.
func (c *channel) attach(req media.CreateRequest, claim Claim) *sink {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sink != nil {
		c.sink.lose(media.ErrTakenOver)
		c.b.log.Info("channel taken over", "channel", c.name)
	}
	c.sourced()
	c.own = true
	c.drop()
	c.path = c.b.self
	s := &sink{channel: c, linger: req.Linger, claim: claim, splice: splice{floor: media.None}, done: make(chan struct{})}
	c.sink = s
	switch clock := c.clock(); {
	case clock != media.None:
		s.resume, s.resumes = clock+max(time.Since(c.written), time.Millisecond), true
	case claim != nil:
		s.resume, s.resumes = max(time.Since(claim.Origin()), 0), true
	}
	if s.resumes {
		s.splice.floor = s.resume.Truncate(time.Millisecond)
	}
	if claim != nil {
		c.b.running.Go(func() {
			select {
			case <-claim.Lost():
				c.lose(s)
			case <-s.done:
			}
		})
	}
	return s
}

// sourced notes that there is a source again. The caller holds mu.
func (c *channel) sourced() {
	c.sources++
	if c.lost != nil {
		c.lost.Stop()
	}
}

// unsourced ends the channel unless a source comes within d. The caller holds mu.
func (c *channel) unsourced(d time.Duration, reason string) {
	sources := c.sources
	c.lost = time.AfterFunc(d, func() {
		c.endIf(func() bool { return c.sources == sources }, reason)
	})
}

// unread ends a repeated channel if nobody reads it for as long as the settings
// say. The caller holds mu.
func (c *channel) unread() {
	if c.own || c.readers > 0 || c.ended {
		return
	}
	opened := c.opened
	c.idle = time.AfterFunc(c.b.settings.Linger, func() {
		c.endIf(func() bool { return c.opened == opened && !c.own && c.repeat.waiting == 0 }, "nobody watches")
	})
}

// hold tells the cluster that the channel is here without a claim. The caller holds mu.
func (c *channel) hold(path []string) {
	c.path = path
	if c.b.directory == nil {
		return
	}
	if c.holding == nil {
		c.holding = c.b.directory.Hold(c.name)
	}
	c.holding.Set(path)
}

// drop ends what hold and seek have begun. The caller holds b.mu and mu.
func (c *channel) drop() {
	if c.repeat != nil {
		c.repeat.cancel()
		c.repeat = nil
	}
	if c.holding != nil {
		c.holding.Release()
		c.holding = nil
	}
}

// clock is the DTS of the newest frame, media.None before the first.
func (c *channel) clock() time.Duration { return c.ring.clock.Max() }

// detach ends the publisher's part. The channel lingers, or ends. While it lingers
// the name is free: the publisher may come back on any node.
func (c *channel) detach(s *sink) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sink != s {
		return
	}
	c.sink = nil
	s.lose(media.ErrClosed)
	if s.linger == 0 {
		c.end("publisher left")
	} else {
		c.hold(c.b.self)
		c.unsourced(s.linger, "publisher did not come back")
		c.b.seekFor(c)
		c.b.log.Info("publisher left, channel lingers", "channel", c.name, "linger", s.linger)
	}
	if s.claim != nil {
		s.claim.Release()
	}
}

// lose takes the channel from a publisher whose claim is lost. For those who watch
// it is repeated from now on.
func (c *channel) lose(s *sink) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sink != s {
		return
	}
	c.sink = nil
	s.lose(s.claim.Err())
	c.b.metrics.lost.Inc()
	c.b.log.Warn("channel lost to another node", "channel", c.name, "error", s.err)
	c.yield("another node has it")
	s.claim.Release()
}

// yield makes a channel that was published here one that is repeated, if there is
// somebody to repeat it for. The caller holds b.mu and mu.
func (c *channel) yield(reason string) {
	if c.readers == 0 || len(c.b.readers) == 0 || c.b.stopped {
		c.end(reason)
		return
	}
	c.own = false
	c.hold(nil)
	c.unsourced(c.b.settings.Linger, "no other node has it")
	c.b.seekFor(c)
	c.b.notify()
}

// endIf ends the channel if over still says so.
func (c *channel) endIf(over func() bool, reason string) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && over() {
		c.end(reason)
	}
}

// end takes the channel off air: readers get what is left in the ring and then
// io.EOF. The caller holds b.mu and mu.
func (c *channel) end(reason string) {
	c.ended = true
	close(c.wake) // for good
	close(c.over)
	c.drop()
	for _, t := range []*time.Timer{c.lost, c.idle} {
		if t != nil {
			t.Stop()
		}
	}
	delete(c.b.channels, c.name)
	c.b.notify()
	c.b.log.Info("channel off air", "channel", c.name, "reason", reason)
}

// stop ends the channel whoever publishes.
func (c *channel) stop() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	if s := c.sink; s != nil {
		s.lose(fmt.Errorf("the broadcast stops: %w", media.ErrClosed))
		c.sink = nil
		if s.claim != nil {
			defer s.claim.Release()
		}
	}
	c.end("broadcast stops")
}

// sink is the publisher's end of a channel.
type sink struct {
	channel *channel
	linger  time.Duration
	claim   Claim // nil on a node alone
	resume  time.Duration
	resumes bool
	splice  splice // guarded by the channel's mu

	once sync.Once
	done chan struct{}
	err  error // set before done is closed
}

// Write appends b to the ring. It never waits.
func (s *sink) Write(_ context.Context, b *media.Batch) error {
	c := s.channel
	c.mu.Lock()
	if c.sink != s {
		c.mu.Unlock()
		return s.Err()
	}
	b, seam := s.splice.take(c.ring, b)
	c.append(b)
	pushers := c.pushers
	c.mu.Unlock()
	pushAll(pushers)
	c.b.metrics.frames.Add(float64(len(b.Frames())))
	c.b.metrics.bytes.Add(float64(len(b.Slab())))
	if seam == shifted {
		c.b.shifted(c.name, s.splice.shift)
	}
	return nil
}

// Resume is where the timeline of a channel that was on air before goes on: behind
// its last frame by the time that has passed since. In a cluster that is so for a
// channel that was another node's, too.
func (s *sink) Resume() (at time.Duration, ok bool) { return s.resume, s.resumes }

// Done is closed when the sink is lost: taken over, stopped or closed.
func (s *sink) Done() <-chan struct{} { return s.done }

// Err says why Done is closed.
func (s *sink) Err() error {
	<-s.done
	return s.err
}

func (s *sink) lose(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.done)
	})
}

// Close takes the publisher off the channel.
func (s *sink) Close(context.Context) error {
	s.channel.detach(s)
	return nil
}

// cursor is one reader's place in a ring.
type cursor struct {
	channel *channel
	next    uint64 // the batch wanted next
	joining bool   // wait for a join point, pass by all else
	frames  uint64 // the frame that follows the last one delivered, counted as in slot
	skips   int
	missed  uint64

	once   sync.Once
	closed chan struct{}
}

// open returns a cursor at the join point for from.
func (c *channel) open(from time.Duration) *cursor {
	cur := &cursor{channel: c, closed: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readers++
	c.opened++
	if c.idle != nil {
		c.idle.Stop()
	}
	at, ok := c.ring.newest()
	if from >= 0 {
		at, ok = c.ring.at(from)
	}
	if !ok {
		at = c.ring.next
	}
	cur.next, cur.joining, cur.frames = at, !ok, c.ring.before(at)
	return cur
}

// Info describes the channel; its Version is empty, since it changes.
func (cur *cursor) Info() media.Info { return media.Info{Name: cur.channel.name, Live: true} }

// Next returns the next batch. A cursor that fell behind what the ring keeps
// goes on at the newest join point.
func (cur *cursor) Next(ctx context.Context) (*media.Batch, error) {
	for {
		b, wake, err := cur.take()
		if b != nil || err != nil {
			return b, err
		}
		select {
		case <-wake:
		case <-cur.closed:
			return nil, media.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns the next batch, or the end, or what to wait for.
func (cur *cursor) take() (*media.Batch, <-chan struct{}, error) {
	c := cur.channel
	c.mu.RLock()
	defer c.mu.RUnlock()
	if cur.next < c.ring.first {
		cur.skip(c.ring)
	}
	for cur.next < c.ring.next {
		s := c.ring.slot(cur.next)
		cur.next++
		if cur.joining && !s.batch.Join() {
			continue
		}
		if cur.joining && cur.skips > 0 {
			missed := s.frames - cur.frames
			cur.missed += missed
			c.b.metrics.missed.Add(float64(missed))
		}
		cur.joining = false
		cur.frames = s.frames + uint64(len(s.batch.Frames()))
		return s.batch, nil, nil
	}
	if c.ended {
		return nil, nil, io.EOF
	}
	return nil, c.wake, nil
}

// skip moves a cursor that is too late to the newest join point, or to wait for
// the next one. What it missed is counted once it is known.
func (cur *cursor) skip(r *ring) {
	at, ok := r.newest()
	if !ok {
		at = r.next
	}
	cur.next, cur.joining = at, true
	cur.skips++
	cur.channel.b.metrics.skips.Inc()
}

// Path are the nodes that the channel comes through, not to be changed. It is empty
// while the channel has no source, and on a node alone.
func (cur *cursor) Path() []string {
	c := cur.channel
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.path
}

// Buffered is how many batches Next has without waiting.
func (cur *cursor) Buffered() int {
	c := cur.channel
	c.mu.RLock()
	defer c.mu.RUnlock()
	return int(c.ring.next - max(cur.next, c.ring.first))
}

// Place returns the channel, and the number of the batch that Next will return. The channel
// is nil while Next waits for a keyframe.
func (cur *cursor) Place() (channel any, at uint64) {
	if cur.joining {
		return nil, cur.next
	}
	return cur.channel, cur.next
}

// Move has Next go on with the batch at: what was before it was read elsewhere.
func (cur *cursor) Move(at uint64) {
	c := cur.channel
	c.mu.RLock()
	defer c.mu.RUnlock()
	cur.next, cur.frames = at, c.ring.before(max(at, c.ring.first))
}

// Ready is closed once a batch has come after the call, or the channel has ended.
func (c *channel) Ready() <-chan struct{} {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.wake
}

// Take appends all batches from at on to dst, and returns the number of what comes next.
// It takes none when a cursor there would skip, or is at the end.
func (c *channel) Take(dst []*media.Batch, at uint64) ([]*media.Batch, uint64, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case at < c.ring.first:
		return dst, at, errSkips
	case at == c.ring.next && c.ended:
		return dst, at, io.EOF
	}
	for ; at < c.ring.next; at++ {
		dst = append(dst, c.ring.slot(at).batch)
	}
	return dst, at, nil
}

// Pending is how many bytes of batches there are from at on.
func (c *channel) Pending(at uint64) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if at >= c.ring.next {
		return 0
	}
	return c.ring.total - c.ring.slot(max(at, c.ring.first)).total
}

// errSkips is no error of the channel: Next is to be called.
var errSkips = errors.New("the reader is not at a place from which all is there")

// Skips is how often the cursor was too late and was moved forward, past Missed
// frames. Both are for the goroutine that calls Next.
func (cur *cursor) Skips() int { return cur.skips }

// Missed is how many frames it was moved past.
func (cur *cursor) Missed() int64 { return int64(cur.missed) }

// Close takes the reader off the channel.
func (cur *cursor) Close() error {
	cur.once.Do(func() {
		close(cur.closed)
		cur.channel.mu.Lock()
		cur.channel.readers--
		cur.channel.unread()
		cur.channel.mu.Unlock()
	})
	return nil
}
