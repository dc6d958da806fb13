// Channels that lose their parent, or find a better one.

package repeatertcp

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// reparents is how often a node has changed the parent of a channel for a reason.
func (n *node) reparents(reason string) int {
	return int(testutil.ToFloat64(n.metrics.reparents.WithLabelValues(reason)))
}

// refusals is how often a node has refused a peer for a reason.
func (n *node) refusals(reason string) int {
	return int(testutil.ToFloat64(n.metrics.refused.WithLabelValues(reason)))
}

// Two stations with the same channel on air, of which the first is cheaper, and a node that has it from there.
type pair struct {
	t     *testing.T
	a, b  *station
	sinks []media.Sink
	child *node
	src   media.Source
	film  []*media.Batch
	sent  int // by a; b has sent the same unless it lags
	read  int
}

func newPair(t *testing.T, pace pace) *pair {
	p := &pair{t: t, a: newStation(t, "a", nil), b: newStation(t, "b", nil), child: newNode(t, "child", nil)}
	p.film = single(stagetest.Film(40, 300))
	p.sinks = []media.Sink{p.a.publish("show"), p.b.publish("show")}
	p.child.pace = pace
	p.b.setLoad(0.8) // costs 20 more
	p.child.knows(p.a.peer(), p.b.peer())
	p.send(70)
	p.src = open(t, p.child, "show")
	p.read = 50 // where the newest GOP begins
	p.take(20)
	return p
}

func (n *node) setLoad(load float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.load = load
}

// send puts the next n frames on air.
func (p *pair) send(n int) {
	p.t.Helper()
	for _, s := range p.sinks {
		write(p.t, s, p.film[p.sent:p.sent+n]...)
	}
	p.sent += n
}

// take reads the next n frames at the child, which must be those that follow.
func (p *pair) take(n int) {
	p.t.Helper()
	got := take(p.t, p.src, n)
	if !slices.Equal(frames(got), frames(p.film[p.read:p.read+n])) {
		p.t.Fatalf("after %d frames others come than follow, the first at %v", p.read, got[0].DTS())
	}
	p.read += n
}

// goOn sends and reads, one frame after the other, until the node has changed its parent for the reason.
func (p *pair) goOn(reason string) {
	p.t.Helper()
	for p.child.reparents(reason) == 0 && p.sent < len(p.film) {
		p.send(1)
		p.take(1)
		time.Sleep(time.Millisecond) // a frame takes its time
	}
	if n := p.child.reparents(reason); n != 1 {
		p.t.Fatalf("%d changes of parents because it is %s, want 1", n, reason)
	}
	p.send(20)
	p.take(20)
	if n := p.src.(skipper).Skips(); n != 0 {
		p.t.Errorf("%d skips", n)
	}
}

// TestChanges leaves one parent for another, and no frame is lost or doubled.
func TestChanges(t *testing.T) {
	often := quick
	often.compare = 20 * time.Millisecond
	for _, c := range []struct {
		reason string
		pace   pace
		change func(p *pair)
	}{
		{"cheaper", often, func(p *pair) { p.a.setLoad(0.94) }},
		{"orphan", quick, func(p *pair) { p.a.setPath() }},
		{"deep", quick, func(p *pair) { p.a.setPath("x", "y", "z", "a") }},
		{"loop", quick, func(p *pair) { p.a.setPath("x", "child", "a") }},
		{"draining", quick, func(p *pair) { go p.a.stop() }},
	} {
		t.Run(c.reason, func(t *testing.T) {
			p := newPair(t, c.pace)
			c.change(p)
			p.goOn(c.reason)
			if path := p.src.(media.Routed).Path(); !slices.Equal(path, []string{"b"}) {
				t.Errorf("the path is %v", path)
			}
		})
	}
}

// TestFive makes a tree of five nodes, of which the owner takes two: all have the same frames.
func TestFive(t *testing.T) {
	film := single(stagetest.Film(2, 300))
	owner := newStation(t, "owner", map[string]any{"children": "2"})
	sink := owner.publish("show")
	write(t, sink, film[0])
	all := []*station{owner}
	for _, name := range []string{"v", "w", "x", "y"} {
		s := newStation(t, name, map[string]any{"children": "2"})
		var peers []stage.Peer
		for _, other := range all {
			peers = append(peers, other.peer())
		}
		s.knows(peers...)
		s.relay("show")
		eventually(t, name+" has the channel", func() bool { return s.channels.ListChannels()[0].Bytes > 0 })
		all = append(all, s)
	}
	watcher := newNode(t, "watcher", nil)
	var sources []media.Source
	for _, s := range all[1:] {
		if n := len(s.path()); n < 2 || n > maxDepth+1 {
			t.Errorf("%s has the path %v", s.name, s.path())
		}
		src, err := s.Open(t.Context(), media.OpenRequest{Name: "show"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { src.Close() })
		sources = append(sources, src)
	}
	watcher.knows(all[4].peer())
	sources = append(sources, open(t, watcher, "show"))
	if n := owner.children("show"); n != 2 {
		t.Errorf("the owner has %d children", n)
	}
	write(t, sink, film[1:]...)
	for i, src := range sources {
		if hash(take(t, src, len(film))) != hash(film) {
			t.Errorf("source %d: other frames came than were sent", i)
		}
	}
}

// TestStays keeps a parent that is not much dearer than the others.
func TestStays(t *testing.T) {
	often := quick
	often.compare = time.Millisecond
	p := newPair(t, often)
	p.a.setLoad(0.85) // 28, and b 20, besides 21 for each
	for range 300 {
		p.send(1)
		p.take(1)
		time.Sleep(time.Millisecond)
	}
	if n := p.child.reparents("cheaper"); n != 0 {
		t.Errorf("%d changes", n)
	}
}

// TestOrphanStays keeps a parent that has the channel from nobody for a while, when there is no other.
func TestOrphanStays(t *testing.T) {
	p := newPair(t, quick)
	p.b.setPath()
	p.a.setPath()
	eventually(t, "the child has no path", func() bool { return len(p.src.(media.Routed).Path()) == 0 })
	eventually(t, "the child looks elsewhere", func() bool { return p.b.refusals(refusedOrphan) > 2 })
	p.a.setPath("a")
	eventually(t, "the path is back", func() bool { return len(p.src.(media.Routed).Path()) == 1 })
	p.send(20)
	p.take(20)
	if n := p.child.reparents("orphan"); n != 0 {
		t.Errorf("%d changes of parents", n)
	}
}

// TestLaggingParent goes over to a parent that has not come to the place yet.
func TestLaggingParent(t *testing.T) {
	p := newPair(t, quick)
	p.only(0)
	behind := p.sent
	p.send(40) // beyond a keyframe that b has not
	p.take(40)
	go p.a.stop()
	eventually(t, "b is asked", func() bool { return p.b.children("show") > 0 })
	p.only(1)
	write(t, p.sinks[0], p.film[behind:p.sent]...)
	p.goOn("draining")
}

// only lets one of the two send from now on.
func (p *pair) only(i int) { p.sinks = p.sinks[i : i+1] }

// children is how many nodes have a channel open at n.
func (n *node) children(name string) int {
	n.repeater.mu.Lock()
	defer n.repeater.mu.Unlock()
	return len(n.channels[name].of)
}

// TestGap goes on with a parent that has not what follows: at its next keyframe.
func TestGap(t *testing.T) {
	film := single(stagetest.Film(40, 300))
	others := single(stagetest.Film(40, 200))
	for _, c := range []struct {
		name       string
		has, comes []*media.Batch // of the other parent: at first, and then
		want       []*media.Batch
	}{
		{"frames are missing", nil, film[110:160], film[150:160]},
		{"other frames", others[50:120], others[120:130], others[100:130]},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b, child := newStation(t, "a", nil), newStation(t, "b", nil), newNode(t, "child", nil)
			child.knows(a.peer(), b.peer())
			write(t, a.publish("show"), film[:70]...)
			src := open(t, child, "show")
			take(t, src, 20)
			sink := b.publish("show")
			write(t, sink, c.has...)
			a.end() // its connections are lost
			write(t, sink, c.comes...)
			got := take(t, src, len(c.want))
			if !slices.Equal(frames(got), frames(c.want)) {
				t.Errorf("it goes on at %v, want %v", got[0].DTS(), c.want[0].DTS())
			}
			if n := src.(skipper).Skips(); n != 1 {
				t.Errorf("%d skips", n)
			}
		})
	}
}

// TestPatience ends a channel that nobody has any more.
func TestPatience(t *testing.T) {
	impatient := quick
	impatient.patience = 100 * time.Millisecond
	p := newPair(t, impatient)
	p.child.knows()
	p.a.end() // all its connections are lost
	if _, err := p.src.Next(t.Context()); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := p.src.Next(t.Context()); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("then %v", err)
	}
}

// TestT63_SlowLink has two children, one of them behind a slow link: it goes on at a
// keyframe, and the other one misses nothing.
func TestT63_SlowLink(t *testing.T) {
	a := newStation(t, "a", nil)
	link := newProxy(t, a.at())
	slow, other := newNode(t, "slow", nil), newNode(t, "other", nil)
	slow.knows(stage.Peer{Name: "a", Address: link.address(), Path: []string{"a"}})
	other.knows(a.peer())
	film := single(stagetest.Film(40, 25000)) // 40 MB
	sink := a.publish("show")
	write(t, sink, film[0])
	src, untouched := open(t, slow, "show"), open(t, other, "show")
	take(t, src, 1)
	take(t, untouched, 1)
	stop := link.slowDown(t)
	for i := 1; i < len(film); i++ {
		write(t, sink, film[i])
		link.allow(6) // of 25; with less the owner could not send what it does at once within its 10 s, on a busy machine
		if got := take(t, untouched, 1); hash(got) != hash(film[i:i+1]) {
			t.Fatalf("frame %d is not the one that was sent", i)
		}
	}
	stop()
	next, missed, last := 1, 0, film[len(film)-1].DTS()
	for {
		b := take(t, src, 1)[0]
		if !slices.Equal(frames([]*media.Batch{b}), frames(film[next:next+1])) {
			if !b.Join() {
				t.Fatalf("after frame %d that at %v comes, which is no keyframe", next, b.DTS())
			}
			for film[next].DTS() != b.DTS() {
				next++
				missed++
			}
		}
		next++
		if b.DTS() == last {
			break
		}
	}
	s := src.(skipper)
	if s.Skips() == 0 || int(s.Missed()) != missed || missed == 0 {
		t.Errorf("%d skips past %d frames, %d frames did not come", s.Skips(), s.Missed(), missed)
	}
	if n := untouched.(skipper).Skips(); n != 0 {
		t.Errorf("the other child has skipped %d times", n)
	}
	if n := slow.reparents("silent"); n != 0 {
		t.Errorf("the slow child has lost its parent %d times", n)
	}
}

// TestT64_ParentLoop lets a node ask for a channel that comes through itself.
func TestT64_ParentLoop(t *testing.T) {
	o, b, c := newStation(t, "o", nil), newStation(t, "b", nil), newStation(t, "c", nil)
	write(t, o.publish("show"), single(stagetest.Film(1, 100))...)
	b.knows(o.peer())
	b.relay("show")
	c.knows(b.peer())
	c.relay("show")
	eventually(t, "the path is known", func() bool { return slices.Equal(c.path(), []string{"o", "b", "c"}) })

	// The one who asks knows the path.
	b.knows(c.peer())
	req := media.OpenRequest{Name: "show", LiveOnly: true}
	if _, err := b.node.Open(t.Context(), req); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("b opens its own child: %v", err)
	}
	if n := c.refusals(refusedLoop); n != 0 {
		t.Errorf("c was asked %d times", n)
	}
	// It does not.
	b.knows(c.node.peer())
	if _, err := b.node.Open(t.Context(), req); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("b opens its own child: %v", err)
	}
	if n := c.refusals(refusedLoop); n != 1 {
		t.Errorf("c has refused %d times, want 1", n)
	}
}

// TestT65_MiddleRelayDies has two children of a relay that dies, as a process and as a machine.
// Within 2 s they have the frames that follow from the owner.
func TestT65_MiddleRelayDies(t *testing.T) {
	for _, c := range []struct {
		name   string
		die    func(p *proxy)
		reason string
		pace   pace
	}{
		{"process", (*proxy).cut, "hung_up", quick},
		{"machine", (*proxy).hang, "silent", usualPace},
	} {
		t.Run(c.name, func(t *testing.T) {
			owner, relay := newStation(t, "owner", nil), newStation(t, "relay", nil)
			relay.knows(owner.peer())
			film := single(stagetest.Film(40, 200))
			sink := owner.publish("show")
			write(t, sink, film[0])
			relay.relay("show")
			link := newProxy(t, relay.at())
			owner.setLoad(0.8) // so the relay is cheaper
			middle := stage.Peer{Name: "relay", Address: link.address(), Path: []string{"owner", "relay"}}

			var sources []media.Source
			var nodes []*node
			for _, name := range []string{"x", "y"} {
				n := newNode(t, name, nil)
				n.pace = c.pace
				n.knows(middle, owner.peer())
				src := open(t, n, "show")
				for tries := 1; len(src.(media.Routed).Path()) != 2; tries++ { // its answer was late, on a busy machine
					if tries == 20 {
						t.Fatalf("the parent is not the relay: %v", src.(media.Routed).Path())
					}
					_ = src.Close()
					src = open(t, n, "show")
				}
				take(t, src, 1)
				nodes, sources = append(nodes, n), append(sources, src)
			}

			ctx, cancel := context.WithCancel(t.Context())
			var publishing sync.WaitGroup
			defer publishing.Wait()
			defer cancel()
			publishing.Go(func() {
				for _, b := range film[1:] {
					if !wait(ctx, 4*time.Millisecond) || sink.Write(ctx, b) != nil {
						return
					}
				}
			})
			for i, src := range sources {
				if got := take(t, src, 20); !slices.Equal(frames(got), frames(film[1:21])) {
					t.Fatalf("child %d: other frames come", i)
				}
			}
			c.die(link)
			died := time.Now()
			for i, src := range sources {
				for at := 21; ; at++ {
					if got := take(t, src, 1); !slices.Equal(frames(got), frames(film[at:at+1])) {
						t.Fatalf("child %d: after %d frames that at %v comes", i, at, got[0].DTS())
					}
					if nodes[i].reparents(c.reason) == 1 {
						break
					}
				}
				d := time.Since(died)
				t.Logf("child %d has another parent after %v of 2 s", i, d)
				if d > 6*time.Second { // the machine may be busy with other tests
					t.Errorf("child %d has another parent after %v", i, d)
				}
				if path := src.(media.Routed).Path(); !slices.Equal(path, []string{"owner"}) {
					t.Errorf("child %d: the path is %v", i, path)
				}
			}
		})
	}
}
