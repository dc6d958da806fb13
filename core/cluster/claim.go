// What this node has on air and what it repeats, and how the directory is made to
// say so.

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A Claim is this node's right to a name, until it is lost or released.
type Claim struct {
	c             *Cluster
	name          string
	since, origin time.Time
	takeover      bool

	// Guarded by c.mu:
	registered bool   // the directory has said so once
	over       string // the session whose record it replaces, "" while there is none

	lost chan struct{}
	err  error // set before lost is closed
}

// Claim says that this node puts the channel name on air. It fails with
// media.ErrBusy when a living node is known to have it, unless takeover is set. It does
// not wait for anything: the claim is registered in the background, and held through
// the loss of the whole control plane.
func (c *Cluster) Claim(name string, takeover bool) (*Claim, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	claim := &Claim{c: c, name: name, takeover: takeover, lost: make(chan struct{})}
	claim.since = now.UTC().Round(0)
	claim.origin = claim.since

	was := c.known(Key{Channel: name})
	if o, ok := c.origin(was, now); ok && (was.last != c.session || c.holdings[name] != nil) {
		claim.origin = o
	}
	if old := c.claims[name]; old != nil {
		if !takeover {
			return nil, fmt.Errorf("this node has %s on air: %w", name, media.ErrBusy)
		}
		claim.origin = old.origin
		c.lose(old, c.name)
	} else if was.Session != "" && was.Session != c.session && !takeover && c.stands(was.Record, now) == living {
		return nil, fmt.Errorf("node %s has %s on air: %w", was.Node, name, media.ErrBusy)
	}
	c.claims[name] = claim
	c.mark(Key{Channel: name})
	c.notify()
	return claim, nil
}

// Origin is the wall-clock time of the channel's time 0: that of this claim, or, when the
// name was another node's until lately, of the first in the row, so that the
// timeline goes on.
func (c *Claim) Origin() time.Time { return c.origin }

// Lost is closed when another node has the name. Err then wraps media.ErrTakenOver and names the node.
func (c *Claim) Lost() <-chan struct{} { return c.lost }

// Err says why Lost is closed.
func (c *Claim) Err() error {
	<-c.lost
	return c.err
}

// Release gives the name up. It may be called more than once.
func (c *Claim) Release() {
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	if c.c.claims[c.name] == c {
		delete(c.c.claims, c.name)
		c.c.mark(Key{Channel: c.name})
		c.c.notify()
	}
}

// lose ends a claim for the sake of a node. The caller holds mu.
func (c *Cluster) lose(claim *Claim, to string) {
	claim.err = fmt.Errorf("node %s has %s: %w", to, claim.name, media.ErrTakenOver)
	close(claim.lost)
	delete(c.claims, claim.name)
	c.notify()
	if to != c.name {
		c.metrics.lost.Inc()
		c.log.Warn("lost a channel to another node", "channel", claim.name, "node", to)
	}
}

// A Holding is a channel that this node repeats.
type Holding struct {
	c     *Cluster
	name  string
	since time.Time
	path  []string // guarded by c.mu
}

// Hold says that this node repeats a channel of another.
func (c *Cluster) Hold(name string) *Holding {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &Holding{c: c, name: name, since: time.Now().UTC().Round(0)}
	c.holdings[name] = h
	c.mark(Key{name, c.name})
	return h
}

// Set tells the nodes that the channel comes through, the owner first and this one
// last; empty while it has no parent.
func (h *Holding) Set(path []string) {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	if h.c.holdings[h.name] == h && !slices.Equal(h.path, path) {
		h.path = slices.Clone(path)
		h.c.mark(Key{h.name, h.c.name})
	}
}

// Release says that this node repeats the channel no more.
func (h *Holding) Release() {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	if h.c.holdings[h.name] == h {
		delete(h.c.holdings, h.name)
		h.c.mark(Key{h.name, h.c.name})
	}
}

// mark has k compared with the directory's record soon. The caller holds mu.
func (c *Cluster) mark(k Key) {
	c.unsettled[k] = true
	wake(c.work)
}

// Snapshot implements Watcher.
func (c *Cluster) Snapshot(all []Record, sure bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !sure && c.older(all) {
		return false
	}
	c.metrics.snapshots.Inc()
	now := time.Now()
	c.replace(all, now)
	for r := range c.records() {
		if r.Session == c.session {
			c.mark(r.Key)
		}
	}
	c.assert(now)
	c.notify()
	wake(c.due) // the others may have missed this node as well
	return true
}

// Update implements Watcher.
func (c *Cluster) Update(r Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	news := c.know(r, now)
	c.wrote(r, now)
	if !news {
		return
	}
	c.notify()
	if r.Session == c.session || c.claims[r.Channel] != nil && r.Holder == "" || r.Holder == c.name {
		c.mark(r.Key)
	}
}

// settlers is how many keys are settled at once.
const settlers = 32

// settleAll settles what is marked until ctx ends, as one of the settlers.
func (c *Cluster) settleAll(ctx context.Context) {
	for {
		c.settleMarked(ctx)
		select {
		case <-c.work:
		case <-ctx.Done():
			return
		}
	}
}

// settleMarked settles until nothing is marked.
func (c *Cluster) settleMarked(ctx context.Context) {
	for ctx.Err() == nil {
		k, ok := c.next()
		if !ok {
			return
		}
		err := c.settle(ctx, k)
		c.settled(k)
		if err != nil {
			c.postpone(k, err)
		}
	}
}

// next takes one of the marked keys, and wakes another settler for the rest. A key is
// settled by one at a time: a second would decide by what the first has changed.
func (c *Cluster) next() (Key, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.unsettled {
		if c.settling[k] {
			continue
		}
		delete(c.unsettled, k)
		c.settling[k] = true
		if len(c.unsettled) > 0 {
			wake(c.work)
		}
		return k, true
	}
	return Key{}, false
}

// settled ends what next began.
func (c *Cluster) settled(k Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.settling, k)
	if c.unsettled[k] {
		wake(c.work) // it was marked again in the meantime
	}
}

// postpone has k settled later.
func (c *Cluster) postpone(k Key, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.postponed[k] = true
	wake(c.again)
	if c.failing.IsZero() && !errors.Is(err, errUnsure) {
		c.failing = time.Now()
		if len(c.claims) > 0 {
			c.log.Warn("channels wait to be registered", "reason", err)
		}
	}
}

// resume marks what was postponed, until ctx ends: after a while that grows with the
// time for which nothing could be registered.
func (c *Cluster) resume(ctx context.Context) {
	const least, most = 100 * time.Millisecond, 2 * time.Second
	for {
		select {
		case <-c.again:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		wait := least
		if !c.failing.IsZero() {
			wait = min(max(time.Since(c.failing)/2, least), most)
		}
		c.mu.Unlock()
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		for k := range c.postponed {
			c.mark(k)
		}
		clear(c.postponed)
		c.mu.Unlock()
	}
}

// settle makes the directory say of k what this node has to say of it.
func (c *Cluster) settle(ctx context.Context, k Key) error {
	const limit, tries = 2 * time.Second, 5
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.mu.Lock()
	have := c.known(k).Record
	c.mu.Unlock()
	var err error
	for range tries {
		c.mu.Lock()
		step, want := c.decide(k, have)
		c.mu.Unlock()
		switch step {
		case nothing:
			return nil
		case wait:
			return errUnsure
		case write:
			want.Revision, err = c.dir.Claim(ctx, want, have.Revision)
		case remove:
			want = Record{Key: k}
			err = c.dir.Release(ctx, k, have.Revision)
		}
		switch {
		case errors.Is(err, ErrConflict):
			is, err := c.dir.Lookup(ctx, k)
			if err != nil {
				return err
			}
			if is.Revision == have.Revision || is.Session != "" && is.Revision < have.Revision {
				return fmt.Errorf("another change of the record of %s is under way", k.Channel)
			}
			have = is
			c.learn(have)
		case err != nil:
			return err
		default:
			have = want
			c.learn(have)
			c.recovered()
		}
	}
	return fmt.Errorf("the record of %s changes all the time", k.Channel)
}

// learn notes what the directory has answered.
func (c *Cluster) learn(r Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.know(r, time.Now()) {
		c.notify()
	}
}

// recovered notes that the directory can be written.
func (c *Cluster) recovered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.failing.IsZero() {
		c.failing = time.Time{}
		c.log.Info("channels are registered again")
	}
}

var errUnsure = errors.New("it is not known yet whether the node that has the name is alive")

// step is what has to be done about a key.
type step uint8

const (
	nothing step = iota
	wait
	write
	remove
)

// decide says what has to be done about k when the directory has have, and what
// is to be written. It ends a claim that another living session's record contradicts.
// The caller holds mu.
func (c *Cluster) decide(k Key, have Record) (step, Record) {
	now := time.Now()
	want := c.wants(k)
	claim := c.claims[k.Channel]
	switch {
	case want.Session == "":
		if have.Session == c.session || have.Session != "" && c.abandoned(have, now) {
			return remove, want
		}
		return nothing, want
	case have.says(want):
		if k.Holder == "" {
			claim.registered = true
		}
		return nothing, want
	case k.Holder != "", have.Session == "", have.Session == c.session:
		return write, want
	}
	switch standing := c.stands(have, now); {
	case standing == unsure:
		return wait, want
	case standing == ended, claim.takeover && !claim.registered:
		claim.over = have.Session
		return write, want
	}
	c.lose(claim, have.Node)
	return nothing, want
}

// wants is what this node has to say of k; a record without a Session is nothing.
func (c *Cluster) wants(k Key) Record {
	r := Record{Key: k}
	if k.Holder != "" {
		if h := c.holdings[k.Channel]; h != nil && k.Holder == c.name && len(h.path) > 0 {
			r.Node, r.Session, r.Since, r.Path = c.name, c.session, h.since, h.path
		}
	} else if claim := c.claims[k.Channel]; claim != nil {
		r.Node, r.Session, r.Since, r.Origin = c.name, c.session, claim.since, claim.origin
	}
	return r
}
