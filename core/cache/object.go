// What is known of the batches of one version of some media, and of their order.

package cache

import (
	"cmp"
	"slices"
	"time"

	"github.com/mediad/mediad/core/media"
)

// object is one version of some media. All of it is guarded by cache.mu.
type object struct {
	cache   *cache
	id      uint64
	name    string // that it was opened by
	info    media.Info
	groups  []*group // those to which their time leads, by time
	head    *group   // where an open before the first time begins, unless it is one of groups
	fetches []*fetch
	sources int   // open
	held    int64 // bytes in memory
	used    time.Time
	came    time.Time // when this version was first seen; zero when it was removed
	local   bool      // upstream has it without asking other nodes
	// old: a newer version is known, so nobody opens this one any more.
	old bool
	// odd: several of its join points have one time, or time goes back, so that
	// a time does not tell where an open begins. It is not cached.
	odd bool
	// alone: upstream could not be opened and what is in memory is served.
	alone bool
}

// group is a join point and the batches after it up to the next join point: a
// GOP. Its batches are found by their number, which is certain where times are
// not: batches of a group may have equal ones.
//
// A group is in the index by its time once it is settled, which means that an open
// at its time begins with it. Of one that follows another in what a fetch reads,
// or that starts the media, that is known when it is closed: the join point after
// it could have had the same time. Before, it is known as the continuation of the other
// alone, or as the head.
type group struct {
	object  *object
	at      time.Duration
	join    bool // it begins with a join point; the head need not
	entries []*entry
	refs    int // its entries in memory, and the sources and fetches that stand in it

	// A source that is opened at from gives the first entry after skip batches.
	from time.Duration
	skip int

	settled bool
	prev    *group // the group it continues, while it is not settled
	same    *group // the group that it turned out to be

	// Upstream was seen to begin here for positions from first to asked, both None
	// when it was not; start tells that nothing comes before.
	first, asked time.Duration
	start        bool

	closed bool          // all its entries are known, and what follows:
	last   bool          // nothing,
	next   time.Duration // or a join point at this time,
	sure   bool          // which is settled,
	cont   *group        // or is not and is this one
}

// self is the group that g turned out to be.
func (g *group) self() *group {
	for g.same != nil {
		g = g.same
	}
	return g
}

// begun reports whether the first batch of g, which may be nil, is in memory.
func (g *group) begun() bool {
	return g != nil && len(g.entries) > 0 && g.entries[0].batch != nil
}

// follows is the group after g, nil when it is not known.
func (g *group) follows() *group {
	if g.sure {
		return g.object.find(g.next)
	}
	if g.cont != nil {
		return g.cont.self()
	}
	return nil
}

// lends reports whether a peer may have g from memory alone. All of it and the beginning of
// what follows must be there: a peer that comes to the end of what there is looks for the rest
// from the join point before it, and must not be sent here again.
func (o *object) lends(g *group) bool {
	if time.Since(o.came) > trust || !g.closed {
		return false
	}
	for _, e := range g.entries {
		if e.batch == nil {
			return false
		}
	}
	return g.last || g.follows().begun()
}

// hold keeps g in the index of its object until release.
func (g *group) hold() {
	g = g.self()
	if g.refs++; g.refs == 1 && g.settled && g != g.object.head {
		g.object.insert(g)
	}
}

func (g *group) release() {
	g = g.self()
	if g.refs--; g.refs > 0 {
		return
	}
	if g == g.object.head {
		g.object.head = nil
	} else if g.settled {
		g.object.remove(g)
	}
}

// search returns the number of groups before at, and whether there is one at it.
func (o *object) search(at time.Duration) (int, bool) {
	return slices.BinarySearchFunc(o.groups, at, func(g *group, at time.Duration) int { return cmp.Compare(g.at, at) })
}

func (o *object) find(at time.Duration) *group {
	if i, ok := o.search(at); ok {
		return o.groups[i]
	}
	return nil
}

func (o *object) insert(g *group) {
	i, _ := o.search(g.at)
	o.groups = slices.Insert(o.groups, i, g)
}

func (o *object) remove(g *group) {
	i, _ := o.search(g.at)
	o.groups = slices.Delete(o.groups, i, i+1)
}

// lookup returns the group at which an open at from begins, nil when that is
// not certain.
func (o *object) lookup(from time.Duration) *group {
	if o.head != nil && from <= o.head.asked {
		return o.head
	}
	i, ok := o.search(from)
	if !ok {
		i--
	}
	if i < 0 {
		if len(o.groups) > 0 && o.groups[0].start {
			return o.groups[0]
		}
		return nil
	}
	g := o.groups[i]
	seen := from <= g.asked
	if from <= o.info.Start && !g.start { // there may be something before the first join point
		seen = seen && from >= g.first
	} else if g.closed {
		seen = g.last || from < g.next
	}
	if !seen {
		return nil
	}
	return g
}

// begin returns the group that begins with b, the first batch of a source that
// was opened at from, and nil when the object is odd.
func (o *object) begin(b *media.Batch, from time.Duration) *group {
	at := b.DTS()
	g := o.find(at)
	switch {
	case !b.Join() && from > at && at > o.info.Start:
		return nil // it should have begun at a join point
	case !b.Join() || from < at:
		if o.head == nil {
			o.head = &group{object: o, at: at, from: from, join: b.Join(), settled: !b.Join(), start: true, asked: from}
		}
		g = o.head
	case g == nil:
		g = &group{object: o, at: at, join: true, from: from, settled: true, first: from, asked: from}
	}
	g.first = min(g.first, from)
	g.asked = max(g.asked, from)
	return g
}

// after returns the group that begins with b, the batch after the last of g, and
// nil when the object is odd or b is not what it was the last time.
func (o *object) after(g *group, b *media.Batch) *group {
	at := b.DTS()
	alone := at > g.at || at == g.at && !g.join // the only join point at its time
	if !b.Join() || !alone || g.closed && (g.last || at != g.next) {
		return nil
	}
	if !g.closed {
		g = g.close(at, false)
	}
	if n := g.follows(); n != nil {
		return n
	}
	n := &group{object: o, at: at, join: true, from: g.from, skip: g.skip + len(g.entries), first: media.None, asked: media.None}
	if g.sure {
		n.settle(g)
		return n
	}
	g.cont, n.prev = n, g
	return n
}

// close notes what follows g and settles it. It returns the group that g is now.
func (g *group) close(next time.Duration, last bool) *group {
	g.closed, g.next, g.last = true, next, last
	if g.settled {
		return g
	}
	if g == g.object.head {
		g.settled, g.object.head = true, nil
	} else {
		g.settle(g.prev)
		g.prev.sure, g.prev.cont, g.prev = true, nil, nil
	}
	if other := g.object.find(g.at); other != nil {
		g.merge(other)
		return other
	}
	if g.refs > 0 {
		g.object.insert(g)
	}
	return g
}

// settle notes that the time of g is its own, so that an open there begins with
// g. Only after a head that is no join point it may begin with the head.
func (g *group) settle(prev *group) {
	g.settled = true
	if prev.join {
		g.from, g.skip = g.at, 0
	}
}

// merge makes g, which is closed, the same as another group that was read from
// the same join point on by itself.
func (g *group) merge(into *group) {
	for i, e := range g.entries {
		held := e.batch != nil
		if held {
			g.refs--
		}
		switch {
		case i == len(into.entries):
			into.entries = append(into.entries, e)
		case held && into.entries[i].batch == nil:
			into.entries[i] = e
		case held:
			g.object.cache.discard(e)
			continue
		default:
			continue
		}
		e.group = into
		if held {
			into.refs++
		}
	}
	if !into.closed {
		into.closed, into.next, into.last = true, g.next, g.last
	}
	into.start = into.start || g.start
	into.refs += g.refs
	g.same, g.entries = into, nil
}
