// Reading upstream: one goroutine of the cache per position that is read, for
// all the sources that wait for it.

package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mediad/mediad/core/media"
)

// fetch reads an object from some position on, as far as its sources ask it
// to. It ends with the last of them. Its fields are guarded by cache.mu, but for src.
type fetch struct {
	object *object
	src    media.Source // nil until run has opened it
	from   time.Duration
	peer   string // that upstream is asked for, "" for this node
	cancel context.CancelFunc
	wake   chan struct{} // holds one token when something may be wanted

	// group and i are the place of the batch that is read next; i is below zero
	// while batches are skipped. group is nil before the first batch of a fetch
	// for which it is not known where upstream begins; start then is where it began.
	group, start *group
	i            int

	sources int       // attached
	waiting []*source // those of them that wait for a batch
	reading bool      // a batch is on its way
	playing bool      // a source plays in sequence, so reading ahead is worth it
	ahead   int       // batches read and not yet asked for
	ended   bool
}

// newFetch starts a fetch for s that begins where src does, which was opened where s
// was: with g, or with g nil where it turns out to. With src nil upstream will be opened
// where it leads to g.
func (c *cache) newFetch(o *object, src media.Source, s *source, g *group) *fetch {
	f := &fetch{object: o, src: src, from: s.from, peer: s.peer, wake: make(chan struct{}, 1)}
	if g != nil {
		f.stand(g)
		if src == nil {
			f.from, f.i = g.from, -g.skip
		}
	}
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(c.ctx)
	o.fetches = append(o.fetches, f)
	c.metrics.fetches.Inc()
	c.running.Go(func() { f.run(ctx) })
	return f
}

func (f *fetch) run(ctx context.Context) {
	err := f.read(ctx)
	if f.src != nil {
		_ = f.src.Close()
	}
	c := f.object.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	f.end(err)
}

// read returns nil when there is no more to read.
func (f *fetch) read(ctx context.Context) error {
	if f.src == nil {
		src, err := f.open(ctx)
		if err != nil {
			return err
		}
		f.src = src
	}
	for {
		if err := f.wait(ctx); err != nil {
			return err
		}
		b, err := f.src.Next(ctx)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if more, err := f.take(b); !more || err != nil {
			return err
		}
	}
}

// open opens upstream again, for the version that the object is of.
func (f *fetch) open(ctx context.Context) (media.Source, error) {
	o := f.object
	req := media.OpenRequest{Name: o.name, From: request(f.from), RecordedOnly: true, Peer: f.peer}
	src, err := o.cache.upstream.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	if v := src.Info().Version; v != o.info.Version {
		_ = src.Close()
		return nil, fmt.Errorf("%w: it has version %q now, not %q", media.ErrChanged, v, o.info.Version)
	}
	return src, nil
}

// wait returns when the next batch is wanted.
func (f *fetch) wait(ctx context.Context) error {
	c := f.object.cache
	for {
		c.mu.Lock()
		f.reading = f.wanted()
		wanted := f.reading
		c.mu.Unlock()
		if wanted {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.wake:
		}
	}
}

func (f *fetch) wanted() bool {
	c := f.object.cache
	switch {
	case len(f.waiting) > 0:
		return true
	case f.group == nil || f.i < 0 || !f.playing || f.ahead >= c.ahead || c.fresh >= c.maxFresh:
		return false
	}
	g, i := f.place()
	return i >= len(g.entries) || g.entries[i].batch == nil
}

// place is where the next batch belongs, as far as that is known.
func (f *fetch) place() (*group, int) {
	g := f.group
	if g == nil {
		return nil, 0
	}
	if g = g.self(); f.i == len(g.entries) && g.closed && !g.last {
		if n := g.follows(); n != nil {
			return n, 0
		}
	}
	return g, f.i
}

// serves reports whether f will come to i in g.
func (f *fetch) serves(g *group, i int) bool {
	if f.ended {
		return false
	}
	at, next := f.place()
	return at == g && next <= i
}

// stand moves f to another group.
func (f *fetch) stand(g *group) {
	g.hold()
	if f.group != nil {
		f.group.release()
	}
	f.group = g
}

// take puts b, the next batch or nil at the end, where it belongs, and reports
// whether there may be more.
func (f *fetch) take(b *media.Batch) (more bool, err error) {
	o := f.object
	o.cache.mu.Lock()
	defer o.cache.mu.Unlock()
	f.reading = false
	switch {
	case f.ended:
		return false, nil
	case b == nil:
		return false, f.finish()
	}
	o.cache.metrics.fetched.Add(float64(b.Size()))

	if f.group == nil {
		g := o.begin(b, f.from)
		if g == nil {
			o.setOdd()
			return false, nil
		}
		f.stand(g)
		g.hold()
		f.start = g
	}
	if f.i < 0 {
		f.i++
		return true, nil
	}
	g := f.group.self()
	if f.i == len(g.entries) && (g.closed || f.i > 0 && b.Join()) {
		n := o.after(g, b)
		switch {
		case n == nil && g.closed:
			return false, fmt.Errorf("%w: what comes after %s is not what it was", media.ErrChanged, g.at)
		case n == nil:
			o.setOdd()
			return false, nil
		}
		for _, s := range f.waiting {
			if s.group.self() == g.self() && s.i == f.i {
				s.stand(n, 0)
			}
		}
		f.stand(n)
		f.i = 0
		g = n
	}
	return f.put(g, b)
}

// finish notes that nothing follows.
func (f *fetch) finish() error {
	if f.group == nil {
		return io.EOF // there is nothing at all
	}
	g := f.group.self()
	if f.i < len(g.entries) || g.closed && !g.last {
		return fmt.Errorf("%w: it ends earlier than it did", media.ErrChanged)
	}
	if !g.closed {
		g.close(0, true)
	}
	return nil
}

// put takes b in as the batch number f.i of g, and gives it to those who wait for it.
func (f *fetch) put(g *group, b *media.Batch) (more bool, err error) {
	c := f.object.cache
	size := weigh(b)
	if f.i == len(g.entries) {
		g.entries = append(g.entries, &entry{group: g, i: f.i, at: b.DTS(), size: size})
	}
	e := g.entries[f.i]
	if e.at != b.DTS() || e.size != size {
		return false, fmt.Errorf("%w: the batch at %s is not what it was", media.ErrChanged, e.at)
	}
	given, wanted := 0, 0
	waiting := f.waiting[:0]
	for _, s := range f.waiting {
		here := s.group == nil || s.group.self() == g && s.i == f.i
		if !here {
			if s.group.self() == g && s.i > f.i {
				wanted++ // f only passes by here
			}
			waiting = append(waiting, s)
			continue
		}
		s.stand(g, f.i+1)
		s.result(b, nil)
		given++
	}
	clear(f.waiting[len(waiting):])
	f.waiting = waiting
	f.i++
	if given > 0 {
		f.ahead = 0
	}
	if e.batch == nil && wanted == 0 {
		c.keep(e, b)
		for range given {
			c.policy.read(e)
		}
		if given == 0 && e.batch != nil {
			e.fresh = f
			c.fresh += e.size
			f.ahead++
		}
	}
	return true, nil
}

// end detaches what is left of f. Those who wait get err, or look again when
// there is none.
func (f *fetch) end(err error) {
	o := f.object
	if f.ended || o.cache.stopped {
		err = nil // it was told to end
	}
	f.ended = true
	f.cancel()
	i := slices.Index(o.fetches, f)
	o.fetches = slices.Delete(o.fetches, i, i+1)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read %s: %w", o.info.Name, err)
	}
	for _, s := range f.waiting {
		s.result(nil, err)
	}
	for _, g := range []*group{f.group, f.start} {
		if g != nil {
			g.release()
		}
	}
	f.waiting, f.group, f.start = nil, nil, nil
}

// signal lets f look again whether something is wanted.
func (f *fetch) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
