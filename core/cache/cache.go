// Package cache is the stage that keeps recorded media in memory, so that many
// viewers of a film cost one read of it. It holds batches, by the name and the
// version of the media. Live media are not asked for.
package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// Settings of the stage.
type Settings struct {
	Memory stage.Size    `set:"memory" doc:"memory for media, in all"`
	Idle   time.Duration `set:"idle" doc:"media that nobody has opened or read for so long are dropped"`
	Ahead  int           `set:"ahead" doc:"batches (GOPs) to read ahead of a viewer who plays in sequence"`
}

// The largest read-ahead, and the smallest memory: one batch of the largest size.
const (
	maxAhead  = 64
	minMemory = 4 << 20
)

// trust is how long peers are given a version from memory where upstream has it from other
// nodes, which it is not to ask for peers. It counts from when the version came here: that
// upstream has it still may only mean that another node gives it from memory, too.
const trust = 5 * time.Minute

// Check checks the settings.
func (s *Settings) Check() error {
	switch {
	case s.Memory < minMemory:
		return stage.Wrong("memory", "is %s, at least %s are needed", s.Memory, stage.Size(minMemory))
	case s.Idle <= 0:
		return stage.Wrong("idle", "must be more than 0")
	case s.Ahead < 0 || s.Ahead > maxAhead:
		return stage.Wrong("ahead", "is %d, not 0 to %d", s.Ahead, maxAhead)
	}
	return nil
}

// Kind describes the stage.
func Kind() stage.Kind {
	return stage.Kind{
		Name:     "cache",
		Summary:  "Keeps recorded media in memory, so that many viewers cost one read.",
		Settings: func() any { return &Settings{Memory: 256 << 20, Idle: 5 * time.Minute, Ahead: 2} },
		Ports:    stage.Ports{ProvidesReader: true, NeedsReader: stage.One},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return newCache(env, settings.(*Settings)), nil
		},
	}
}

type cache struct {
	name, inputName string
	log             hclog.Logger
	upstream        media.Reader
	idle            time.Duration
	ahead           int
	maxFresh        int64
	drain           time.Duration
	metrics         *metrics

	ctx     context.Context // that of all fetches
	cancel  context.CancelFunc
	running sync.WaitGroup // the fetches

	mu      sync.Mutex // guards all that follows, and the objects with all they have
	policy  *policy
	objects map[key]*object
	current map[string]*object // the newest version of each name
	lastID  uint64
	fresh   int64         // bytes read ahead
	open    int           // sources
	empty   chan struct{} // closed when open falls to 0, once Serve waits for that
	stopped bool
}

type key struct{ name, version string }

func newCache(env stage.Env, s *Settings) *cache {
	c := &cache{
		name:      env.Name,
		inputName: env.Inputs[0].Name,
		log:       env.Log,
		upstream:  env.Inputs[0].Reader,
		idle:      s.Idle,
		ahead:     s.Ahead,
		// Half of what the small queue keeps, so that what was read ahead is
		// still there when its viewer comes.
		maxFresh: int64(s.Memory) / 10,
		drain:    env.Drain,
		metrics:  newMetrics(env.Metrics),
		objects:  map[key]*object{},
		current:  map[string]*object{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.policy = newPolicy(int64(s.Memory), func(e *entry) { c.evicted(e, "space") })
	return c
}

// Serve drops what is idle until ctx ends, and then waits for open sources, at
// most for the drain time.
func (c *cache) Serve(ctx context.Context) error {
	tick := time.NewTicker(max(c.idle/8, time.Millisecond))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			c.sweep()
		}
	}
	empty := make(chan struct{})
	c.mu.Lock()
	if c.open == 0 {
		close(empty)
	} else {
		c.empty = empty
	}
	c.mu.Unlock()
	select {
	case <-empty:
	case <-time.After(c.drain):
	}
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.cancel()
	c.running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.objects {
		c.drop(o, "stop")
	}
	return nil
}

// Open opens upstream, which is cheap and tells the version, and reads no media
// from it when the position is in memory.
func (c *cache) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	if req.LiveOnly {
		return nil, fmt.Errorf("%s: only recorded media are here: %w", req.Name, media.ErrNotFound)
	}
	src, err := c.upstream.Open(ctx, c.above(req))
	if err != nil {
		return c.openAlone(req, err)
	}
	info := src.Info()
	if info.Live || info.Version == "" {
		return src, nil
	}
	s, used, err := c.enter(req, info, src)
	if !used {
		_ = src.Close()
	}
	return s, err
}

// above is what upstream is asked for req. It need not know a better node for what is
// in memory.
func (c *cache) above(req media.OpenRequest) media.OpenRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, g := c.lookup(req)
	req.RecordedOnly = true
	req.Redirects = req.Redirects && g == nil
	return req
}

// enter returns the source for req, and whether it made use of src.
func (c *cache) enter(req media.OpenRequest, info media.Info, src media.Source) (_ media.Source, used bool, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil, false, fmt.Errorf("open %s: the cache has stopped: %w", req.Name, media.ErrUnavailable)
	}
	o := c.object(req.Name, info)
	if o.odd {
		return src, true, nil
	}
	o.local = o.local || req.Peer != ""
	s := c.newSource(o, req)
	g := o.lookup(s.from)
	if g != nil {
		s.stand(g, 0)
	}
	if g.begun() {
		return s, false, nil
	}
	if f := s.fetching(g, 0); f != nil {
		s.attach(f)
		return s, false, nil
	}
	s.attach(c.newFetch(o, src, s, g))
	return s, true, nil
}

// openAlone opens what is in memory when upstream is not available, or has nothing
// for a peer but what it would ask other nodes for.
func (c *cache) openAlone(req media.OpenRequest, err error) (media.Source, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	missing := errors.Is(err, media.ErrNotFound)
	if o := c.current[req.Name]; o != nil && missing && (req.Peer == "" || o.local) {
		o.came = time.Time{} // it was removed
	}
	o, g := c.lookup(req)
	switch {
	case g == nil || c.stopped:
		return nil, err
	case req.Peer != "" && (missing || errors.Is(err, media.ErrUnavailable)):
		if !o.lends(g) {
			return nil, err
		}
	case !errors.Is(err, media.ErrUnavailable):
		return nil, err
	case !o.alone:
		o.alone = true
		c.log.Warn("upstream is not available, what is in memory is served", "name", req.Name, "error", err)
	}
	s := c.newSource(o, req)
	s.lent = req.Peer != ""
	s.stand(g, 0)
	return s, nil
}

func (c *cache) newSource(o *object, req media.OpenRequest) *source {
	c.open++
	o.sources++
	o.used = time.Now()
	return &source{object: o, from: position(req.From), peer: req.Peer}
}

// left notes that a source of o was closed.
func (c *cache) left(o *object) {
	o.sources--
	o.used = time.Now()
	if o.sources == 0 && o.old {
		c.drop(o, "version")
	}
	c.forget(o)
	if c.open--; c.open == 0 && c.empty != nil {
		close(c.empty)
		c.empty = nil
	}
}

// position is From on the line of time: Newest is before all.
func position(from time.Duration) time.Duration {
	if from == media.Newest {
		return media.None
	}
	return from
}

// request is the From for a position.
func request(at time.Duration) time.Duration {
	if at == media.None {
		return media.Newest
	}
	return at
}

// lookup returns the group at which req begins, nil when it is not in memory.
func (c *cache) lookup(req media.OpenRequest) (*object, *group) {
	o := c.current[req.Name]
	if o == nil || o.odd || req.LiveOnly {
		return nil, nil
	}
	g := o.lookup(position(req.From))
	if !g.begun() {
		return nil, nil
	}
	return o, g
}

// object returns the object of a version, and lets the one before it go.
func (c *cache) object(name string, info media.Info) *object {
	o := c.objects[key{name, info.Version}]
	if o == nil {
		c.lastID++
		o = &object{cache: c, id: c.lastID, name: name, info: info, came: time.Now(), used: time.Now()}
		c.objects[key{name, info.Version}] = o
		c.metrics.objects.Inc()
	}
	if was := c.current[name]; was != nil && was != o {
		was.old = true
		if was.sources == 0 {
			c.drop(was, "version")
			c.forget(was)
		}
	}
	o.old, o.alone = false, false
	c.current[name] = o
	return o
}

// forget removes an object of which nothing is left.
func (c *cache) forget(o *object) {
	k := key{o.name, o.info.Version}
	if o.sources > 0 || o.held > 0 || c.objects[k] != o {
		return
	}
	delete(c.objects, k)
	if c.current[o.name] == o {
		delete(c.current, o.name)
	}
	c.metrics.objects.Dec()
}

// keep puts b into memory as e.
func (c *cache) keep(e *entry, b *media.Batch) {
	if !c.policy.add(e) {
		c.metrics.evicted.WithLabelValues("size").Inc()
		return
	}
	e.batch = b
	e.group.hold()
	e.group.object.held += e.size
	c.metrics.bytes.Add(float64(e.size))
}

// read notes that a source reads e from memory.
func (c *cache) read(e *entry) {
	c.metrics.hits.Inc()
	c.policy.read(e)
	if f := e.fresh; f != nil {
		c.unfresh(e)
		f.ahead = max(f.ahead-1, 0)
		f.signal()
	}
}

func (c *cache) unfresh(e *entry) {
	if e.fresh != nil {
		e.fresh = nil
		c.fresh -= e.size
	}
}

// evicted takes the batch of e, which the policy has let go, out of the index.
func (c *cache) evicted(e *entry, cause string) {
	c.metrics.evicted.WithLabelValues(cause).Inc()
	c.release(e)
	e.group.release()
	c.forget(e.group.object)
}

// release lets the batch of e go.
func (c *cache) release(e *entry) {
	c.unfresh(e)
	e.batch = nil
	e.group.object.held -= e.size
	c.metrics.bytes.Sub(float64(e.size))
}

// discard removes a batch that is in memory twice.
func (c *cache) discard(e *entry) {
	c.policy.remove(e)
	c.release(e)
}

// drop removes all batches of o from memory.
func (c *cache) drop(o *object, cause string) {
	for _, q := range []*queue{&c.policy.small, &c.policy.main} {
		for e := q.root.next; e != &q.root; {
			next := e.next
			if e.group.object == o {
				c.policy.remove(e)
				c.evicted(e, cause)
			}
			e = next
		}
	}
}

// sweep drops the objects that are idle. A source of one that is open, of a viewer who
// has paused, goes on from upstream.
func (c *cache) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.objects {
		if time.Since(o.used) < c.idle {
			continue
		}
		for _, f := range o.fetches {
			if len(f.waiting) == 0 {
				f.ended = true
				f.cancel()
			}
		}
		c.drop(o, "idle")
		c.forget(o)
	}
}

// setOdd gives up caching o.
func (o *object) setOdd() {
	c := o.cache
	c.log.Warn("media have several join points at one time and are not cached", "name", o.name)
	o.odd = true
	for _, f := range o.fetches {
		f.ended = true
		f.cancel()
	}
	c.drop(o, "odd")
}

// Cost is that of memory when the position is held, and else upstream's.
func (c *cache) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	if req.LiveOnly {
		return media.Cost{}, fmt.Errorf("%s: only recorded media are here: %w", req.Name, media.ErrNotFound)
	}
	if c.holds(req) {
		return media.Cost{Place: "memory", Base: media.CostMemory}, nil
	}
	return media.CostOf(ctx, c.upstream, c.above(req))
}

// holds reports whether the position is in memory, and for a peer also what it needs
// to go on elsewhere when the rest is not.
func (c *cache) holds(req media.OpenRequest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, g := c.lookup(req)
	return g != nil && (req.Peer == "" || o.lends(g))
}

// Explain lists the memory and what is upstream of it.
func (c *cache) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	held := c.holds(req)
	memory := media.Candidate{Source: c.name, Cost: media.Cost{Place: "memory", Base: media.CostMemory}, Chosen: held}
	memory.Total = memory.Cost.Total()
	if !held {
		memory.Note = "the position is not in memory"
	}
	upstream, err := c.explainUpstream(ctx, c.above(req))
	if err != nil && !held {
		return nil, err
	}
	for i := range upstream {
		upstream[i].Chosen = upstream[i].Chosen && !held
	}
	return append([]media.Candidate{memory}, upstream...), nil
}

func (c *cache) explainUpstream(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	if e, ok := c.upstream.(media.Explainer); ok {
		return e.Explain(ctx, req)
	}
	cost, err := media.CostOf(ctx, c.upstream, req)
	if err != nil {
		return nil, err
	}
	return []media.Candidate{{Source: c.inputName, Cost: cost, Total: cost.Total(), Chosen: true}}, nil
}
