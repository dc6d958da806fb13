// Links: the connections on which peers are asked what media cost there, and how far
// away they are.

package repeatertcp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

const (
	pingEvery = time.Second
	// pingSoon is between the first pings, so that one that was slow by chance does not count for long.
	pingSoon = 50 * time.Millisecond
	// pingLost is how long a peer that is pinged may be silent.
	pingLost = 3 * time.Second
	// The wait before a peer is dialled again doubles each time.
	minPause = 100 * time.Millisecond
	maxPause = 2 * time.Second
	// unused is how long a link is kept that nobody asks.
	unused = time.Minute
	// trips is how many round trips are remembered; the least of them counts.
	trips = 8
)

// links are the links there are, by address.
type links struct {
	r  *repeater
	mu sync.Mutex
	of map[string]*link
}

// get returns the link to an address, which it begins when there is none.
func (ls *links) get(address string) *link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l, ok := ls.of[address]
	if !ok {
		l = &link{r: ls.r, address: address, changed: make(chan struct{}), waiting: map[uint64]chan quote{}}
		if !ls.r.run(l.run) {
			l.err = errStopped
			return l
		}
		ls.of[address] = l
	}
	l.used = time.Now()
	return l
}

// retire takes a link off the list that was not used for long.
func (ls *links) retire(l *link) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.of[l.address] != l {
		return true
	}
	if ls.r.life.Err() == nil && (time.Since(l.used) < unused || slices.Contains(ls.r.settings.Peers, l.address)) {
		return false
	}
	delete(ls.of, l.address)
	return true
}

var errStopped = fmt.Errorf("%w: the repeater has stopped", media.ErrUnavailable)

// A link is the connection to one peer, made again whenever it is lost.
type link struct {
	r       *repeater
	address string
	used    time.Time // guarded by links.mu

	mu      sync.Mutex
	conn    *conn         // nil while there is none
	err     error         // why, once it was tried
	changed chan struct{} // closed and replaced when one of the two changes
	waiting map[uint64]chan quote
	next    uint64 // id of a question or a ping
	pinged  time.Time
	ping    uint64 // the id of the last
	trips   []time.Duration
}

// A quote is what a peer says that media cost there.
type quote struct {
	cost media.Cost
	err  error
}

// run keeps the link up for as long as it is used.
func (l *link) run() {
	for pause := minPause; !l.r.links.retire(l); pause = min(2*pause, maxPause) {
		c, err := l.r.dial(l.r.life, l.address, nil)
		if err == nil {
			pause = minPause
			l.send(c) // so that the round trip is known before the first answer
			l.set(c, nil)
			err = l.serve(c)
			l.r.metrics.rtt.DeleteLabelValues(c.node)
		}
		l.set(nil, fmt.Errorf("peer at %s: %w", l.address, err))
		wait(l.r.life, pause/2+rand.N(pause))
	}
}

// set changes the connection. Without one all questions have failed.
func (l *link) set(c *conn, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c == nil && (l.conn != nil || l.err == nil) {
		l.r.log.Info("a peer cannot be asked", "reason", err)
	}
	l.conn, l.err = c, err
	close(l.changed)
	l.changed = make(chan struct{})
	if c != nil {
		l.trips = l.trips[:0]
		l.r.log.Info("a peer can be asked", "peer", c.node, "address", l.address)
		return
	}
	for id, answer := range l.waiting {
		answer <- quote{err: err}
		delete(l.waiting, id)
	}
}

// serve reads the answers until the connection ends.
func (l *link) serve(c *conn) error {
	ctx, cancel := context.WithCancel(l.r.life)
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var pings sync.WaitGroup
	pings.Go(func() { l.pings(ctx, c) })
	defer pings.Wait()
	defer c.Close()
	defer cancel()
	c.idle = pingLost
	for {
		k, p, err := c.message(kindPong, kindCost)
		if err != nil {
			return unavailable(err)
		}
		id := p.uint(maxID)
		var q quote
		if k == kindCost {
			q.err = p.failure()
			q.cost = p.cost()
		}
		if err := p.end(); err != nil {
			return err
		}
		l.answered(c, k, id, q)
	}
}

func (l *link) answered(c *conn, k kind, id uint64, q quote) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case k == kindPong && id == l.ping:
		l.trips = append(l.trips[max(len(l.trips)-trips+1, 0):], time.Since(l.pinged))
		l.r.metrics.rtt.WithLabelValues(c.node).Set(slices.Min(l.trips).Seconds())
	case k == kindCost:
		if answer, ok := l.waiting[id]; ok { // else nobody waits any more
			answer <- q
			delete(l.waiting, id)
		}
	}
}

// pings pings, until nobody has used the link for long.
func (l *link) pings(ctx context.Context, c *conn) {
	every := pingSoon
	for n := 2; wait(ctx, every); n++ {
		if n >= trips/2 {
			every = pingEvery
		}
		if l.r.links.retire(l) {
			c.Close()
			return
		}
		l.send(c)
	}
}

// send sends a ping. When it cannot, serve notices.
func (l *link) send(c *conn) {
	l.mu.Lock()
	l.next++
	l.ping, l.pinged = l.next, time.Now()
	b := finish(appendUint(begin(nil, kindPing), l.ping), 0, 0)
	l.mu.Unlock()
	_ = c.send(b)
}

// ask asks the peer what req costs there; node is what the peer calls itself.
func (l *link) ask(ctx context.Context, req media.OpenRequest) (cost media.Cost, node string, err error) {
	c, err := l.connected(ctx)
	if err != nil {
		return media.Cost{}, "", err
	}
	answer := make(chan quote, 1)
	l.mu.Lock()
	if l.conn != c {
		defer l.mu.Unlock()
		return media.Cost{}, c.node, l.err
	}
	l.next++
	id := l.next
	l.waiting[id] = answer
	l.mu.Unlock()
	if err := c.send(finish(appendRequest(appendUint(begin(nil, kindAsk), id), req), 0, 0)); err != nil {
		c.Close() // and answer has the reason
	}
	select {
	case q := <-answer:
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.trips) > 0 {
			q.cost.RTT = slices.Min(l.trips)
		}
		return q.cost, c.node, q.err
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, id)
		return media.Cost{}, c.node, ctx.Err()
	}
}

// connected waits for the connection, but not when it has failed lately.
func (l *link) connected(ctx context.Context) (*conn, error) {
	for {
		l.mu.Lock()
		c, err, changed := l.conn, l.err, l.changed
		l.mu.Unlock()
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s is being connected", media.ErrUnavailable, l.address)
		}
	}
}
