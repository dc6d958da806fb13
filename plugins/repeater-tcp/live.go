// A channel that is open at a peer, and goes on from another one when that is lost.

package repeatertcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

// gain is how much of the cost of its parent another one may have at the most, so that
// a channel goes over to it.
const gain = 0.7

// live is a source of live media. The peer that it comes from is its parent. One goroutine
// follows the parent and finds another one when it is lost; a second looks for a better
// one meanwhile.
type live struct {
	r     *repeater
	req   media.OpenRequest
	info  media.Info
	queue queue
	lost  losses // as of the last batch that Next has returned or Push handed on
	once  sync.Once

	life   context.Context // of the goroutines
	end    context.CancelFunc
	better chan *upstream // one that is to be the parent
	hurry  chan struct{}  // holds one when the parent is to be left soon
	sunk   chan struct{}  // holds one when it has come to be too deep

	mu     sync.Mutex
	parent *upstream // nil while there is none
	path   []string  // of the parent, empty while it has the channel from nobody
	from   time.Duration

	// What follows is run's alone.
	place  media.Place   // behind the last batch
	header *media.Header // of that
	before losses        // by all parents before this one
	orphan time.Time     // since when the parent has the channel from nobody
	lone   time.Time     // since when no parent has sent anything; zero while one does
}

func newLive(r *repeater, req media.OpenRequest, up *upstream) (*live, error) {
	s := &live{
		r: r, req: req, info: up.info, queue: newQueue(window), place: media.NewPlace(req.From), from: req.From,
		parent: up, path: up.path,
		better: make(chan *upstream, 1), hurry: make(chan struct{}, 1), sunk: make(chan struct{}, 1),
	}
	s.req.LiveOnly = true
	s.life, s.end = context.WithCancel(r.life)
	up.keep(s.life)
	if !r.run(func() { s.run(up) }) {
		s.end()
		return nil, errStopped
	}
	return s, nil
}

// Info implements media.Source.
func (s *live) Info() media.Info { return s.info }

// Buffered implements media.Buffered.
func (s *live) Buffered() int { return s.queue.len() }

// Next implements media.Source.
func (s *live) Next(ctx context.Context) (*media.Batch, error) {
	a, err := s.queue.get(ctx)
	if err != nil {
		return nil, err
	}
	s.lost = a.losses
	return a.batch, nil
}

// Push implements media.Pushing: run hands the batches on.
func (s *live) Push(ctx context.Context, take func(*media.Batch) error) error {
	return s.queue.push(ctx, func(a arrival) error {
		s.lost = a.losses
		return take(a.batch)
	})
}

// Skips is how often frames were left out: since a link was too slow, or since another
// parent had not what follows. It and Missed are for the goroutine that calls Next,
// or what Push calls.
func (s *live) Skips() int { return s.lost.skips }

// Missed is how many frames were left out, as far as that is known.
func (s *live) Missed() int64 { return s.lost.missed }

// Path implements media.Routed: it is the parent's.
func (s *live) Path() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.path
}

// Close implements media.Source.
func (s *live) Close() error {
	s.once.Do(func() {
		s.end()
		s.queue.close()
	})
	return nil
}

// run follows one parent after the other.
func (s *live) run(up *upstream) {
	var scouting sync.WaitGroup
	defer scouting.Wait()
	defer s.end()
	scouting.Go(s.scout)
	for {
		s.adopt(up)
		next, err := s.follow(up)
		s.leave(up)
		if next == nil && !errors.Is(err, io.EOF) && s.life.Err() == nil {
			next, err = s.reparent(up, err)
		}
		if next == nil {
			if s.life.Err() != nil {
				err = errStopped
			}
			s.queue.finish(err)
			return
		}
		up = next
	}
}

// adopt makes up the parent of s.
func (s *live) adopt(up *upstream) {
	s.r.metrics.parents.Inc()
	s.orphan = time.Time{}
	if up.gap {
		s.before.skips++
		s.r.metrics.skips.Inc()
	}
	s.mu.Lock()
	s.parent, s.path = up, up.path
	s.mu.Unlock()
}

// leave ends the parent.
func (s *live) leave(up *upstream) {
	up.Close()
	s.r.metrics.parents.Dec()
	s.before.skips += up.lost.skips
	s.before.missed += up.lost.missed
	s.mu.Lock()
	s.parent, s.path = nil, nil
	s.mu.Unlock()
}

// follow delivers what the parent sends. It returns the parent to go over to, at the
// same place, or why there must be another.
func (s *live) follow(up *upstream) (*upstream, error) {
	if b := up.first; b != nil {
		up.first = nil
		s.deliver(b, losses{})
	}
	for {
		told := up.lost
		e, err := up.event()
		if err != nil {
			return nil, err
		}
		s.lone = time.Time{}
		if e.batch != nil {
			s.r.metrics.skips.Add(float64(max(e.skips-told.skips, 0)))
			s.r.metrics.missed.Add(float64(max(e.missed-told.missed, 0)))
			if !s.deliver(e.batch, e.losses) {
				return nil, media.ErrClosed
			}
		} else if err := s.heard(up); err != nil {
			return nil, err
		}
		select {
		case next := <-s.better:
			if next.than != up { // but than the one before
				next.Close()
				continue
			}
			if err := s.find(next); err != nil {
				next.Close()
				s.r.log.Debug("a better parent is none", "name", s.info.Name, "peer", next.node, "reason", err)
				continue
			}
			next.than = nil
			s.changed(up, next, s.reason(up))
			return next, nil
		default:
		}
	}
}

// deliver puts a batch into the queue. It reports false when that is closed.
func (s *live) deliver(b *media.Batch, lost losses) bool {
	s.place.Pass(b)
	s.header = b.Header()
	s.mu.Lock()
	s.from = s.place.From
	s.mu.Unlock()
	lost.skips += s.before.skips
	lost.missed += s.before.missed
	return s.queue.put(arrival{b, lost})
}

// heard looks at what the parent has told of itself.
func (s *live) heard(up *upstream) error {
	if slices.Contains(up.path, s.r.self) {
		return errLoop
	}
	s.mu.Lock()
	if len(up.path) > maxDepth && len(s.path) <= maxDepth {
		signal(s.sunk)
	}
	s.path = up.path
	s.mu.Unlock()
	switch {
	case len(up.path) > 0:
		s.orphan = time.Time{}
	case s.orphan.IsZero():
		s.orphan = time.Now()
	}
	if up.leaving || !s.orphan.IsZero() && time.Since(s.orphan) > s.r.pace.orphaned {
		signal(s.hurry)
	}
	return nil
}

// reason is why a parent that is there is left.
func (s *live) reason(up *upstream) string {
	switch {
	case up.leaving:
		return "draining"
	case !s.orphan.IsZero():
		return "orphan"
	case len(up.path) > maxDepth:
		return "deep"
	}
	return "cheaper"
}

// changed counts a change of parents.
func (s *live) changed(old, up *upstream, reason string) {
	s.r.metrics.reparents.WithLabelValues(reason).Inc()
	s.r.log.Info("a channel has another parent", "name", s.info.Name,
		"old", old.node, "new", up.node, "path", up.path, "reason", reason, "gap", up.gap)
}

// find reads up to the place where s is. What follows is up.first and what comes then.
func (s *live) find(up *upstream) error {
	if s.place.DTS() == media.None {
		return nil
	}
	defer time.AfterFunc(s.r.pace.find, func() { up.Close() }).Stop()
	up.header = s.header
	if s.place.Lost {
		s.place = media.NewPlace(media.Newest)
		up.gap = true
		return nil
	}
	// A parent that is behind this node begins before the place.
	b, err := up.seek(s.place.From)
	if err != nil {
		return err
	}
	up.first = b
	b, up.gap, err = s.place.Find(s.life, up)
	if errors.Is(err, media.ErrChanged) {
		// Another publisher's frames are there now.
		b, err = up.seek(s.place.DTS() + 1)
		up.gap = true
	}
	up.first = b
	return err
}

// seek returns the first batch from a time on that a decoder can start with.
func (u *upstream) seek(from time.Duration) (*media.Batch, error) {
	for {
		b, err := u.next()
		if err != nil || b.Join() && b.DTS() >= from {
			return b, err
		}
	}
}

// request is what another parent is asked for.
func (s *live) request() media.OpenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := s.req
	req.From = s.from
	return req
}

// reparent finds another parent when the old one was lost. Viewers notice nothing,
// unless it takes longer than what they have buffered.
func (s *live) reparent(old *upstream, why error) (*upstream, error) {
	if s.lone.IsZero() {
		s.lone = time.Now()
	}
	s.r.log.Warn("a channel has lost its parent", "name", s.info.Name, "peer", old.node, "reason", why)
	reason := lostBy(why)
	avoid := old.address // has just failed
	for {
		up, err := s.another(avoid)
		if up != nil {
			s.changed(old, up, reason)
			return up, nil
		}
		if s.life.Err() != nil {
			return nil, errStopped
		}
		if err != nil {
			why = err
		}
		if time.Since(s.lone) > s.r.pace.patience {
			return nil, fmt.Errorf("%s: %w: no node that could go on with it within %v; at last: %s",
				s.info.Name, media.ErrUnavailable, s.r.pace.patience, why.Error())
		}
		avoid = ""
		wait(s.life, s.r.pace.retry/2+rand.N(s.r.pace.retry))
	}
}

// another returns a parent other than the one at an address, or why there is none.
func (s *live) another(avoid string) (*upstream, error) {
	select {
	case up := <-s.better:
		if up.address != avoid && s.find(up) == nil {
			return up, nil
		}
		up.Close()
	default:
	}
	list, err := s.r.ask(s.life, s.request(), avoid)
	for i := range list {
		c := &list[i]
		if c.err != nil {
			return nil, verdict(s.info.Name, list[i:])
		}
		up, failed := s.open(c)
		if failed == nil {
			if failed = s.find(up); failed == nil {
				return up, nil
			}
			up.Close()
		}
		err = failed
	}
	return nil, err
}

// open opens the channel at a candidate, about where s is.
func (s *live) open(c *candidate) (*upstream, error) {
	ctx, cancel := context.WithTimeout(s.life, s.r.pace.find)
	defer cancel()
	up, err := s.r.open(ctx, c.peer.Address, s.request())
	if err == nil {
		up.keep(s.life)
	}
	return up, err
}

// lostBy names what a parent was lost by.
func lostBy(why error) string {
	var said *failure
	switch {
	case errors.Is(why, errLoop):
		return "loop"
	case errors.Is(why, os.ErrDeadlineExceeded):
		return "silent"
	case errors.As(why, &said):
		return "failed"
	case errors.Is(why, errProtocol):
		return "protocol"
	}
	return "hung_up"
}

// scout looks for a better parent from time to time, and at once when the one there is is to be left or has sunk.
func (s *live) scout() {
	for {
		hurry := false
		timer := time.NewTimer(s.r.pace.compare*4/5 + rand.N(s.r.pace.compare*2/5))
		select {
		case <-timer.C:
		case <-s.hurry:
			hurry = true
			wait(s.life, rand.N(s.r.pace.retry)) // others have the same idea
		case <-s.sunk:
			wait(s.life, rand.N(s.r.pace.retry))
		case <-s.life.Done():
		}
		timer.Stop()
		if s.life.Err() != nil {
			return
		}
		s.mu.Lock()
		parent := s.parent
		s.mu.Unlock()
		if parent == nil {
			continue
		}
		if up := s.look(parent, hurry); up != nil {
			select {
			case s.better <- up:
			default: // the last one was not looked at yet
				up.Close()
			}
		}
	}
}

// look returns a parent that is better by far, one that is not too deep in the place of one that is, or
// any other in a hurry.
func (s *live) look(parent *upstream, hurry bool) *upstream {
	list, err := s.r.ask(s.life, s.request(), "")
	if err != nil {
		return nil
	}
	enough, deep := -1.0, len(s.Path()) > maxDepth
	for _, c := range list {
		if c.peer.Address == parent.address && c.err == nil {
			enough, deep = gain*c.cost.Total(), deep || c.deep
		}
	}
	for _, c := range list {
		switch {
		case c.err != nil || c.cost.Total() > enough && !hurry && (c.deep || !deep):
			return nil
		case c.peer.Address == parent.address:
			continue
		}
		if up, err := s.open(&c); err == nil {
			up.than = parent
			return up
		}
	}
	return nil
}
