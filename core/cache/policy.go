// Which batches stay in memory: S3-FIFO (Yang et al., "FIFO queues are all you
// need for cache eviction", SOSP 2023).
//
// Otter's W-TinyLFU was the other choice and does not fit. Its first queue is 1 %
// of the budget, a single batch of 2 MiB, so that a viewer who is a second
// behind another would find nothing; it tells of evictions later or under locks of its own,
// while here the index of an object and the queues must change together; and an
// object is dropped as a whole, which it would do key by key.

package cache

import (
	"time"

	"github.com/mediad/mediad/core/media"
)

// entry is a place in a group. It outlives its batch, so that what is known of
// the order of batches is not lost with them.
type entry struct {
	group *group
	i     int           // in the group
	at    time.Duration // DTS of the batch
	batch *media.Batch  // nil: not in memory
	size  int64
	fresh *fetch // that read it ahead, until somebody reads it

	reads      uint8 // as far as the policy counts
	in         *queue
	prev, next *entry
}

const (
	entryOverhead = 256 // an entry, its share of the index and of the ghosts
	maxReads      = 3
)

// weigh is the memory that b takes in the cache.
func weigh(b *media.Batch) int64 { return int64(b.Size()) + entryOverhead }

// policy decides what is evicted. A new batch enters a small queue; it moves on
// to the main queue if it is read at least twice before its turn comes, and else
// goes, to be remembered for a while as a ghost, which enters the main queue when it comes
// back. So media that are played through once pass by what is watched often.
type policy struct {
	budget      int64
	small, main queue
	ghosts      ghosts
	evict       func(*entry) // is told of what went
}

func newPolicy(budget int64, evict func(*entry)) *policy {
	p := &policy{budget: budget, evict: evict, ghosts: ghosts{limit: budget, marks: map[ghostKey]int64{}}}
	p.small.init()
	p.main.init()
	return p
}

// smallShare is the part of the budget that the small queue keeps when memory
// is full. The paper has 1/10; batches are few and large, and viewers follow
// each other, so it is more here.
func (p *policy) smallShare() int64 { return p.budget / 5 }

func (p *policy) bytes() int64 { return p.small.bytes + p.main.bytes }

// add takes an entry in, and reports false when it is larger than the budget.
func (p *policy) add(e *entry) bool {
	if e.size > p.budget {
		return false
	}
	for p.bytes()+e.size > p.budget {
		p.makeRoom()
	}
	e.reads = 0
	if p.ghosts.take(keyOf(e)) {
		p.main.push(e)
	} else {
		p.small.push(e)
	}
	return true
}

func (p *policy) read(e *entry) { e.reads = min(e.reads+1, maxReads) }

func (p *policy) remove(e *entry) {
	if e.in != nil {
		e.in.remove(e)
	}
}

// makeRoom evicts one entry.
func (p *policy) makeRoom() {
	for {
		if p.small.bytes > p.smallShare() || p.main.bytes == 0 {
			e := p.small.oldest()
			p.small.remove(e)
			if e.reads > 1 {
				e.reads = 0
				p.main.push(e)
				continue
			}
			p.ghosts.add(keyOf(e), e.size)
			p.evict(e)
			return
		}
		e := p.main.oldest()
		p.main.remove(e)
		if e.reads > 0 {
			e.reads--
			p.main.push(e)
			continue
		}
		p.evict(e)
		return
	}
}

// queue is a ring of entries around root: root.next is the newest.
type queue struct {
	root  entry
	bytes int64
}

func (q *queue) init() { q.root.prev, q.root.next = &q.root, &q.root }

func (q *queue) oldest() *entry { return q.root.prev }

func (q *queue) push(e *entry) {
	e.in, e.prev, e.next = q, &q.root, q.root.next
	e.prev.next, e.next.prev = e, e
	q.bytes += e.size
}

func (q *queue) remove(e *entry) {
	e.prev.next, e.next.prev = e.next, e.prev
	e.in, e.prev, e.next = nil, nil, nil
	q.bytes -= e.size
}

// ghosts are the names of entries that were evicted unread. Each is remembered
// until limit bytes have gone the same way.
type ghosts struct {
	limit, total int64
	marks        map[ghostKey]int64 // total when it went
	order        []ghost
}

type ghostKey struct {
	object uint64
	at     time.Duration
	i      int
}

type ghost struct {
	key  ghostKey
	mark int64
}

func keyOf(e *entry) ghostKey { return ghostKey{e.group.object.id, e.group.at, e.i} }

func (g *ghosts) add(key ghostKey, size int64) {
	g.total += size
	g.marks[key] = g.total
	g.order = append(g.order, ghost{key, g.total})
	for g.total-g.order[0].mark > g.limit {
		old := g.order[0]
		g.order = g.order[1:]
		if g.marks[old.key] == old.mark {
			delete(g.marks, old.key)
		}
	}
}

// take reports whether there is such a ghost, and forgets it.
func (g *ghosts) take(key ghostKey) bool {
	_, ok := g.marks[key]
	delete(g.marks, key)
	return ok
}
