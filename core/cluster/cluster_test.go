// What a node makes of a directory, over every engine.

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/prometheus/client_golang/prometheus"
)

func claim(t *testing.T, c *Cluster, name string, takeover bool) *Claim {
	t.Helper()
	claim, err := c.Claim(name, takeover)
	if err != nil {
		t.Fatal(err)
	}
	return claim
}

// inherit claims the name of a dead node, which holds for some moments if it was
// written of late.
func inherit(t *testing.T, c *Cluster, name string) (claim *Claim) {
	t.Helper()
	eventually(t, slow, "the name of the dead is free", func() bool {
		var err error
		claim, err = c.Claim(name, false)
		return err == nil
	})
	return claim
}

// owner is who has name on air, as c sees it; "" for nobody.
func owner(c *Cluster, name string) string {
	for _, ch := range c.Channels() {
		if ch.Name == name {
			return ch.Owner
		}
	}
	return ""
}

func owns(c *Cluster, name, node string) func() bool {
	return func() bool { return owner(c, name) == node }
}

func sees(c *Cluster, node *Cluster, s State) func() bool {
	return func() bool {
		return slices.ContainsFunc(c.Nodes(), func(n Node) bool { return n.Name == node.name && n.State == s })
	}
}

// knows says that c has heard node since it hears anything.
func knows(c *Cluster, node *Cluster) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.stands(Record{Node: node.name, Session: node.session}, time.Now()) == living
	}
}

func isLost(claim *Claim) bool {
	select {
	case <-claim.Lost():
		return true
	default:
		return false
	}
}

// registered says that the directory has said so, and not only the node that claims.
func registered(c *Cluster, claims ...*Claim) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !slices.ContainsFunc(claims, func(claim *Claim) bool {
			return !c.known(Key{Channel: claim.name}).says(c.wants(Key{Channel: claim.name}))
		})
	}
}

func peers(t *testing.T, c *Cluster, name string, live bool) (list []string) {
	t.Helper()
	all, err := c.Peers(t.Context(), name, live)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		node, _, _ := strings.Cut(p.Name, "-")
		var path []string
		for _, hop := range p.Path {
			hop, _, _ = strings.Cut(hop, "-")
			path = append(path, hop)
		}
		list = append(list, fmt.Sprintf("%s %s %v", node, p.Address, path))
	}
	return list
}

func TestPeers(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b, c := join(t, e, "a"), join(t, e, "b"), join(t, e, "c")
		name := unique(t, "show")
		expect := func(of *Cluster, live bool, want ...string) {
			t.Helper()
			eventually(t, slow, fmt.Sprint(want), func() bool { return slices.Equal(peers(t, of, name, live), want) })
		}
		expect(a, false, "b b:4100 []", "c c:4100 []")
		changed := b.Changed()
		claim := claim(t, a, name, false)
		expect(b, true, "a a:4100 [a]")
		select {
		case <-changed:
		default:
			t.Error("the channel came, but nothing has changed")
		}
		h := b.Hold(name)
		h.Set([]string{a.name, b.name})
		expect(c, true, "a a:4100 [a]", "b b:4100 [a b]")
		expect(a, true, "b b:4100 [a b]")
		h.Set(nil)
		expect(c, true, "a a:4100 [a]")
		h.Set([]string{a.name, b.name})
		expect(c, true, "a a:4100 [a]", "b b:4100 [a b]")
		a.Drain()
		expect(c, true, "b b:4100 [a b]")
		expect(c, false, "b b:4100 []")
		b.Serves("")
		expect(c, false)
		h.Release()
		claim.Release()
		claim.Release()
		eventually(t, slow, "off air", owns(c, name, ""))
		if p, _ := a.Peers(t.Context(), name, false); len(p) != 1 || p[0].Load != 0.25 || a.Load() != 0.25 {
			t.Errorf("the peers of a are %v", p)
		}
	})
}

func TestSecondPublisher(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := join(t, e, "a"), join(t, e, "b")
		name := unique(t, "show")
		first := claim(t, a, name, false)
		if _, err := a.Claim(name, false); !errors.Is(err, media.ErrBusy) {
			t.Errorf("the same node claims twice: %v", err)
		}
		eventually(t, slow, "b knows a's channel", owns(b, name, a.name))
		eventually(t, slow, "b knows that a lives", knows(b, a))
		if _, err := b.Claim(name, false); !errors.Is(err, media.ErrBusy) || !strings.Contains(err.Error(), a.name) {
			t.Errorf("another node claims: %v", err)
		}
		second := claim(t, b, name, true)
		<-first.Lost()
		if err := first.Err(); !errors.Is(err, media.ErrTakenOver) || !strings.Contains(err.Error(), b.name) {
			t.Errorf("lost because %v", err)
		}
		if !second.Origin().Equal(first.Origin()) {
			t.Error("the timeline does not go on")
		}
		eventually(t, slow, "a knows b's channel", owns(a, name, b.name))
		first.Release() // of what is lost does nothing
		second.Release()
		eventually(t, slow, "off air", owns(a, name, ""))
		third := claim(t, a, name, false)
		if !third.Origin().Equal(first.Origin()) {
			t.Error("the timeline does not go on after a release")
		}
		eventually(t, slow, "a has it", registered(a, third))
		third.Release()
		if fourth := claim(t, a, name, false); fourth.Origin().Equal(first.Origin()) {
			t.Error("the node's own timeline goes on")
		}
	})
}

func TestClaimsAtOnce(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		nodes := []*Cluster{join(t, e, "a"), join(t, e, "b"), join(t, e, "c")}
		const names = 100
		claims := map[string][]*Claim{}
		for i := range names {
			name := unique(t, fmt.Sprint("show", i))
			for _, c := range nodes {
				if claim, err := c.Claim(name, false); err == nil {
					claims[name] = append(claims[name], claim)
				} else if !errors.Is(err, media.ErrBusy) {
					t.Fatal(err)
				}
			}
		}
		for name, all := range claims {
			eventually(t, slow, "one owner of "+name, func() bool {
				kept := slices.DeleteFunc(slices.Clone(all), isLost)
				return len(kept) == 1 && !slices.ContainsFunc(nodes, func(c *Cluster) bool {
					return owner(c, name) != kept[0].c.name || !registered(kept[0].c, kept[0])()
				})
			})
		}
	})
}

func TestLeave(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, leave := joinAndLeave(t, e, "a")
		b := join(t, e, "b")
		name := unique(t, "show")
		claim(t, a, name, false)
		eventually(t, slow, "b knows", owns(b, name, a.name))
		leave()
		eventually(t, suspectAfter/2, "a is gone", sees(b, a, Dead))
		if _, err := b.Claim(name, false); err != nil {
			t.Error(err)
		}
		eventually(t, slow, "b has it", func() bool { return registered(b, b.claims[name])() })
	})
}

func TestRestart(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := join(t, e, "a"), join(t, e, "b")
		name := unique(t, "show")
		claim(t, a, name, false)
		eventually(t, slow, "b knows", owns(b, name, a.name))
		e.cut(a.name) // and never comes back
		again := join(t, e, "a")
		eventually(t, slow, "the old session has ended", owns(b, name, ""))
		second := claim(t, again, name, false)
		eventually(t, slow, "the new one has it", registered(again, second))
		eventually(t, slow, "b knows", owns(b, name, a.name))
	})
}

func TestAsk(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b, c := join(t, e, "a"), join(t, e, "b"), join(t, e, "c")
		for _, node := range []*Cluster{a, b} {
			node.Answer("name", func() ([]byte, error) { return []byte(node.name), nil })
			for _, other := range []*Cluster{a, b, c} {
				eventually(t, slow, "all know one another", sees(node, other, Alive))
			}
		}
		c.Answer("name", func() ([]byte, error) { return nil, errors.New("is shy") })
		var got map[string][]byte
		var err error
		eventually(t, slow, "answers", func() bool {
			got, err = a.Ask(t.Context(), "name")
			return len(got) == 2
		})
		if string(got[a.name]) != a.name || string(got[b.name]) != b.name {
			t.Errorf("answers: %q", got)
		}
		if err == nil || !strings.Contains(err.Error(), c.name+": is shy") {
			t.Errorf("error: %v", err)
		}
		e.cut(b.name)
		ctx, cancel := context.WithTimeout(t.Context(), suspectAfter/4)
		defer cancel()
		if got, err = a.Ask(ctx, "name"); len(got) != 1 || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), b.name) {
			t.Errorf("with a node that is cut off: %q, %v", slices.Collect(maps.Keys(got)), err)
		}
	})
}

func TestT59_OwnerKilled(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := join(t, e, "a"), join(t, e, "b")
		name := unique(t, "show")
		claim(t, a, name, false)
		eventually(t, slow, "b knows", owns(b, name, a.name))
		eventually(t, slow, "b knows that a lives", knows(b, a))
		e.cut(a.name)
		start := time.Now()
		eventually(t, slow, "a is suspect", sees(b, a, Suspect))
		if p, _ := b.Peers(t.Context(), name, true); len(p) != 0 {
			t.Error("a suspect node is among the peers")
		}
		if _, err := b.Claim(name, false); !errors.Is(err, media.ErrBusy) {
			t.Errorf("a claim while the owner is suspect: %v", err)
		}
		// The bound is 2.1 s; a busy machine is given another while.
		eventually(t, 2100*time.Millisecond-time.Since(start)+busy, "a is dead", sees(b, a, Dead))
		if owner(b, name) != "" {
			t.Error("the channel of a dead node is still listed")
		}
		second := inherit(t, b, name)
		eventually(t, slow, "b has it", registered(b, second))
	})
}

// TestToldAgain has the directory tell again what the dead have written, as it does when it has another leader.
func TestToldAgain(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := join(t, e, "a"), join(t, e, "b")
		name := unique(t, "show")
		claim(t, a, name, false)
		eventually(t, slow, "b knows", owns(b, name, a.name))
		e.cut(a.name)
		eventually(t, slow, "a is dead", sees(b, a, Dead))
		time.Sleep(deadAfter) // what was written of late holds
		b.mu.Lock()
		old := b.known(Key{Channel: name}).Record
		b.mu.Unlock()
		b.Update(old)
		claim(t, b, name, false)
	})
}

func TestT60_OwnerStopped(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := join(t, e, "a"), join(t, e, "b")
		name := unique(t, "show")
		first := claim(t, a, name, false)
		eventually(t, slow, "b knows", owns(b, name, a.name))
		e.hold(a.name)
		eventually(t, slow, "a is dead", sees(b, a, Dead))
		second := inherit(t, b, name)
		eventually(t, slow, "b has it", registered(b, second))
		time.Sleep(time.Second)
		if isLost(first) {
			t.Fatal("a stopped node knows")
		}
		e.goOn(a.name)
		eventually(t, time.Second+busy, "the old owner steps down", func() bool { return isLost(first) })
		if isLost(second) || owner(a, name) != b.name {
			t.Error("the new owner stepped down too")
		}
	})
}

func TestT61_OwnerPartitioned(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := join(t, e, "a"), join(t, e, "b")
		name := unique(t, "show")
		first := claim(t, a, name, false)
		eventually(t, slow, "b knows", owns(b, name, a.name))
		e.cut(a.name)
		eventually(t, slow, "a is dead", sees(b, a, Dead))
		second := inherit(t, b, name)
		eventually(t, slow, "b has it", registered(b, second))
		time.Sleep(5 * time.Second)
		if isLost(first) || isLost(second) {
			t.Fatal("not both sides serve")
		}
		lonely := claim(t, a, unique(t, "lonely"), false) // is accepted
		e.heal(a.name)
		eventually(t, slow, "one owner", func() bool { return isLost(first) })
		eventually(t, slow, "a knows b's channel", owns(a, name, b.name))
		eventually(t, slow, "what came in between is registered", owns(b, lonely.name, a.name))
		if isLost(second) {
			t.Error("both have lost it")
		}
	})
}

func TestT62_ControlPlaneGone(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := join(t, e, "a"), join(t, e, "b")
		var claims []*Claim
		for i := range 50 {
			claims = append(claims, claim(t, a, unique(t, fmt.Sprint("show", i)), false))
		}
		h := b.Hold(claims[0].name)
		h.Set([]string{a.name, b.name})
		eventually(t, slow, "all is known", func() bool {
			return registered(a, claims...)() && owns(b, claims[49].name, a.name)() &&
				len(peers(t, a, claims[0].name, true)) == 1 && len(peers(t, b, claims[0].name, true)) == 1
		})
		before := peers(t, b, claims[0].name, true)
		e.lose()
		late := claim(t, a, unique(t, "late"), false)
		time.Sleep(5 * time.Second)
		for _, claim := range append(claims, late) {
			if isLost(claim) {
				t.Fatalf("%s is lost with the control plane", claim.name)
			}
		}
		missed := sees(b, a, Suspect) // a beat was late when the directory went, on a busy machine
		if now := peers(t, b, claims[0].name, true); !slices.Equal(now, before) && !missed() {
			t.Errorf("without the control plane the peers are %v, they were %v", now, before)
		}
		if up := sees(b, a, Dead); up() {
			t.Error("who cannot hear takes others for dead")
		}
		e.restore(t)
		eventually(t, slow, "all is registered again", func() bool {
			return registered(a, append(claims, late)...)() && owns(b, late.name, a.name)() &&
				len(peers(t, a, claims[0].name, true)) == 1
		})
		for _, claim := range append(claims, late) {
			if isLost(claim) {
				t.Errorf("%s is lost", claim.name)
			}
		}
	})
}

// busy is how much later than its bound something may happen on this machine,
// which is shared and has few processors.
const busy = 9 * time.Second

// mute is the directory of a node whose messages no other node gets.
type mute struct {
	Directory
	name   string
	claims *atomic.Int32
}

func (m mute) Tell(_ string, message []byte) error { return m.Directory.Tell(m.name, message) }

func (m mute) Claim(ctx context.Context, r Record, over uint64) (uint64, error) {
	m.claims.Add(1)
	return m.Directory.Claim(ctx, r, over)
}

// Two nodes that reach the directory but not each other take each other for dead: they do
// not take a name from each other for ever.
func TestBeatsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written atomic.Int32
		e := newMemoryEngine()
		start := func(name string) *Cluster {
			cfg := DefaultConfig()
			cfg.Name = name
			c, err := Over(mute{e.directory(name), name, &written}, cfg, hclog.NewNullLogger(), prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			serve(t, c)
			return c
		}
		a, b := start("a"), start("b")
		first := claim(t, a, "show", false)
		eventually(t, slow, "a has it", registered(a, first))
		time.Sleep(2 * deadAfter)
		second := claim(t, b, "show", false)
		time.Sleep(2 * assertEvery)
		if isLost(first) == isLost(second) || written.Load() > 4 {
			t.Errorf("a has lost it: %v, b has lost it: %v, after %d claims", isLost(first), isLost(second), written.Load())
		}
	})
}

// island is the directory of a member that hears itself over its own server while a partition
// keeps it from the others.
type island struct {
	Directory
	name string
	*sea
}

// sea is what an island is cut off from, unless it is bridged.
type sea struct{ directory, messages atomic.Bool }

func (i island) Claim(ctx context.Context, r Record, over uint64) (uint64, error) {
	if !i.directory.Load() {
		return 0, errCut
	}
	return i.Directory.Claim(ctx, r, over)
}

func (i island) Tell(to string, message []byte) error {
	if !i.messages.Load() {
		to = i.name
	}
	return i.Directory.Tell(to, message)
}

func (i island) Watch(ctx context.Context, w Watcher) error {
	return i.Directory.Watch(ctx, islander{w, i})
}

// islander is told what reaches the island.
type islander struct {
	Watcher
	island
}

func (i islander) Message(b []byte) {
	var m message
	if i.messages.Load() || json.Unmarshal(b, &m) == nil && m.Beat.Node == i.name {
		i.Watcher.Message(b)
	}
}

// The smaller side of a partition does not take a name from the greater, even if it can write the
// directory before it hears the others again.
func TestT61_MajorityKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newMemoryEngine()
		between := &sea{}
		between.directory.Store(true)
		between.messages.Store(true)
		start := func(name string) *Cluster {
			cfg := DefaultConfig()
			cfg.Name, cfg.Join = name, []string{"a", "b", "c"}
			dir := e.directory(name)
			if name == "a" {
				dir = island{dir, name, between}
			}
			c, err := Over(dir, cfg, hclog.NewNullLogger(), prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			serve(t, c)
			return c
		}
		a, b, c := start("a"), start("b"), start("c")
		kept := claim(t, b, "show", false)
		eventually(t, slow, "a knows", owns(a, "show", "b"))
		between.directory.Store(false)
		between.messages.Store(false)
		eventually(t, slow, "b is dead for a", sees(a, b, Dead))
		time.Sleep(2 * deadAfter)
		taken := claim(t, a, "show", false)
		between.directory.Store(true)
		time.Sleep(2 * assertEvery)
		if isLost(taken) || isLost(kept) {
			t.Fatal("a node that cannot hear the others has decided")
		}
		between.messages.Store(true)
		eventually(t, slow, "a steps down", func() bool { return isLost(taken) })
		if isLost(kept) || owner(c, "show") != "b" {
			t.Error("the smaller side has the name")
		}
	})
}
