// A channel: one ring, the sink that its publisher writes to, and the cursors
// of those who read.

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

// channel is one name on air. It begins with its first publisher and ends when
// the last has gone for longer than it asked to linger.
type channel struct {
	b    *Broadcast
	name string

	mu      sync.RWMutex
	ring    *ring
	wake    chan struct{} // closed and replaced when a batch has come, closed when the channel has ended
	sink    *sink         // the publisher's, nil while it is away
	ended   bool
	linger  *time.Timer // running while the publisher is away
	comings int         // how many publishers there have been
	since   time.Time
	written time.Time // when the last batch came
	readers int
}

// wakeAll lets all waiting cursors look again. The caller holds mu.
func (c *channel) wakeAll() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// attach gives the channel to a new publisher.
func (c *channel) attach(req media.CreateRequest) (*sink, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sink != nil {
		if !req.Takeover {
			return nil, fmt.Errorf("%s is on air since %s: %w", c.name, c.since.Format(time.TimeOnly), media.ErrBusy)
		}
		c.sink.lose(media.ErrTakenOver)
		c.b.log.Info("channel taken over", "channel", c.name)
	}
	if c.linger != nil {
		c.linger.Stop()
	}
	c.comings++
	c.sink = &sink{channel: c, linger: req.Linger, done: make(chan struct{})}
	if clock := c.clock(); clock != media.None {
		c.sink.resume = clock + max(time.Since(c.written), time.Millisecond)
		c.sink.resumes = true
	}
	return c.sink, nil
}

// clock is the DTS of the newest frame, media.None before the first.
func (c *channel) clock() time.Duration {
	if c.ring.next == 0 {
		return media.None
	}
	frames := c.ring.slot(c.ring.next - 1).batch.Frames()
	return frames[len(frames)-1].DTS
}

// detach ends the publisher's part; the channel lingers or ends.
func (c *channel) detach(s *sink) {
	c.mu.Lock()
	if c.sink != s {
		c.mu.Unlock()
		return
	}
	c.sink = nil
	s.lose(media.ErrClosed)
	if s.linger > 0 {
		coming := c.comings
		c.linger = time.AfterFunc(s.linger, func() { c.end(coming, "publisher did not come back") })
		c.mu.Unlock()
		c.b.log.Info("publisher left, channel lingers", "channel", c.name, "linger", s.linger)
		return
	}
	coming := c.comings
	c.mu.Unlock()
	c.end(coming, "publisher left")
}

// end takes the channel off air, unless a publisher has come since that coming:
// readers get what is left in the ring and then io.EOF.
func (c *channel) end(coming int, reason string) {
	c.b.mu.Lock()
	c.mu.Lock()
	over := c.comings == coming && !c.ended
	if over {
		c.ended = true
		close(c.wake) // for good
		delete(c.b.channels, c.name)
		c.b.notify()
	}
	c.mu.Unlock()
	c.b.mu.Unlock()
	if over {
		c.b.log.Info("channel off air", "channel", c.name, "reason", reason)
	}
}

// stop ends the channel whoever publishes.
func (c *channel) stop() {
	c.mu.Lock()
	if c.sink != nil {
		c.sink.lose(fmt.Errorf("the broadcast stops: %w", media.ErrClosed))
		c.sink = nil
	}
	if c.linger != nil {
		c.linger.Stop()
	}
	coming := c.comings
	c.mu.Unlock()
	c.end(coming, "broadcast stops")
}

// sink is the publisher's end of a channel.
type sink struct {
	channel *channel
	linger  time.Duration
	resume  time.Duration
	resumes bool

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
	c.ring.append(b)
	c.written = time.Now()
	c.wakeAll()
	c.mu.Unlock()
	c.b.metrics.frames.Add(float64(len(b.Frames())))
	c.b.metrics.bytes.Add(float64(len(b.Slab())))
	return nil
}

// Resume is where the timeline of a channel that was on air before goes on:
// behind its last frame by the time that has passed since.
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
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readers++
	cur := &cursor{channel: c, closed: make(chan struct{})}
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

// Buffered is how many batches Next has without waiting.
func (cur *cursor) Buffered() int {
	c := cur.channel
	c.mu.RLock()
	defer c.mu.RUnlock()
	return int(c.ring.next - max(cur.next, c.ring.first))
}

// Feed is the same for all cursors of a channel.
func (cur *cursor) Feed() any { return cur.channel }

// Ready is closed once a batch has come after the call, or the channel has ended.
func (cur *cursor) Ready() <-chan struct{} {
	c := cur.channel
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.wake
}

// Take appends all batches that there are to dst. It takes none when the cursor
// is about to skip, or the channel is at its end.
func (cur *cursor) Take(dst []*media.Batch) ([]*media.Batch, error) {
	c := cur.channel
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case cur.joining || cur.next < c.ring.first:
		return dst, errSkips
	case cur.next == c.ring.next && c.ended:
		return dst, io.EOF
	}
	for ; cur.next < c.ring.next; cur.next++ {
		s := c.ring.slot(cur.next)
		cur.frames = s.frames + uint64(len(s.batch.Frames()))
		dst = append(dst, s.batch)
	}
	return dst, nil
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
		cur.channel.mu.Unlock()
	})
	return nil
}
