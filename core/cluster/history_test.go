// Histories of who owns a name, under claims, takeovers, releases, kills, stops and
// partitions at random, checked with porcupine.
//
// The model is a register per name, compared and set. Its state is the session that has the name, "" for
// nobody, and the revision. What is recorded is each Claim, Release and Lookup of any node at its directory:
//   - a claim that was acknowledged replaced exactly the revision that it named, made a greater one, and put its
//     session in; it replaced another session only if that one had been out of reach (killed, cut off,
//     stopped) at the time, or if the node was told to take over;
//   - a release that was acknowledged removed exactly the revision that it named;
//   - a conflict changed nothing: it may come for no reason, while another change is on its way;
//   - a lookup tells the state;
//   - what failed otherwise happened at some time after its call, or not at all.
//
// At the end of each history, when all is healed, every name has one owner at most, the same for all
// nodes, and every claim that was neither lost nor released is the owner's.

package cluster

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
)

type verb string

const (
	claims   verb = "claim"
	releases verb = "release"
	looks    verb = "lookup"
)

// call is the input of an operation.
type call struct {
	verb    verb
	session string
	over    uint64
	mayOver func(session string) bool // replace a record of that session
}

// result is its output.
type result struct {
	outcome  outcome
	session  string // found
	revision uint64 // written or found
}

type outcome string

const (
	done     outcome = "done"
	conflict outcome = "conflict"
	unknown  outcome = "unknown"
)

// register is the state of a name.
type register struct {
	session  string
	revision uint64
	vague    bool // the revision is greater than that: nobody was told which one it is
}

// step is what one operation makes of a register, no registers when it cannot be.
func (s register) step(in call, out result) []register {
	matches := in.over == s.revision && !s.vague || in.over > s.revision && s.vague || in.over == 0 && s.session == ""
	entitled := s.session == "" || s.session == in.session || in.mayOver(s.session)
	var next register
	switch in.verb {
	case looks:
		if out.session != s.session {
			return nil
		}
		if s.session == "" || out.revision == s.revision && !s.vague {
			return []register{s}
		}
		matches, entitled = s.vague && out.revision > s.revision, true
		next = register{session: s.session, revision: out.revision}
	case claims:
		next = register{session: in.session, revision: out.revision}
		if out.outcome == unknown {
			next.revision, next.vague = max(s.revision, in.over), true
		} else {
			matches = matches && out.revision > s.revision
		}
	case releases:
		next = register{revision: max(s.revision, in.over), vague: true}
		entitled = true
	}
	switch {
	case out.outcome == conflict:
		return []register{s}
	case matches && entitled && out.outcome == unknown:
		return []register{s, next}
	case matches && entitled:
		return []register{next}
	case out.outcome == unknown:
		return []register{s}
	}
	return nil
}

var ownership = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{register{}} },
	Step: func(state, input, output any) (next []any) {
		for _, s := range state.(register).step(input.(call), output.(result)) {
			next = append(next, s)
		}
		return next
	},
}).ToModel()

// recorder is the history of a cluster.
type recorder struct {
	mu       sync.Mutex
	clock    int64
	calls    map[string][]porcupine.Operation // by channel
	clients  map[string]int
	trouble  map[string][]span // by session: when it was out of reach
	takeover map[string]bool   // session and channel
}

// span is a time, open while to is zero.
type span struct{ from, to time.Time }

func (r *recorder) now() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	return r.clock
}

// record notes one operation of a directory on a key.
func (r *recorder) record(session string, k Key, in call, do func() (result, error)) {
	if k.Holder != "" {
		_, _ = do()
		return
	}
	start, began := r.now(), time.Now()
	out, err := do()
	end := r.now()
	switch {
	case errors.Is(err, errCut), errors.Is(err, errNotReady):
		return // was not asked
	case errors.Is(err, ErrConflict):
		out.outcome = conflict
	case err != nil && in.verb == looks:
		return
	case err != nil:
		out.outcome, end = unknown, math.MaxInt64
	default:
		out.outcome = done
	}
	in.session = session
	in.mayOver = func(victim string) bool { return r.mayOver(session, victim, k.Channel, began) }
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.clients[session]; !ok {
		r.clients[session] = len(r.clients)
	}
	r.calls[k.Channel] = append(r.calls[k.Channel], porcupine.Operation{
		ClientId: r.clients[session], Input: in, Call: start, Output: out, Return: end,
	})
}

// mayOver says whether a claim that began at a time may replace victim's.
func (r *recorder) mayOver(session, victim, channel string, began time.Time) bool {
	const delay = 100 * time.Millisecond // from the decision to the call
	return r.takeover[session+channel] || slices.ContainsFunc(r.trouble[victim], func(s span) bool {
		return !s.from.After(began) && (s.to.IsZero() || s.to.After(began.Add(-deadAfter-delay)))
	})
}

func (r *recorder) troubled(session string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble[session] = append(r.trouble[session], span{from: time.Now()})
}

func (r *recorder) healed(session string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble[session][len(r.trouble[session])-1].to = time.Now()
}

// recorded is a Directory whose calls are recorded.
type recorded struct {
	Directory
	r       *recorder
	session *string // of the Cluster over it, known once it is made
}

func (d recorded) Claim(ctx context.Context, rec Record, over uint64) (revision uint64, err error) {
	d.r.record(*d.session, rec.Key, call{verb: claims, over: over}, func() (result, error) {
		revision, err = d.Directory.Claim(ctx, rec, over)
		return result{revision: revision}, err
	})
	return revision, err
}

func (d recorded) Release(ctx context.Context, k Key, revision uint64) (err error) {
	d.r.record(*d.session, k, call{verb: releases, over: revision}, func() (result, error) {
		err = d.Directory.Release(ctx, k, revision)
		return result{}, err
	})
	return err
}

func (d recorded) Lookup(ctx context.Context, k Key) (rec Record, err error) {
	d.r.record(*d.session, k, call{verb: looks}, func() (result, error) {
		rec, err = d.Directory.Lookup(ctx, k)
		return result{session: rec.Session, revision: rec.Revision}, err
	})
	return rec, err
}

// actor is a node in a history.
type actor struct {
	*Cluster
	leave   func()
	claims  map[string]*Claim
	trouble string // cut or held
}

// history plays a random history and checks it: strictly where no node can seem to be
// out of reach because the machine is busy.
func history(t *testing.T, e engine, random *rand.Rand, steps int, strict bool) {
	r := &recorder{
		calls: map[string][]porcupine.Operation{}, clients: map[string]int{},
		trouble: map[string][]span{}, takeover: map[string]bool{},
	}
	start := func(name string) *actor {
		cfg := DefaultConfig()
		cfg.Name = name
		var session string
		c, err := Over(recorded{e.directory(name), r, &session}, cfg, hclog.NewNullLogger(), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		session = c.session
		c.SetSampler(func() Load { return Load{} })
		return &actor{Cluster: c, leave: serve(t, c), claims: map[string]*Claim{}}
	}
	var nodes []*actor
	for _, name := range []string{"a", "b", "c", "d"} {
		nodes = append(nodes, start(unique(t, name)))
	}
	names := []string{unique(t, "one"), unique(t, "two")}
	heal := func(n *actor) {
		if n.trouble == "cut" {
			e.heal(n.name)
		} else {
			e.goOn(n.name)
		}
		n.trouble = ""
		r.healed(n.session)
	}
	for range steps {
		if random.IntN(2) == 0 { // the others happen at the same time
			time.Sleep(time.Duration(random.IntN(1600)) * time.Millisecond)
		}
		i, name := random.IntN(len(nodes)), names[random.IntN(len(names))]
		n := nodes[i]
		switch dice := random.IntN(10); {
		case dice < 4 && n.trouble != "held": // a stopped process does nothing
			takeover := random.IntN(4) == 0
			if takeover {
				r.mu.Lock()
				r.takeover[n.session+name] = true
				r.mu.Unlock()
			}
			if claim, err := n.Claim(name, takeover); err == nil {
				n.claims[name] = claim
			}
		case dice < 6 && n.trouble != "held":
			if claim := n.claims[name]; claim != nil {
				claim.Release()
				delete(n.claims, name)
			}
		case dice < 8 && n.trouble == "":
			n.trouble = []string{"cut", "held"}[random.IntN(2)]
			r.troubled(n.session)
			if n.trouble == "cut" {
				e.cut(n.name)
			} else {
				e.hold(n.name)
			}
		case dice < 9 && n.trouble != "":
			heal(n)
		case dice == 9 && n.trouble == "":
			r.troubled(n.session) // for ever
			e.cut(n.name)
			n.leave()
			nodes[i] = start(n.name)
		}
	}
	for _, n := range nodes {
		if n.trouble != "" {
			heal(n)
		}
	}
	for _, name := range names {
		eventually(t, slow, "one owner of "+name, func() bool { return oneOwner(nodes, name) })
	}
	for _, n := range nodes {
		n.leave()
	}
	for name, ops := range r.calls {
		for i := range ops {
			if in := ops[i].Input.(call); !strict {
				in.mayOver = func(string) bool { return true }
				ops[i].Input = in
			}
		}
		checkHistory(t, name, ops)
	}
}

// oneOwner says that all agree on who owns name, and that every claim is the owner's.
func oneOwner(nodes []*actor, name string) bool {
	owners := map[string]bool{}
	for _, n := range nodes {
		owners[owner(n.Cluster, name)] = true
	}
	if len(owners) != 1 {
		return false
	}
	kept := slices.DeleteFunc(slices.Clone(nodes), func(n *actor) bool { return n.claims[name] == nil || isLost(n.claims[name]) })
	want := ""
	if len(kept) == 1 {
		want = kept[0].name
	}
	return len(kept) <= 1 && owners[want]
}

func checkHistory(t *testing.T, name string, ops []porcupine.Operation) {
	t.Helper()
	switch porcupine.CheckOperationsTimeout(ownership, ops, time.Minute) {
	case porcupine.Illegal:
		slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
		for _, op := range ops {
			in := op.Input.(call)
			t.Logf("%4d-%-4d %s %s over %d: %+v", op.Call, op.Return, in.session[:4], in.verb, in.over, op.Output)
		}
		t.Errorf("%s had two owners at a time, or one who was not entitled", name)
	case porcupine.Unknown:
		t.Errorf("%s: porcupine found no answer in time for %d operations", name, len(ops))
	}
}

func TestHistoriesMemory(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			history(t, newMemoryEngine(), rand.New(rand.NewPCG(seed, 0)), 100, true)
		})
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func TestHistoryNATS(t *testing.T) {
	seed := rand.Uint64()
	history(t, sharedMembers(t), rand.New(rand.NewPCG(seed, 0)), 30, false)
	if t.Failed() {
		t.Errorf("with seed %d", seed)
	}
}

// The checker finds what it is there for.
func TestOwnershipModel(t *testing.T) {
	nobody := func(string) bool { return false }
	op := func(at int64, in call, out result) porcupine.Operation {
		in.mayOver = nobody
		return porcupine.Operation{Input: in, Call: at, Output: out, Return: at + 1}
	}
	first := op(0, call{verb: claims, session: "a"}, result{done, "", 1})
	for _, c := range []struct {
		name string
		next porcupine.Operation
		ok   bool
	}{
		{"a lookup", op(2, call{verb: looks}, result{done, "a", 1}), true},
		{"a lookup of nobody", op(2, call{verb: looks}, result{done, "", 0}), false},
		{"a second owner", op(2, call{verb: claims, session: "b"}, result{done, "", 2}), false},
		{"at the same time", op(1, call{verb: claims, session: "b"}, result{done, "", 2}), false},
		{"over a living owner", op(2, call{verb: claims, session: "b", over: 1}, result{done, "", 2}), false},
		{"its own", op(2, call{verb: claims, session: "a", over: 1}, result{done, "", 2}), true},
		{"a conflict", op(2, call{verb: claims, session: "b"}, result{outcome: conflict}), true},
		{"an unknown one", op(2, call{verb: claims, session: "b"}, result{outcome: unknown}), true},
		{"a release", op(2, call{verb: releases, session: "a", over: 1}, result{outcome: done}), true},
		{"a release of another revision", op(2, call{verb: releases, session: "a", over: 2}, result{outcome: done}), false},
	} {
		if got := porcupine.CheckOperations(ownership, []porcupine.Operation{first, c.next}); got != c.ok {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
