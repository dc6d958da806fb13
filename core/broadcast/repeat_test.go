package broadcast

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// publisher writes numbered frames, 25 a second, from where the channel's timeline
// goes on, with a keyframe every 10.
type publisher struct {
	t     *testing.T
	sink  media.Sink
	start time.Duration
	name  string // in the frames
	n     int
}

func (n *node) publish(req media.CreateRequest) *publisher {
	n.world.t.Helper()
	s := create(n.world.t, n.Broadcast, req)
	at, _ := s.(*sink).Resume()
	return &publisher{t: n.world.t, sink: s, start: at.Truncate(time.Millisecond), name: n.name}
}

// play sends n frames in real time.
func (p *publisher) play(n int) {
	p.t.Helper()
	for range n {
		at := p.start + time.Duration(p.n)*40*time.Millisecond
		b := media.NewBatch(video, media.NoClock, media.Frame{
			Track: media.Video, Key: p.n%10 == 0, DTS: at, PTS: at, Body: fmt.Appendf(nil, "%s %d", p.name, p.n),
		})
		if err := p.sink.Write(p.t.Context(), b); err != nil {
			p.t.Fatalf("frame %d of %s: %v", p.n, p.name, err)
		}
		p.n++
		time.Sleep(40 * time.Millisecond)
	}
}

func (p *publisher) lost() error { return p.sink.(*sink).Err() }

// viewer reads a channel to its end and remembers what it saw.
type viewer struct {
	t    *testing.T
	src  media.Source
	mu   sync.Mutex
	saw  []string
	at   []time.Duration
	wait time.Duration // the longest between two frames
	err  error
	over chan struct{}
}

func (n *node) watch() *viewer {
	t := n.world.t
	t.Helper()
	src, err := n.Open(t.Context(), media.OpenRequest{Name: "show", From: media.Newest, LiveOnly: true})
	if err != nil {
		t.Fatalf("%s: %v", n.name, err)
	}
	v := &viewer{t: t, src: src, over: make(chan struct{})}
	t.Cleanup(v.leave)
	go v.run()
	return v
}

func (v *viewer) run() {
	defer close(v.over)
	last := time.Now()
	for {
		b, err := v.src.Next(context.Background())
		v.mu.Lock()
		if err != nil {
			v.err = err
			v.mu.Unlock()
			return
		}
		if len(v.saw) > 0 {
			v.wait = max(v.wait, time.Since(last))
			if b.DTS() <= v.at[len(v.at)-1] {
				v.t.Errorf("%v (%s) comes after %v", b.DTS(), b.Frames()[0].Body, v.at[len(v.at)-1])
			}
		}
		last = time.Now()
		v.saw = append(v.saw, string(b.Frames()[0].Body))
		v.at = append(v.at, b.DTS())
		v.mu.Unlock()
	}
}

func (v *viewer) leave() {
	v.src.Close()
	<-v.over
}

// seen waits until all is quiet and returns what the viewer has seen.
func (v *viewer) seen() []string {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.saw)
}

// frames are those that a publisher of that name wrote.
func frames(name string, from, to int) (list []string) {
	for n := from; n < to; n++ {
		list = append(list, fmt.Sprintf("%s %d", name, n))
	}
	return list
}

func (v *viewer) expect(want ...[]string) {
	v.t.Helper()
	if got := v.seen(); !slices.Equal(got, slices.Concat(want...)) {
		v.t.Errorf("saw %v\nwant %v", got, slices.Concat(want...))
	}
}

func TestRepeatTenNodesThousandViewers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, viewers = 10, 100
		w := newWorld(t)
		var all []*node
		for i := range nodes {
			all = append(all, w.add(fmt.Sprint("n", i), defaults))
		}
		p := all[0].publish(media.CreateRequest{})
		var watching []*viewer
		for _, n := range all {
			for range viewers {
				watching = append(watching, n.watch())
			}
		}
		p.play(100)
		for _, v := range watching {
			v.expect(frames("n0", 0, 100))
		}
		for _, n := range all[1:] {
			if got := w.crossed["n0>"+n.name]; got != 100 {
				t.Errorf("%d batches went to %s, want each of 100 once", got, n.name)
			}
			c := n.ListChannels()[0]
			if !c.Repeated || !slices.Equal(c.Path, []string{"n0", n.name}) || c.Readers != viewers {
				t.Errorf("%s lists %+v", n.name, c)
			}
		}
		if len(w.crossed) != nodes-1 {
			t.Errorf("batches crossed %v", w.crossed)
		}
		if got := all[0].ListChannels()[0].Readers; got != viewers+nodes-1 {
			t.Errorf("the owner serves %d, want %d viewers and %d nodes", got, viewers, nodes-1)
		}

		late := all[5].watch()
		late.expect(frames("n0", 90, 100))
		if got := w.crossed["n0>n5"]; got != 100 {
			t.Errorf("a late viewer had %d batches sent again", got-100)
		}
		late.leave()

		for _, v := range watching {
			v.leave()
		}
		time.Sleep(defaults.Linger - time.Second)
		synctest.Wait()
		if len(all[1].ListChannels()) != 1 {
			t.Error("the repeater does not linger")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, n := range all[1:] {
			if len(n.ListChannels()) != 0 {
				t.Errorf("%s repeats for nobody", n.name)
			}
		}
		if got := all[0].ListChannels()[0].Readers; got != 0 {
			t.Errorf("the owner has %d readers left", got)
		}
	})
}

func TestT46_ViewerBeforePublisherElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		began := time.Now()
		_, err := w.nodes["b"].Open(t.Context(), media.OpenRequest{Name: "show"})
		if !errors.Is(err, media.ErrNotFound) || time.Since(began) != defaults.Wait {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		w.nodes["b"].mu.Lock()
		if len(w.nodes["b"].seeking) != 0 {
			t.Error("it is looked for, with nobody waiting")
		}
		w.nodes["b"].mu.Unlock()

		came := make(chan *publisher, 1)
		time.AfterFunc(5*time.Second, func() { came <- w.nodes["a"].publish(media.CreateRequest{}) })
		v, other := w.nodes["b"].watch(), w.nodes["b"].watch()
		if waited := time.Since(began) - defaults.Wait; waited > 5*time.Second+maxRetry {
			t.Errorf("found after %v, the publisher came after 5s", waited)
		}
		p := <-came
		p.play(3)
		v.expect(frames("a", 0, 3))
		other.expect(frames("a", 0, 3))
		if got := w.crossed["a>b"]; got != 3 {
			t.Errorf("%d batches crossed for two viewers, want 3", got)
		}
	})
}

// A peer gets what is here, at once or not at all.
func TestOpenForPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		b := w.nodes["b"]
		began := time.Now()
		req := media.OpenRequest{Name: "show", Peer: "c"}
		ask := func(peer string, is error) {
			t.Helper()
			req.Peer = peer
			src, err := b.Open(t.Context(), req)
			if _, costs := b.Cost(t.Context(), req); !errors.Is(err, is) || !errors.Is(costs, is) {
				t.Errorf("%s gets %v, its cost is %v, want %v", peer, err, costs, is)
			}
			if src != nil {
				src.Close()
			}
		}
		ask("c", media.ErrNotFound)
		p := w.nodes["a"].publish(media.CreateRequest{})
		ask("c", media.ErrNotFound) // it is on another node
		if time.Since(began) != 0 {
			t.Error("a peer was made to wait")
		}
		v := b.watch()
		p.play(1)
		ask("c", nil)
		req.Peer = "c"
		if cost, err := b.Cost(t.Context(), req); err != nil || cost.Depth != 1 {
			t.Errorf("the cost of what is repeated is %+v, %v", cost, err)
		}
		ask("a", media.ErrUnavailable) // T64
		w.nodes["a"].die()
		synctest.Wait()
		ask("c", media.ErrUnavailable) // from nowhere
		_ = v
	})
}

// T64: two nodes that have lost their source do not take each other for one.
func TestT64_ParentLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		p := w.nodes["a"].publish(media.CreateRequest{})
		p.play(1)
		v := []*viewer{w.nodes["b"].watch(), w.nodes["c"].watch()}
		synctest.Wait()
		w.nodes["a"].die()
		died := time.Now()
		for _, v := range v {
			<-v.over
			if v.err != io.EOF || time.Since(died) != defaults.Linger {
				t.Errorf("%v after %v", v.err, time.Since(died))
			}
		}
		if w.crossed["b>c"]+w.crossed["c>b"] != 0 {
			t.Errorf("crossed %v", w.crossed)
		}
	})
}

func TestT52_PublisherComesBackElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		p := w.nodes["a"].publish(media.CreateRequest{Linger: 10 * time.Second})
		var all []*viewer
		for _, n := range w.nodes {
			all = append(all, n.watch())
		}
		p.play(20)
		p.sink.Close(t.Context())
		time.Sleep(3 * time.Second)
		q := w.nodes["b"].publish(media.CreateRequest{Linger: 10 * time.Second})
		q.play(30)
		for _, v := range all {
			v.expect(frames("a", 0, 20), frames("b", 0, 30))
			if at := v.at[20]; at < 3*time.Second+800*time.Millisecond-40*time.Millisecond || at > 4*time.Second {
				t.Errorf("the timeline goes on at %v", at)
			}
		}
		if names, _ := w.nodes["a"].Watch(); len(names) != 0 {
			t.Errorf("a still records %v", names)
		}
		if names, _ := w.nodes["b"].Watch(); len(names) != 1 {
			t.Error("b does not record")
		}
		// And back again, with the name at b until then.
		if _, err := w.nodes["a"].Create(t.Context(), media.CreateRequest{Name: "show"}); !errors.Is(err, media.ErrBusy) {
			t.Errorf("a second publisher gets %v", err)
		}
		q.sink.Close(t.Context())
		p = w.nodes["a"].publish(media.CreateRequest{})
		p.name = "a again"
		p.play(10)
		for _, v := range all {
			v.expect(frames("a", 0, 20), frames("b", 0, 30), frames("a again", 0, 10))
		}
		p.sink.Close(t.Context())
		for _, v := range all {
			<-v.over
			if v.err != io.EOF {
				t.Error(v.err)
			}
		}
	})
}

func TestT53_TwoPublishersOnTwoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		p := w.nodes["a"].publish(media.CreateRequest{})
		va, vb := w.nodes["a"].watch(), w.nodes["b"].watch()
		p.play(10)
		_, err := w.nodes["b"].Create(t.Context(), media.CreateRequest{Name: "show"})
		if !errors.Is(err, media.ErrBusy) || !strings.Contains(err.Error(), "node a") {
			t.Errorf("the second publisher gets %v", err)
		}
		q := w.nodes["b"].publish(media.CreateRequest{Takeover: true})
		if err := p.lost(); !errors.Is(err, media.ErrTakenOver) || !strings.Contains(err.Error(), "node b") {
			t.Errorf("the loser is told %v", err)
		}
		q.play(20)
		for _, v := range []*viewer{va, vb} {
			v.expect(frames("a", 0, 10), frames("b", 0, 20))
		}
		if err := p.sink.Write(t.Context(), frame(0)); !errors.Is(err, media.ErrTakenOver) {
			t.Errorf("the loser writes: %v", err)
		}
		p.sink.Close(t.Context()) // must not end what is repeated now
		q.play(5)
		va.expect(frames("a", 0, 10), frames("b", 0, 25))
		if c := w.nodes["a"].ListChannels()[0]; !c.Repeated || !slices.Equal(c.Path, []string{"b", "a"}) {
			t.Errorf("a lists %+v", c)
		}
	})
}

func TestT59_StandbyTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		p := w.nodes["a"].publish(media.CreateRequest{})
		vb, vc := w.nodes["b"].watch(), w.nodes["c"].watch()
		p.play(25)
		w.nodes["a"].die()
		time.Sleep(4 * time.Second)
		q := w.nodes["b"].publish(media.CreateRequest{})
		q.play(25)
		for _, v := range []*viewer{vb, vc} {
			v.expect(frames("a", 0, 25), frames("b", 0, 25))
			if v.wait > 6*time.Second {
				t.Errorf("nothing came for %v, the owner was away for 4s", v.wait)
			}
		}
	})
}

// T60 and T61: both sides of a partition publish; when it is over one owner is left.
func TestT61_Partition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		p := w.nodes["a"].publish(media.CreateRequest{})
		va, vb, vc := w.nodes["a"].watch(), w.nodes["b"].watch(), w.nodes["c"].watch()
		p.play(10)
		w.nodes["b"].split()
		q := w.nodes["b"].publish(media.CreateRequest{})
		var both sync.WaitGroup
		both.Go(func() { p.play(50) })
		both.Go(func() { q.play(50) })
		both.Wait()
		vc.expect(frames("a", 0, 60))
		vb.expect(frames("a", 0, 10), frames("b", 0, 50))
		w.heal()
		if err := q.lost(); !errors.Is(err, media.ErrTakenOver) || !strings.Contains(err.Error(), "a has it") {
			t.Errorf("the loser is told %v", err)
		}
		p.play(50)
		va.expect(frames("a", 0, 110))
		vc.expect(frames("a", 0, 110))
		saw := vb.seen()
		if n := len(saw); n < 60+40 || !slices.Equal(saw[n-40:], frames("a", 70, 110)) {
			t.Errorf("the loser's viewer saw %v", saw)
		}
		if vb.wait > 2*time.Second {
			t.Errorf("nothing came for %v", vb.wait)
		}
	})
}

// Sources that are opened again from where they were neither miss nor double a frame.
func TestSourceBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		p := w.nodes["a"].publish(media.CreateRequest{})
		v := w.nodes["b"].watch()
		w.nodes["c"].watch()
		for range 20 {
			p.play(7)
			w.change(func() {
				for _, l := range w.links {
					if l.to.name == "b" {
						l.cut()
					}
				}
			})
		}
		p.play(10)
		v.expect(frames("a", 0, 150))
		m := w.nodes["b"].metrics
		if got := testutil.ToFloat64(m.sources); got != 21 {
			t.Errorf("it was found %v times, want 21", got)
		}
		if testutil.ToFloat64(m.gaps) != 0 || testutil.ToFloat64(m.shifts) != 0 {
			t.Error("gaps or shifts were counted")
		}
	})
}

// Without a cluster nothing says where a channel's time began.
func TestTimelineBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		p := w.nodes["a"].publish(media.CreateRequest{})
		v := w.nodes["b"].watch()
		p.play(30)
		p.sink.Close(t.Context())
		w.mu.Lock()
		w.origins["show"] = time.Now().Add(time.Hour) // a clock that is wrong
		w.mu.Unlock()
		time.Sleep(time.Second)
		p = w.nodes["a"].publish(media.CreateRequest{})
		p.name = "again"
		p.play(30)
		v.expect(frames("a", 0, 30), frames("again", 0, 30))
		if got := testutil.ToFloat64(w.nodes["b"].metrics.shifts); got != 1 {
			t.Errorf("%v shifts were counted, want 1", got)
		}
		if v.at[30] != v.at[29]+step {
			t.Errorf("the new source begins at %v, the old one ended at %v", v.at[30], v.at[29])
		}
	})
}

// A publisher that does not ask where the timeline goes on is put there.
func TestPublisherBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, defaults)
		s := create(t, b, media.CreateRequest{Linger: time.Minute})
		write(t, s, 0, 20)
		s.Close(t.Context())
		time.Sleep(5 * time.Second)
		s = create(t, b, media.CreateRequest{})
		write(t, s, 0, 20)
		src := open(t, b, 0)
		expect(t, src, 0, 20)
		first, err := src.Next(t.Context())
		if want := 19*40*time.Millisecond + 5*time.Second; err != nil || first.DTS() != want || number(t, first) != 0 {
			t.Errorf("the second begins at %v (%v), want %v", first.DTS(), err, want)
		}
		expect(t, src, 1, 20)
	})
}

func TestRepeatListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		b := w.nodes["b"]
		p := w.nodes["a"].publish(media.CreateRequest{})
		list, err := b.Explain(t.Context(), media.OpenRequest{Name: "show"})
		if err != nil || len(list) != 2 || list[0].Chosen || !list[1].Chosen || list[1].Cost.Node != "a" {
			t.Errorf("before: %+v, %v", list, err)
		}
		if cost, err := b.Cost(t.Context(), media.OpenRequest{Name: "show"}); err != nil || cost.Node != "a" {
			t.Errorf("the cost is %+v, %v", cost, err)
		}
		b.watch()
		p.play(1)
		list, err = b.Explain(t.Context(), media.OpenRequest{Name: "show"})
		if err != nil || !list[0].Chosen || list[1].Chosen || !strings.Contains(list[0].Note, "a -> b") {
			t.Errorf("on air: %+v, %v", list, err)
		}
		if names, _ := b.Watch(); len(names) != 0 {
			t.Errorf("b would record %v", names)
		}
		if cost, err := b.Cost(t.Context(), media.OpenRequest{Name: "show"}); err != nil || cost.Node != "" || cost.Depth != 1 {
			t.Errorf("the cost is %+v, %v", cost, err)
		}
	})
}

// nodesOnly is what a stage in a process of its own gets.
type nodesOnly struct{ stage.Nodes }

func TestNeedsDirectory(t *testing.T) {
	_, err := New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Nodes: nodesOnly{}}, defaults)
	if err == nil {
		t.Error("a broadcast runs in a cluster without claiming names")
	}
}
