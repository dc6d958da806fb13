// Caches on several nodes: reader -> broker (from: peers) -> cache, and peers are given
// what the cache has.

package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broker"
	"github.com/mediad/mediad/core/cache"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// disk has films, of which every batch is a join point.
type disk struct {
	mu    sync.Mutex
	films map[string]int // the number of batches
	read  int
}

func (d *disk) len(req media.OpenRequest) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.films[req.Name]
	if !ok || req.LiveOnly {
		return 0, fmt.Errorf("no file %s: %w", req.Name, media.ErrNotFound)
	}
	return n, nil
}

func (d *disk) remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.films, name)
}

func (d *disk) Cost(_ context.Context, req media.OpenRequest) (media.Cost, error) {
	_, err := d.len(req)
	return media.Cost{Place: "disk", Base: media.CostDisk}, err
}

const second = time.Second

func (d *disk) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	n, err := d.len(req)
	if err != nil {
		return nil, err
	}
	return &reel{disk: d, name: req.Name, next: min(int(max(req.From, 0)/second), n-1), end: n}, nil
}

type reel struct {
	disk      *disk
	name      string
	next, end int
}

func (r *reel) Info() media.Info {
	return media.Info{Name: r.name, Version: "1", Duration: time.Duration(r.end) * second}
}

func (r *reel) Close() error { return nil }

var avc = &media.Header{Video: media.Format{Codec: "h264"}}

func (r *reel) Next(context.Context) (*media.Batch, error) {
	if r.next == r.end {
		return nil, io.EOF
	}
	at := time.Duration(r.next) * second
	r.next++
	r.disk.mu.Lock()
	r.disk.read++
	r.disk.mu.Unlock()
	return media.NewBatch(avc, media.NoClock, media.Frame{Track: media.Video, Key: true, DTS: at, PTS: at, Body: make([]byte, 1000)}), nil
}

// net is the nodes, and what has crossed between them.
type net struct {
	mu      sync.Mutex
	nodes   []*node
	crossed map[string]int // batches, as "from>to"
}

// node is a disk, a broker and a cache.
type node struct {
	net  *net
	name string
	load float64
	disk *disk
	top  media.Reader // the cache
}

func newNet(t *testing.T, names ...string) *net {
	n := &net{crossed: map[string]int{}}
	for _, name := range names {
		n.nodes = append(n.nodes, n.start(t, name))
	}
	return n
}

func (n *net) start(t *testing.T, name string) *node {
	d := &node{net: n, name: name, disk: &disk{films: map[string]int{}}}
	make := func(k stage.Kind, inputs ...stage.Input) media.Reader {
		s, err := k.New(stage.Env{
			Name: k.Name, Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Inputs: inputs,
		}, k.Settings())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
		return s.(media.Reader)
	}
	choice := make(broker.Kind(), stage.Input{Name: "disk", Reader: d.disk}, stage.Input{Name: "peers", Reader: peers{d}})
	d.top = make(cache.Kind(), stage.Input{Name: "broker", Reader: choice})
	return d
}

// peers reads what the other nodes have.
type peers struct{ of *node }

func (p peers) ask(ctx context.Context, req media.OpenRequest) (list []media.Candidate, best *node) {
	if req.Peer != "" {
		return nil, nil
	}
	req.Peer = p.of.name
	for _, n := range p.of.net.nodes {
		if n == p.of {
			continue
		}
		c := media.Candidate{Source: "peers"}
		cost, err := n.top.(media.Coster).Cost(ctx, req)
		if err != nil {
			c.Note = err.Error()
			list = append(list, c)
			continue
		}
		cost.Node, cost.RTT, cost.Load = n.name, time.Millisecond, n.load
		c.Cost, c.Total = cost, cost.Total()
		list = append(list, c)
		if best == nil || c.Total < list[0].Total {
			best = n
			list = append([]media.Candidate{c}, list[:len(list)-1]...)
		}
	}
	if best != nil {
		list[0].Chosen = true
	}
	return list, best
}

func (p peers) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	list, _ := p.ask(ctx, req)
	return list, nil
}

var errNobody = fmt.Errorf("no other node: %w", media.ErrNotFound)

func (p peers) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	list, best := p.ask(ctx, req)
	if best == nil {
		return media.Cost{}, errNobody
	}
	return list[0].Cost, nil
}

func (p peers) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	_, best := p.ask(ctx, req)
	if best == nil {
		return nil, errNobody
	}
	req.Peer = p.of.name
	src, err := best.top.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return &link{Source: src, net: p.of.net, way: best.name + ">" + p.of.name}, nil
}

type link struct {
	media.Source
	net *net
	way string
}

func (l *link) Next(ctx context.Context) (*media.Batch, error) {
	b, err := l.Source.Next(ctx)
	if b != nil {
		l.net.mu.Lock()
		l.net.crossed[l.way]++
		l.net.mu.Unlock()
	}
	return b, err
}

func (n *net) expect(t *testing.T, want map[string]int) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if fmt.Sprint(n.crossed) != fmt.Sprint(want) {
		t.Errorf("crossed %v, want %v", n.crossed, want)
	}
	clear(n.crossed)
}

// watch plays the batches from..to-1 of a film; to is its end when it is beyond.
func (d *node) watch(t *testing.T, name string, from, to int) {
	t.Helper()
	src, err := d.top.Open(t.Context(), media.OpenRequest{Name: name, From: time.Duration(from) * second})
	if err != nil {
		t.Fatalf("%s on %s: %v", name, d.name, err)
	}
	defer src.Close()
	n := from
	for ; n < to; n++ {
		b, err := src.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || b.DTS() != time.Duration(n)*second {
			t.Fatalf("%s on %s: batch %v, want %d; %v", name, d.name, b, n, err)
		}
	}
	if end := int(src.Info().Duration / second); n != min(to, end) {
		t.Errorf("%s on %s ended at %d of %d", name, d.name, n, end)
	}
}

const all = 1 << 20

// A film on a's disk that is watched a hundred times on b crosses once. Then c has
// it from b's memory.
func TestFilmCrossesOnce(t *testing.T) {
	n := newNet(t, "a", "b", "c")
	a, b, c := n.nodes[0], n.nodes[1], n.nodes[2]
	a.disk.films["film"] = 50
	a.load = 0.8
	var watching sync.WaitGroup
	for range 50 {
		watching.Go(func() { b.watch(t, "film", 0, all) })
	}
	watching.Wait()
	for range 50 {
		b.watch(t, "film", 0, all)
	}
	n.expect(t, map[string]int{"a>b": 50})

	list, err := c.top.(media.Explainer).Explain(t.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, l := range list {
		said = append(said, fmt.Sprintf("%s %s %s %.0f %v", l.Source, l.Cost.Node, l.Cost.Place, l.Total, l.Chosen))
	}
	if want := "peers b memory 22 true,peers a memory 42 false"; !strings.Contains(strings.Join(said, ","), want) {
		t.Errorf("explained as %q, want %q", said, want)
	}
	c.watch(t, "film", 0, all)
	c.watch(t, "film", 10, all)
	n.expect(t, map[string]int{"b>c": 50})
	if a.disk.read != 50 {
		t.Errorf("%d batches were read from the disk, want each of 50 once", a.disk.read)
	}
}

// What b has in memory ends in the middle: the rest comes from a.
func TestFilmIsPartlyCached(t *testing.T) {
	n := newNet(t, "a", "b", "c")
	a, b, c := n.nodes[0], n.nodes[1], n.nodes[2]
	a.disk.films["film"] = 50
	a.load = 0.8
	b.watch(t, "film", 0, 20)
	c.watch(t, "film", 0, all)
	n.mu.Lock()
	defer n.mu.Unlock()
	if got, had := n.crossed["b>c"], n.crossed["a>b"]; got < 15 || got > had || had > 25 {
		t.Errorf("crossed %v", n.crossed)
	}
	if got := n.crossed["b>c"] + n.crossed["a>c"]; got < 50 || got > 53 {
		t.Errorf("%d batches came to c for 50; crossed %v", got, n.crossed)
	}
}

// A peer is not given what has to be asked of a third, and what is in memory only for
// so long.
func TestPeerIsAnsweredFromHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, "a", "b")
		a, b := n.nodes[0], n.nodes[1]
		a.disk.films["film"] = 5
		a.disk.films["other"] = 5
		ask := func(of *node, name string, is error) {
			t.Helper()
			req := media.OpenRequest{Name: name, Peer: "c"}
			_, costs := of.top.(media.Coster).Cost(t.Context(), req)
			src, err := of.top.Open(t.Context(), req)
			if !errors.Is(err, is) || !errors.Is(costs, is) {
				t.Errorf("%s of %s: %v, its cost is %v, want %v", name, of.name, err, costs, is)
			}
			if src != nil {
				src.Close()
			}
		}
		ask(b, "film", media.ErrNotFound)
		b.watch(t, "film", 0, all)
		b.watch(t, "other", 0, all)
		ask(b, "film", nil)
		n.expect(t, map[string]int{"a>b": 10})

		a.disk.remove("film")
		if _, err := b.top.Open(t.Context(), media.OpenRequest{Name: "film"}); !errors.Is(err, media.ErrNotFound) {
			t.Errorf("removed: %v", err)
		}
		ask(b, "film", media.ErrNotFound) // b has learned of it
		time.Sleep(4 * time.Minute)
		b.watch(t, "other", 0, all)
		ask(b, "other", nil)
		time.Sleep(2 * time.Minute)
		ask(b, "other", media.ErrNotFound)
		b.watch(t, "other", 0, all)
		n.expect(t, map[string]int{})
	})
}

// Live media are none of a cache's business, or each viewer would have a channel of
// another node sent for itself.
func TestNoLive(t *testing.T) {
	n := newNet(t, "a", "b")
	req := media.OpenRequest{Name: "show", LiveOnly: true}
	_, costs := n.nodes[0].top.(media.Coster).Cost(t.Context(), req)
	if _, err := n.nodes[0].top.Open(t.Context(), req); !errors.Is(err, media.ErrNotFound) || !errors.Is(costs, media.ErrNotFound) {
		t.Errorf("%v, %v", err, costs)
	}
}

// Two nodes that have the same film and play it to each other's viewers as well.
func TestNoCircle(t *testing.T) {
	n := newNet(t, "a", "b", "c")
	for _, d := range n.nodes[:2] {
		d.disk.films["film"] = 30
	}
	var watching sync.WaitGroup
	for i := range 30 {
		for _, d := range n.nodes {
			watching.Go(func() { d.watch(t, "film", i%7, all) })
		}
	}
	watching.Wait()
}

// redirecting is an upstream that sends everybody away who can follow.
type redirecting struct{ *disk }

func (r redirecting) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	if req.Redirects {
		return nil, &media.RedirectError{URL: "//a/film"}
	}
	return r.disk.Open(ctx, req)
}

func TestRedirectOfWhatIsNotHere(t *testing.T) {
	n := newNet(t)
	d := n.start(t, "a")
	d.disk.films["film"] = 3
	k := cache.Kind()
	s, err := k.New(stage.Env{
		Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(),
		Inputs: []stage.Input{{Name: "broker", Reader: redirecting{d.disk}}},
	}, k.Settings())
	if err != nil {
		t.Fatal(err)
	}
	d.top = s.(media.Reader)
	req := media.OpenRequest{Name: "film", Redirects: true}
	var redirect *media.RedirectError
	if _, err := d.top.Open(t.Context(), req); !errors.As(err, &redirect) {
		t.Errorf("got %v, want the redirect", err)
	}
	d.watch(t, "film", 0, all)
	src, err := d.top.Open(t.Context(), req)
	if err != nil {
		t.Fatalf("sent away from what is in memory: %v", err)
	}
	src.Close()
}
