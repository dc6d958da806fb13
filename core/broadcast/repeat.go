// The Broadcast Repeater of the notes: a channel of another node, copied once for
// all who watch it here.

package broadcast

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

const (
	// A channel that was not found is looked for again when the nodes have changed,
	// no sooner than minRetry and no later than maxRetry after the last time.
	minRetry = 20 * time.Millisecond
	maxRetry = 200 * time.Millisecond
	// rerouted is how soon it is noticed that a channel comes another way.
	rerouted = 200 * time.Millisecond
	// askTimeout is how long a reader may take to tell its cost.
	askTimeout = 2 * time.Second
)

// A repeat looks for a channel on other nodes and copies it: first for viewers who
// wait for it, then for the channel that it is here.
type repeat struct {
	b      *Broadcast
	name   string
	from   time.Duration // what the first viewer wants
	cancel context.CancelFunc
	splice splice // guarded by the channel's mu

	// Guarded by b.mu.
	channel *channel // nil before it is found
	waiting int      // viewers in Open
	err     error    // of the last try

	src media.Source // nil while there is none; guarded by the channel's mu
}

// seek returns the repeat that looks for a name which is not on air here, for one
// more viewer. The caller holds b.mu.
func (b *Broadcast) seek(name string, from time.Duration) *repeat {
	r := b.seeking[name]
	if r == nil {
		r = b.repeat(name, nil)
		r.from = from
		b.seeking[name] = r
	}
	r.waiting++
	return r
}

// leave takes a viewer from r, who has the channel or waits no longer.
func (r *repeat) leave() {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.waiting--; r.waiting > 0 {
		return
	}
	if c := r.channel; c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.unread()
		return
	}
	if r.b.seeking[r.name] == r {
		delete(r.b.seeking, r.name)
	}
	r.cancel()
}

// seekFor looks for a channel that has no source any more. The caller holds b.mu
// and c.mu.
func (b *Broadcast) seekFor(c *channel) {
	if len(b.readers) > 0 && !b.stopped {
		c.repeat = b.repeat(c.name, c)
	}
}

func (b *Broadcast) repeat(name string, c *channel) *repeat {
	r := &repeat{b: b, name: name, channel: c, splice: splice{repeats: true, floor: media.None}}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(b.ctx)
	b.running.Go(func() { r.run(ctx) })
	return r
}

// run is the goroutine of r. It ends with ctx: when nobody waits for the channel or
// watches it any more, when it has ended, and when it is published here.
func (r *repeat) run(ctx context.Context) {
	for {
		changed := r.b.changes() // before the search, so that nothing is missed
		src, err := r.b.find(ctx, media.OpenRequest{Name: r.name, From: r.place(), LiveOnly: true})
		if err == nil {
			err = r.use(ctx, src)
			_ = src.Close()
		}
		r.b.mu.Lock()
		r.err = err
		r.b.mu.Unlock()
		if !wait(ctx, changed) {
			return
		}
	}
}

// wait waits until it is time to look again.
func wait(ctx context.Context, changed <-chan struct{}) bool {
	soon, late := time.NewTimer(minRetry), time.NewTimer(maxRetry)
	defer soon.Stop()
	defer late.Stop()
	select {
	case <-soon.C:
	case <-ctx.Done():
		return false
	}
	select {
	case <-changed:
	case <-late.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// place is where a source is to begin: at the newest join point that the channel
// has, in the source's own time, so that what came after it is not missing.
func (r *repeat) place() time.Duration {
	r.b.mu.Lock()
	c := r.channel
	r.b.mu.Unlock()
	if c == nil {
		return r.from
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if n, ok := c.ring.newest(); ok {
		return max(c.ring.slot(n).batch.DTS()-r.splice.shift, 0)
	}
	return media.Newest
}

// use copies src until it ends or fails.
func (r *repeat) use(ctx context.Context, src media.Source) error {
	if !src.Info().Live {
		return fmt.Errorf("%s: only recorded media are on other nodes: %w", r.name, media.ErrNotFound)
	}
	if !r.adopt(src) {
		return media.ErrClosed
	}
	err := media.Push(ctx, src, r.take)
	c := r.channel
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.repeat != r {
		return err
	}
	c.b.log.Info("channel has no source, looking for another", "channel", c.name, "error", err)
	r.src = nil
	c.hold(nil)
	c.unsourced(c.b.settings.Linger, "no other node has it")
	return err
}

// adopt makes src the source of the channel, and makes that if it is the first. It
// reports false when nobody wants it any more.
func (r *repeat) adopt(src media.Source) bool {
	b := r.b
	path := b.route(src)
	b.mu.Lock()
	defer b.mu.Unlock()
	c := r.channel
	if c == nil {
		if b.stopped || b.seeking[r.name] != r {
			return false
		}
		delete(b.seeking, r.name)
		c = b.newChannel(r.name)
		c.repeat, r.channel = r, c
		defer b.notify()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.repeat != r:
		return false
	case c.own:
		if c.readers == 0 {
			c.end("publisher did not come back here")
			return false
		}
		c.own = false
		defer b.notify()
	}
	c.sourced()
	r.src = src
	r.splice.begin()
	c.hold(path)
	b.metrics.sources.Inc()
	b.log.Info("channel is repeated", "channel", c.name, "path", path)
	return true
}

// take appends a batch of the source to the channel.
func (r *repeat) take(b *media.Batch) error {
	c, m := r.channel, &r.b.metrics
	c.mu.Lock()
	if c.repeat != r {
		c.mu.Unlock()
		return media.ErrClosed
	}
	b, seam := r.splice.take(c.ring, b)
	if b != nil {
		c.append(b)
		m.repeatedFrames.Add(float64(len(b.Frames())))
		m.repeatedBytes.Add(float64(len(b.Slab())))
	}
	pushers := c.pushers
	c.mu.Unlock()
	pushAll(pushers)
	switch seam {
	case gap:
		m.gaps.Inc()
		r.b.log.Info("a source of a channel begins behind the end of the last", "channel", c.name)
	case shifted:
		r.b.shifted(c.name, r.splice.shift)
	}
	return nil
}

// shifted tells of a source that is not on the channel's timeline.
func (b *Broadcast) shifted(name string, by time.Duration) {
	b.metrics.shifts.Inc()
	b.log.Warn("the source of a channel lies behind it in time and is shifted: its node's clock is wrong, or it has begun anew",
		"channel", name, "by", by)
}

// reroute tells the cluster when the sources of channels come another way now.
func (b *Broadcast) reroute() {
	b.mu.Lock()
	var repeated []*channel
	for _, c := range b.channels {
		if !c.own {
			repeated = append(repeated, c)
		}
	}
	b.mu.Unlock()
	for _, c := range repeated {
		c.reroute()
	}
}

func (c *channel) reroute() {
	c.mu.RLock()
	r, src := c.repeat, media.Source(nil)
	if r != nil {
		src = r.src
	}
	c.mu.RUnlock()
	if src == nil {
		return
	}
	path := c.b.route(src) // without the lock: it is another's
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.repeat == r && r.src == src && !slices.Equal(path, c.path) {
		c.hold(path)
	}
}

// admit says why a peer may not have the channel from here, or nil.
func (c *channel) admit(peer string) error {
	c.reroute()
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case c.repeat == nil: // published here
		return nil
	case c.own && !slices.Contains(c.path, peer): // until lately
		return nil
	case len(c.path) == 0:
		return fmt.Errorf("channel %s has no source here at this time: %w", c.name, media.ErrUnavailable)
	case slices.Contains(c.path, peer):
		return fmt.Errorf("channel %s comes from %s itself: %w", c.name, peer, media.ErrUnavailable)
	}
	return nil
}

// An offer is what a reader of other nodes' channels says of one.
type offer struct {
	stage.Input
	cost media.Cost
	err  error
}

// ask asks the readers for their cost of req, and returns them with the cheapest
// that can serve it first.
func (b *Broadcast) ask(ctx context.Context, req media.OpenRequest) []offer {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var offers []offer
	for _, in := range b.readers {
		o := offer{Input: in}
		if o.cost, o.err = media.CostOf(ctx, in.Reader, req); o.err == nil {
			o.err = o.cost.Err()
		}
		offers = append(offers, o)
	}
	slices.SortStableFunc(offers, func(x, y offer) int { return cmp.Compare(x.total(), y.total()) })
	return offers
}

// total is infinite for what cannot be had.
func (o offer) total() float64 {
	if o.err != nil {
		return math.Inf(1)
	}
	return o.cost.Total()
}

// find opens req from the cheapest reader that has it.
func (b *Broadcast) find(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	var worst error
	for _, o := range b.ask(ctx, req) {
		src, err := media.Source(nil), o.err
		if err == nil {
			src, err = o.Reader.Open(ctx, req)
		}
		if err == nil {
			return src, nil
		}
		if worst == nil || errors.Is(worst, media.ErrNotFound) {
			worst = fmt.Errorf("%s: %w", o.Name, err)
		}
	}
	return nil, worst
}
