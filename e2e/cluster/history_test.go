// Who owned a name, over a time of kills, partitions and stops, checked against
// what ownership means.

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/mediad/mediad/core/rtmp"
)

// An event is something of the ownership of one name. Publishers are letters, each
// used once.
type event struct {
	what string
	who  byte
	over string // of take: the publishers that it may replace, as their nodes were in trouble
}

const (
	take = "takes"   // it was accepted, and another node lists it
	end  = "leaves"  // by its own will
	see  = "is seen" // in the list of another node
	lose = "is told" // that another has the name
)

// ownership is a register that holds one publisher at a time. One that left, or whose
// node was in trouble, may be followed by another, and so may any by one whose own node was; nobody comes back.
var ownership = porcupine.Model{
	Init: func() any { return byte(0) },
	Step: func(state, input, _ any) (bool, any) {
		owner, e := state.(byte), input.(event)
		switch {
		case e.what == take:
			return owner == 0 || strings.IndexByte(e.over, owner) >= 0, e.who
		case e.what == end && owner == e.who:
			return true, byte(0)
		case e.what == see:
			return owner == e.who, owner
		case e.what == lose:
			return owner != e.who, owner
		}
		return true, owner
	},
}

// lag is how old what a node knows may be while all is well: the time after which a node is dead, and some.
const lag = 2500 * time.Millisecond

// election is how long nothing can be registered or read when the leader of the control plane
// is lost: until there is another, and until nodes try again.
const election = 20 * time.Second

// A span of time, of a claim from its offer to its end, or of a node's trouble.
type interval struct{ from, to time.Time }

// A claim is what became of one publisher.
type claim struct {
	interval
	who   byte
	node  *node
	taken time.Time // by its node
	told  bool      // at its end
}

// A listing is who has the name, since when, as a node told it.
type listing struct {
	by    *node
	owner string
	since time.Time
	at    time.Time
}

// A trouble is what was done to a node.
type trouble struct {
	interval
	what string
}

// A history is collected while publishers come and go.
type history struct {
	t *testing.T

	mu      sync.Mutex
	claims  []claim
	letters int
	trouble map[*node][]trouble
	listed  []listing
}

// TestOwnershipHistory publishes one name from three nodes, each trying as soon
// as it can, while one node after another is cut off, frozen or killed.
func TestOwnershipHistory(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 4, "linger: 10s", "linger: 100ms")
	h := &history{t: t, trouble: map[*node][]trouble{}}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for i, n := range nodes[:members] {
		all.Go(func() { h.publish(ctx, n, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	for _, n := range nodes {
		all.Go(func() { h.look(ctx, n) })
	}
	all.Go(func() { h.disturb(ctx, nodes[:members], rand.New(rand.NewPCG(seed, 100))) })
	all.Wait()
	h.check()
}

// publish offers the name on a node again and again, and keeps it for some seconds when
// it is taken.
func (h *history) publish(ctx context.Context, n *node, rng *rand.Rand) {
	who := h.letter()
	for rest(ctx, time.Duration(rng.IntN(400))*time.Millisecond) {
		c := claim{who: who, node: n, interval: interval{from: time.Now()}}
		p, err := n.offer(show{"show", who, bits / 10})
		if err != nil {
			continue
		}
		c.taken = time.Now()
		who = h.letter()
		select {
		case <-p.done:
		case <-time.After(time.Duration(2+rng.IntN(10)) * time.Second):
		case <-ctx.Done():
		}
		c.to = time.Now()
		p.end()
		var status *rtmp.StatusError
		c.told = errors.As(p.err, &status)
		h.mu.Lock()
		h.claims = append(h.claims, c)
		h.mu.Unlock()
	}
}

func (h *history) letter() byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.letters++
	return byte('@' + h.letters)
}

// look asks a node again and again who has the name.
func (h *history) look(ctx context.Context, n *node) {
	for rest(ctx, 200*time.Millisecond) {
		c, err := n.lookUp("show")
		if err != nil || c.Owner == "" || !c.Registered {
			continue
		}
		h.mu.Lock()
		h.listed = append(h.listed, listing{n, c.Owner, c.Since, time.Now()})
		h.mu.Unlock()
	}
}

// disturb brings one node after another into trouble, and lets it recover.
func (h *history) disturb(ctx context.Context, nodes []*node, rng *rand.Rand) {
	for rest(ctx, time.Duration(2+rng.IntN(3))*time.Second) {
		n := nodes[rng.IntN(len(nodes))]
		long := time.Duration(1000+rng.IntN(5000)) * time.Millisecond
		from := time.Now()
		kind := []struct {
			what       string
			begin, end func()
		}{{"cut", n.cut, n.heal}, {"frozen", n.freeze, n.thaw}, {"killed", n.kill, n.run}}[rng.IntN(3)]
		kind.begin()
		rest(ctx, long)
		kind.end()
		h.mu.Lock()
		h.trouble[n] = append(h.trouble[n], trouble{interval{from, time.Now().Add(lag)}, kind.what})
		h.mu.Unlock()
	}
}

// rest waits, and reports whether ctx has not ended.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err() == nil
}

// inTrouble reports whether a node was in trouble at some time of an interval.
func (h *history) inTrouble(n *node, in interval) bool {
	return slices.ContainsFunc(h.trouble[n], func(t trouble) bool { return t.from.Before(in.to) && in.from.Before(t.to) })
}

// lag is how old what nodes know at a time may be: older when the control plane may just
// have lost its leader.
func (h *history) lag(at time.Time) time.Duration {
	for n := range h.trouble {
		if h.inTrouble(n, interval{at.Add(-election), at}) {
			return lag + election
		}
	}
	return lag
}

// sights are when nodes other than its own that were not in trouble have listed a claim: the first
// and the last time of each node.
func (h *history) sights(c claim) (seen []time.Time) {
	last := map[*node]time.Time{}
	for _, l := range h.listed {
		// The claim was made between the offer and the answer to it.
		made := !l.since.Before(c.from) && l.since.Before(c.taken)
		if !made || l.owner != c.node.name || l.by == c.node || h.inTrouble(l.by, interval{l.at.Add(-lag), l.at}) {
			continue
		}
		if last[l.by].IsZero() {
			seen = append(seen, l.at)
		}
		last[l.by] = l.at
	}
	return slices.AppendSeq(seen, maps.Values(last))
}

// check looks for an order of the events that ownership allows.
func (h *history) check() {
	var ops []porcupine.Operation
	add := func(e event, from, to time.Time) {
		ops = append(ops, porcupine.Operation{ClientId: len(ops), Input: e, Call: from.UnixNano(), Return: to.UnixNano()})
	}
	taken := 0
	for _, c := range h.claims {
		if c.told {
			add(event{what: lose, who: c.who}, c.to.Add(-h.lag(c.to)), c.to)
		}
		seen := h.sights(c)
		if len(seen) == 0 {
			continue // the directory never had it
		}
		taken++
		first := slices.MinFunc(seen, time.Time.Compare)
		var over strings.Builder
		for _, other := range h.claims {
			// A node that was cut off could not know of the others either.
			if h.inTrouble(other.node, interval{other.from, first}) || h.inTrouble(c.node, interval{c.from, first}) {
				over.WriteByte(other.who)
			}
		}
		add(event{take, c.who, over.String()}, c.from, first)
		for _, at := range seen {
			add(event{what: see, who: c.who}, at.Add(-h.lag(at)), at)
		}
		if !c.told {
			add(event{what: end, who: c.who}, c.to, c.to.Add(election+lag)) // its node's word may have to wait
		}
	}
	troubles := 0
	for _, list := range h.trouble {
		troubles += len(list)
	}
	h.t.Logf("%d publishers, %d of them listed by other nodes, %d times trouble, %d events", len(h.claims), taken, troubles, len(ops))
	if taken < 3 {
		h.t.Errorf("only %d publishers had the name", taken)
	}
	switch result := porcupine.CheckOperationsTimeout(ownership, ops, time.Minute); result {
	case porcupine.Illegal:
		h.t.Errorf("no order of these events is one of a single owner:\n%s", h.describe(ops))
	case porcupine.Unknown:
		h.t.Logf("not looked through within a minute:\n%s", h.describe(ops))
	}
}

// describe lists the events, and what was done to the nodes, by when they were over.
func (h *history) describe(ops []porcupine.Operation) string {
	type line struct {
		from, to int64
		text     string
	}
	var lines []line
	for _, op := range ops {
		e := op.Input.(event)
		lines = append(lines, line{op.Call, op.Return, fmt.Sprintf("%c %s", e.who, e.what)})
		if e.what == take {
			lines[len(lines)-1].text += fmt.Sprintf(" (over %q)", e.over)
		}
	}
	for _, c := range h.claims {
		lines = append(lines, line{c.from.UnixNano(), c.to.UnixNano(), fmt.Sprintf("%c publishes on %s", c.who, c.node.name)})
	}
	for n, list := range h.trouble {
		for _, t := range list {
			lines = append(lines, line{t.from.UnixNano(), t.to.UnixNano(), n.name + " is in trouble: " + t.what})
		}
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.to, b.to) })
	zero := slices.MinFunc(lines, func(a, b line) int { return cmp.Compare(a.from, b.from) }).from
	var s strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&s, "%8.3f to %8.3f: %s\n", time.Duration(l.from-zero).Seconds(), time.Duration(l.to-zero).Seconds(), l.text)
	}
	return s.String()
}
