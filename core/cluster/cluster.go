// Package cluster is what a node knows of the other nodes, and what they know of
// it: who is there, how busy each is, which channels are on air where, and who
// may publish a name.
//
// What this node does stands whether or not the others can be told: a claim is accepted
// at once and registered in the background, held through the loss of the whole control
// plane, and lost only when the directory has given the name to another session.
package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	beatEvery    = 250 * time.Millisecond
	deafAfter    = 750 * time.Millisecond // without hearing its own beat a node is cut off; before it takes others for suspect
	suspectAfter = time.Second            // without a beat
	deadAfter    = 2 * time.Second
	assertEvery  = 10 * time.Second // all own records are compared with the directory's
	lately       = time.Minute      // a timeline goes on, and what the dead have left stays
	forgetAfter  = 10 * time.Minute // a dead node is listed
)

// A Cluster is this node's view of all nodes, and its own part among them. It
// implements stage.Nodes.
type Cluster struct {
	name, session string
	dir           Directory
	log           hclog.Logger
	metrics       *metrics
	sample        func() Load
	route         func(context.Context) string // the address by which this node is reached, "" when nothing tells

	due       chan struct{} // a beat is to be sent before its time
	work      chan struct{} // there are keys in unsettled
	again     chan struct{} // and in postponed
	questions chan question

	mu      sync.Mutex
	self    *node // what this node tells in its beats
	host    string
	listens listeners
	view
	twin      bool // another daemon has this name; told once
	claims    map[string]*Claim
	holdings  map[string]*Holding
	unsettled map[Key]bool // to be compared with the directory's
	settling  map[Key]bool // that some settler is at
	postponed map[Key]bool // for which that has failed
	failing   time.Time    // since when nothing can be registered, zero while it can
	answers   map[string]func() ([]byte, error)
	asked     map[string]chan<- answer
}

var _ stage.Nodes = (*Cluster)(nil)

// New makes this node's part of the cluster that cfg describes: over NATS, or
// in memory when the node is alone. It starts nothing and connects to nothing.
func New(cfg Config, log hclog.Logger, reg prometheus.Registerer) (*Cluster, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.alone() {
		return Over(NewMemory().Node(cfg.Name), cfg, log, reg)
	}
	dir, err := newNATS(cfg, log)
	if err != nil {
		return nil, err
	}
	return Over(dir, cfg, log, reg)
}

// Over makes a node over a directory that is there. Of cfg it needs the name, the network and
// who carries the directory.
func Over(dir Directory, cfg Config, log hclog.Logger, reg prometheus.Registerer) (*Cluster, error) {
	session := rand.Text()
	c := &Cluster{
		name:      cfg.Name,
		session:   session,
		dir:       dir,
		log:       log,
		route:     cfg.host,
		sample:    newSampler(root, cfg.Network).sample,
		due:       make(chan struct{}, 1),
		work:      make(chan struct{}, 1),
		again:     make(chan struct{}, 1),
		questions: make(chan question, 64),
		self: &node{beat: beat{
			Node: cfg.Name, Session: session, Since: time.Now().UTC().Round(0), Member: cfg.NATS == "" && cfg.Role == Member,
		}},
		view: view{
			nodes:    map[string]*node{},
			channels: map[string]*channel{},
			members:  len(cfg.Join),
			heard:    time.Now(),
			changed:  make(chan struct{}),
		},
		claims:    map[string]*Claim{},
		holdings:  map[string]*Holding{},
		unsettled: map[Key]bool{},
		settling:  map[Key]bool{},
		postponed: map[Key]bool{},
		answers:   map[string]func() ([]byte, error){},
		asked:     map[string]chan<- answer{},
	}
	var err error
	c.metrics, err = newMetrics(reg, c)
	return c, err
}

// SetSampler lets f say what the load of this node is, in place of the operating
// system. It is called before Serve.
func (c *Cluster) SetSampler(f func() Load) { c.sample = f }

// Serve takes part until ctx ends. Then it tells the others that the node is gone, and
// releases its names. An error is one of the engine in this process, which ran out of
// something or may not listen; the claims stand, and Serve may be called again.
func (c *Cluster) Serve(ctx context.Context) error {
	// The directory and its answers are needed for the farewell too.
	engine, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	failed := make(chan error, 1)
	var watching, working sync.WaitGroup
	watching.Go(func() {
		if err := c.dir.Watch(engine, c); err != nil {
			failed <- fmt.Errorf("cluster: %w", err)
			cancel()
		}
	})
	for range settlers {
		working.Go(func() { c.settleAll(ctx) })
	}
	working.Go(func() { c.resume(ctx) })
	working.Go(func() { c.locate(ctx) })
	working.Go(func() { c.answerAll(ctx) })
	c.live(ctx)
	working.Wait()

	select {
	case err := <-failed:
		watching.Wait()
		return err
	default:
	}
	c.leave(engine)
	stop()
	watching.Wait()
	return nil
}

// live sends the beats and watches those of the others until ctx ends.
func (c *Cluster) live(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var beat, assert time.Time // the next
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.due:
			beat = time.Time{}
		case <-timer.C:
		}
		now := time.Now()
		if !now.Before(beat) {
			beat = now.Add(beatEvery)
			c.mu.Lock()
			c.self.Load = c.sample()
			b := c.self.beat
			c.mu.Unlock()
			c.tell("", message{Beat: &b})
		}
		c.mu.Lock()
		if !now.Before(assert) {
			assert = now.Add(assertEvery)
			c.assert(now)
		}
		timer.Reset(min(beat.Sub(now), c.look(now)))
		c.mu.Unlock()
	}
}

// assert has all own records compared with the directory's, and those that the dead
// have left removed by one of the living. What is long gone is forgotten. The caller holds mu.
func (c *Cluster) assert(now time.Time) {
	for name := range c.claims {
		c.mark(Key{Channel: name})
	}
	for name := range c.holdings {
		c.mark(Key{name, c.name})
	}
	if c.hearing && c.first(c.name) {
		for r := range c.records() {
			if c.abandoned(r, now) {
				c.mark(r.Key)
			}
		}
	}
	c.forget(now)
}

// leave tells the others that this node is gone and removes its records, for as long
// as that may take.
func (c *Cluster) leave(ctx context.Context) {
	const limit = time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.mu.Lock()
	b := c.self.beat
	b.Gone = true
	clear(c.claims)
	clear(c.holdings)
	clear(c.unsettled)
	for r := range c.records() {
		if r.Session == c.session {
			c.mark(r.Key)
		}
	}
	c.mu.Unlock()
	c.tell("", message{Beat: &b}) // enough for the others: all of a session's records die with it
	var settling sync.WaitGroup
	for range settlers {
		settling.Go(func() { c.settleMarked(ctx) })
	}
	settling.Wait()
}

// Self is the name of this node.
func (c *Cluster) Self() string { return c.name }

// Load is the use of this node's busiest resource, 0 to 1.
func (c *Cluster) Load() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.self.Load.Max()
}

// Serves implements stage.Nodes.
func (c *Cluster) Serves(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listens.repeater = address
	c.place()
}

// SetAddresses tells the others where viewers may be sent to: the host:port at which this
// node's RTMP server and its HTTP server listen, "" for none.
func (c *Cluster) SetAddresses(rtmp, http string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listens.rtmp, c.listens.http = rtmp, http
	c.place()
}

// Drain tells the others that this node takes no new viewers and will leave.
func (c *Cluster) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.self.Draining = true
	c.notify()
	wake(c.due)
}

// Changed is closed at the next change of the nodes or the channels.
func (c *Cluster) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// wake leaves a note in a channel with room for one.
func wake(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
