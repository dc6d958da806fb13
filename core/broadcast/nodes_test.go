// Nodes in memory: a directory as the cluster's, and a reader as the repeater's.

package broadcast

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// world is a number of nodes and what they know of each other.
type world struct {
	t       *testing.T
	mu      sync.Mutex
	nodes   map[string]*node
	claims  []*fakeClaim
	holds   []*fakeHolding
	origins map[string]time.Time
	links   []*link
	crossed map[string]int // batches from the first node to the second, as "a>b"
	changed chan struct{}
}

type node struct {
	*Broadcast
	world *world
	name  string
	side  int // nodes on different sides do not see each other
	load  float64
	alive context.Context
	kill  context.CancelFunc
}

func newWorld(t *testing.T, names ...string) *world {
	w := &world{t: t, nodes: map[string]*node{}, origins: map[string]time.Time{}, crossed: map[string]int{}, changed: make(chan struct{})}
	for _, name := range names {
		w.add(name, defaults)
	}
	return w
}

func (w *world) add(name string, s Settings) *node { return w.addTo(name, s, nil) }

// addTo adds a node to another directory than the world's own.
func (w *world) addTo(name string, s Settings, nodes stage.Nodes) *node {
	n := &node{world: w, name: name}
	if nodes == nil {
		nodes = n
	}
	n.alive, n.kill = context.WithCancel(context.Background())
	n.Broadcast = serve(w.t, stage.Env{
		Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Nodes: nodes,
		Inputs: []stage.Input{{Name: "peers", Reader: peers{n}}},
	}, s)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[name] = n
	return n
}

// change does f and tells all of it.
func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	for _, l := range w.links {
		if !l.to.sees(l.from) {
			l.cut()
		}
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// die is kill -9: nobody is told anything by n.
func (n *node) die() { n.world.change(n.kill) }

// split puts a node on another side; heal ends that, and leaves each name to the
// node that claimed it first.
func (n *node) split() { n.world.change(func() { n.side++ }) }

func (w *world) heal() {
	w.change(func() {
		has := map[string]*fakeClaim{}
		for _, n := range w.nodes {
			n.side = 0
		}
		for _, c := range w.claims {
			if first := has[c.name]; first != nil && !c.over() {
				c.lose(fmt.Errorf("%w: %s has it", media.ErrTakenOver, first.node.name))
			} else if !c.over() {
				has[c.name] = c
			}
		}
	})
}

func (n *node) sees(other *node) bool {
	return n != other && n.side == other.side && n.alive.Err() == nil && other.alive.Err() == nil
}

func (n *node) Self() string  { return n.name }
func (n *node) Load() float64 { return n.load }
func (n *node) Serves(string) {}

func (n *node) Changed() <-chan struct{} {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	return n.world.changed
}

func (n *node) Peers(_ context.Context, name string, _ bool) (list []stage.Peer, _ error) {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	for _, c := range n.world.claims {
		if c.name == name && !c.over() && n.sees(c.node) {
			list = append(list, stage.Peer{Name: c.node.name, Load: c.node.load, Path: []string{c.node.name}})
		}
	}
	for _, h := range n.world.holds {
		if h.name == name && len(h.path) > 0 && n.sees(h.node) {
			list = append(list, stage.Peer{Name: h.node.name, Load: h.node.load, Path: h.path})
		}
	}
	return list, nil
}

type fakeClaim struct {
	node *node
	name string
	once sync.Once
	gone chan struct{} // lost or released
	err  error
}

func (n *node) Claim(name string, takeover bool) (Claim, error) {
	c := &fakeClaim{node: n, name: name, gone: make(chan struct{})}
	var err error
	n.world.change(func() {
		for _, other := range n.world.claims {
			if other.name != name || other.over() || !n.sees(other.node) {
				continue
			}
			if !takeover {
				err = fmt.Errorf("%w by node %s", media.ErrBusy, other.node.name)
				return
			}
			other.lose(fmt.Errorf("%w on node %s", media.ErrTakenOver, n.name))
		}
		n.world.claims = append(n.world.claims, c)
		if _, ok := n.world.origins[name]; !ok {
			n.world.origins[name] = time.Now()
		}
	})
	return c, err
}

func (c *fakeClaim) Lost() <-chan struct{} { return c.gone }
func (c *fakeClaim) Err() error            { return c.err }
func (c *fakeClaim) Release()              { c.node.world.change(func() { c.lose(errors.New("released")) }) }

func (c *fakeClaim) Origin() time.Time {
	c.node.world.mu.Lock()
	defer c.node.world.mu.Unlock()
	return c.node.world.origins[c.name]
}

func (c *fakeClaim) lose(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.gone)
	})
}

func (c *fakeClaim) over() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

type fakeHolding struct {
	node *node
	name string
	path []string
}

func (n *node) Hold(name string) Holding {
	h := &fakeHolding{node: n, name: name}
	n.world.change(func() { n.world.holds = append(n.world.holds, h) })
	return h
}

func (h *fakeHolding) Set(path []string) { h.node.world.change(func() { h.path = slices.Clone(path) }) }

func (h *fakeHolding) Release() {
	h.node.world.change(func() {
		h.node.world.holds = slices.DeleteFunc(h.node.world.holds, func(o *fakeHolding) bool { return o == h })
	})
}

// peers is the reader of other nodes' channels.
type peers struct{ node *node }

// ask asks all peers and returns the best.
func (p peers) ask(ctx context.Context, req media.OpenRequest) (*node, media.Cost, error) {
	list, _ := p.node.nodes.Peers(ctx, req.Name, true)
	req.Peer = p.node.name
	var best *node
	var least media.Cost
	err := fmt.Errorf("no peer has it: %w", media.ErrNotFound)
	for _, peer := range list {
		if slices.Contains(peer.Path, p.node.name) {
			continue
		}
		p.node.world.mu.Lock()
		n := p.node.world.nodes[peer.Name]
		p.node.world.mu.Unlock()
		cost, refused := n.Cost(ctx, req)
		if refused != nil {
			err = refused
			continue
		}
		cost.Node, cost.RTT, cost.Load = peer.Name, time.Millisecond, peer.Load
		if best == nil || cost.Total() < least.Total() {
			best, least, err = n, cost, nil
		}
	}
	return best, least, err
}

func (p peers) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	_, cost, err := p.ask(ctx, req)
	return cost, err
}

func (p peers) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	n, _, err := p.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	req.Peer = p.node.name
	src, err := n.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	l := &link{Source: src, from: n, to: p.node}
	l.up, l.cut = context.WithCancel(context.Background())
	p.node.world.change(func() { p.node.world.links = append(p.node.world.links, l) })
	return l, nil
}

// link is a source on another node. It fails when the two do not see each other any more.
type link struct {
	media.Source
	from, to *node
	up       context.Context
	cut      context.CancelFunc
}

func (l *link) Path() []string {
	if l.up.Err() != nil {
		return nil
	}
	return l.Source.(media.Routed).Path()
}

func (l *link) Next(ctx context.Context) (*media.Batch, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.up, cancel)()
	b, err := l.Source.Next(ctx)
	if l.up.Err() != nil {
		return nil, fmt.Errorf("node %s is gone: %w", l.from.name, media.ErrUnavailable)
	}
	if b != nil {
		l.to.world.mu.Lock()
		l.to.world.crossed[l.from.name+">"+l.to.name]++
		l.to.world.mu.Unlock()
	}
	return b, err
}
