package repeatertcp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugintest"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus"
)

func TestMain(m *testing.M) { plugintest.Main(m, Kind()) }

// quick is a pace for tests that wait for things to go wrong.
var quick = pace{
	beat:     20 * time.Millisecond,
	silent:   10 * time.Second, // the machine may be busy with other tests
	stalled:  3 * time.Second,
	orphaned: 100 * time.Millisecond,
	ask:      500 * time.Millisecond,
	find:     2 * time.Second,
	retry:    20 * time.Millisecond,
	patience: 5 * time.Second,
	compare:  time.Hour,
}

// A node is a repeater, and what the cluster is to it.
type node struct {
	*repeater
	t    *testing.T
	stop func() error

	mu      sync.Mutex
	name    string
	load    float64
	address string
	peers   []stage.Peer
}

// newNode serves a repeater on loopback in front of the inputs. It is stopped when the test ends.
func newNode(t *testing.T, name string, settings map[string]any, inputs ...media.Reader) *node {
	t.Helper()
	n := &node{t: t, name: name}
	values := map[string]any{"listen": "127.0.0.1:0", "plain": "true"}
	for k, v := range settings {
		values[k] = v
	}
	decoded, err := Kind().Decode(values)
	if err != nil {
		t.Fatal(err)
	}
	env := stage.Env{
		Name: "test/" + name, Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Nodes: n, Drain: 10 * time.Second,
	}
	if testing.Verbose() {
		env.Log = hclog.New(&hclog.LoggerOptions{Name: name, Level: hclog.Debug})
	}
	for i, r := range inputs {
		env.Inputs = append(env.Inputs, stage.Input{Name: fmt.Sprint("test/input", i), Reader: r})
	}
	if n.repeater, err = newRepeater(env, *decoded.(*Settings), tcp{}); err != nil {
		t.Fatal(err)
	}
	n.pace = quick
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- n.Serve(ctx) }()
	n.stop = sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Error(err)
		}
	})
	if len(inputs) > 0 {
		eventually(t, "it listens", func() bool { return n.at() != "" })
	}
	return n
}

// eventually waits for what goroutines do in their own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after 20 s: %s", what)
		}
	}
}

func (n *node) at() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.address
}

// knows sets the peers of n.
func (n *node) knows(peers ...stage.Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers = peers
}

// peer is n as others are told of it.
func (n *node) peer(path ...string) stage.Peer {
	return stage.Peer{Name: n.name, Address: n.at(), Path: path}
}

// The methods of stage.Nodes.

func (n *node) Self() string { return n.name }
func (n *node) Load() float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.load
}
func (n *node) Serves(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.address = address
}
func (n *node) Peers(context.Context, string, bool) ([]stage.Peer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers, nil
}

// readAll reads media to their end.
func readAll(t *testing.T, r media.Reader, req media.OpenRequest) []*media.Batch {
	t.Helper()
	src, err := r.Open(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var list []*media.Batch
	for {
		b, err := src.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatalf("after %d batches: %v", len(list), err)
		}
		list = append(list, b)
	}
}

// hash is a fingerprint of batches and all that is in them.
func hash(batches []*media.Batch) [32]byte {
	h := sha256.New()
	for _, b := range batches {
		fmt.Fprintf(h, "%q %v\n", *b.Header(), b.Prev())
		for _, f := range b.Frames() {
			fmt.Fprintf(h, "%d %v %d %d %x\n", f.Track, f.Key, f.DTS, f.PTS, f.Body)
		}
	}
	return [32]byte(h.Sum(nil))
}

func TestRecorded(t *testing.T) {
	film := stagetest.Film(5, 3000)
	a := newNode(t, "a", nil, stagetest.Library{"film": film})
	b := newNode(t, "b", nil)
	b.knows(a.peer())
	got := readAll(t, b, media.OpenRequest{Name: "film"})
	if hash(got) != hash(film) {
		t.Errorf("other frames came than were sent: %d batches of %d", len(got), len(film))
	}
	for _, batch := range got[1:] {
		if batch.Header() != got[0].Header() {
			t.Error("the same configuration has another pointer")
		}
	}
}

func TestConformance(t *testing.T) {
	a := newNode(t, "a", nil, stagetest.Library{"film": stagetest.Film(6, 300)})
	plugintest.Reader(t, Kind(), map[string]any{"listen": "", "plain": "true", "peers": a.at()}, "film", "missing")
}

// A station is a node that has a channel on air, its own or that of another station.
type station struct {
	*node
	channels *broadcast.Broadcast
	mu       sync.Mutex
	route    []string
}

// newStation makes a station on whose channels path is told.
func newStation(t *testing.T, name string, settings map[string]any) *station {
	t.Helper()
	s := &station{route: []string{name}}
	env := stage.Env{Name: "test/broadcast", Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}
	var err error
	s.channels, err = broadcast.New(env, broadcast.Settings{Window: 10 * time.Second, Memory: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s.node = newNode(t, name, settings, s)
	return s
}

func (s *station) peer() stage.Peer { return s.node.peer(s.path()...) }

func (s *station) path() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.route
}

func (s *station) setPath(path ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.route = path
}

// Open implements media.Reader for the peers.
func (s *station) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	src, err := s.channels.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return routed{src, s}, nil
}

func (s *station) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	return s.channels.Cost(ctx, req)
}

type routed struct {
	media.Source
	station *station
}

func (r routed) Path() []string { return r.station.path() }
func (r routed) Skips() int     { return r.Source.(skipper).Skips() }
func (r routed) Missed() int64  { return r.Source.(skipper).Missed() }
func (r routed) Push(ctx context.Context, take func(*media.Batch) error) error {
	return media.Push(ctx, r.Source, take)
}
func (r routed) Buffered() int { return r.Source.(media.Buffered).Buffered() }

// publish puts a channel on air.
func (s *station) publish(name string) media.Sink {
	s.t.Helper()
	sink, err := s.channels.Create(s.t.Context(), media.CreateRequest{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { sink.Close(context.Background()) })
	return sink
}

// relay puts a channel of another station on air here, as a broadcast repeater does.
func (s *station) relay(name string) (src media.Source) {
	s.t.Helper()
	s.setPath()
	src, err := s.node.Open(s.t.Context(), media.OpenRequest{Name: name, From: media.Newest, LiveOnly: true})
	if err != nil {
		s.t.Fatal(err)
	}
	sink := s.publish(name)
	follow := func() {
		if path := src.(media.Routed).Path(); len(path) > 0 {
			s.setPath(append(slices.Clone(path), s.name)...)
		} else {
			s.setPath()
		}
	}
	follow()
	var copying sync.WaitGroup
	over := make(chan struct{})
	copying.Go(func() {
		defer close(over)
		_ = media.Copy(context.Background(), sink, src)
		sink.Close(context.Background())
	})
	copying.Go(func() {
		for {
			select {
			case <-time.After(5 * time.Millisecond):
				follow()
			case <-over:
				return
			}
		}
	})
	s.t.Cleanup(func() {
		src.Close()
		copying.Wait()
	})
	return src
}

// single cuts a film into batches of a frame, as live media come.
func single(film []*media.Batch) []*media.Batch {
	clock := media.NoClock
	var list []*media.Batch
	for _, b := range film {
		for _, f := range b.Frames() {
			one := media.NewBatch(b.Header(), clock, f)
			*clock.At(f.Track) = f.DTS
			list = append(list, one)
		}
	}
	return list
}

// frames tells apart all frames of a film.
func frames(batches []*media.Batch) (list []string) {
	for _, b := range batches {
		for _, f := range b.Frames() {
			list = append(list, fmt.Sprintf("%v %v %v %x", f.Track, f.DTS, f.PTS, sha256.Sum256(f.Body)))
		}
	}
	return list
}

// open opens a channel at the newest join point.
func open(t *testing.T, r media.Reader, name string) media.Source {
	t.Helper()
	src, err := r.Open(t.Context(), media.OpenRequest{Name: name, From: media.Newest})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// take reads n batches.
func take(t *testing.T, src media.Source, n int) []*media.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var list []*media.Batch
	for range n {
		b, err := src.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d batches: %v", len(list), n, err)
		}
		list = append(list, b)
	}
	return list
}

func write(t *testing.T, sink media.Sink, batches ...*media.Batch) {
	t.Helper()
	for _, b := range batches {
		if err := sink.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHops sends a channel through one node and through two: the very same batches arrive, and their path is told.
func TestHops(t *testing.T) {
	film := single(stagetest.Film(3, 500))
	a, b, c := newStation(t, "a", nil), newStation(t, "b", nil), newNode(t, "c", nil)
	sink := a.publish("show")
	write(t, sink, film[0])
	b.knows(a.peer())
	b.relay("show")
	eventually(t, "b has a path", func() bool { return len(b.path()) == 2 })
	eventually(t, "b has a frame", func() bool { return len(b.channels.ListChannels()) == 1 && b.channels.ListChannels()[0].Bytes > 0 })
	c.knows(b.peer())
	src := open(t, c, "show")
	got := take(t, src, 1)
	write(t, sink, film[1:]...)
	got = append(got, take(t, src, len(film)-1)...)
	if hash(got) != hash(film) {
		t.Error("other frames came than were sent")
	}
	if path := src.(media.Routed).Path(); !slices.Equal(path, []string{"a", "b"}) {
		t.Errorf("the path is %v", path)
	}
	if info := src.Info(); info.Name != "show" || !info.Live {
		t.Errorf("Info is %+v", info)
	}
	sink.Close(t.Context())
	if _, err := src.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}
