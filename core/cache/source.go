// The source that a viewer reads: a place in what is known of an object, which
// asks a fetch for what is not in memory.

package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mediad/mediad/core/media"
)

// source is guarded by cache.mu, but for direct and skip, which are Next's.
type source struct {
	object *object
	from   time.Duration
	peer   string // that it is for, "" for this node's own viewers
	lent   bool   // it has what is in memory and no more
	// group and i are the place of the batch that is next; group is nil as long as it is not
	// known where an open at from begins.
	group *group
	i     int

	fetch  *fetch // that it is attached to
	row    int    // batches read since it was opened
	closed bool

	// What wait gets: it is woken with a batch, with an error, or with neither to look again.
	woken chan struct{}
	batch *media.Batch
	err   error

	direct media.Source // where the batches of an odd object come from
	skip   int          // of direct's batches
}

func (s *source) Info() media.Info { return s.object.info }

// Outline is that of upstream, which is opened for it.
func (s *source) Outline(ctx context.Context, add func(*media.Header, media.Frame, int) error) error {
	src, err := (&fetch{object: s.object, from: s.from, peer: s.peer}).open(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.object.info.Name, err)
	}
	defer src.Close() //nolint:errcheck // nothing was written
	return media.Outline(ctx, src, add)
}

// Next returns the next batch. One that is in memory costs no allocation.
func (s *source) Next(ctx context.Context) (*media.Batch, error) {
	o := s.object
	c := o.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.closed:
			return nil, media.ErrClosed
		case o.odd && !s.lent:
			return s.nextDirect(ctx)
		}
		o.used = time.Now()
		if b, err := s.held(); b != nil || err != nil {
			return b, err
		}
		if err := s.ask(); err != nil {
			return nil, err
		}
		b, err := s.wait(ctx)
		if b != nil || err != nil {
			return b, err
		}
	}
}

// held returns the next batch if it is in memory, and io.EOF after the last.
func (s *source) held() (*media.Batch, error) {
	if s.group == nil {
		g := s.object.lookup(s.from)
		if s.fetch != nil && s.fetch.start != nil {
			g = s.fetch.start.self()
		}
		if g == nil {
			return nil, nil
		}
		s.stand(g, 0)
	}
	for {
		g := s.group.self()
		if s.i < len(g.entries) {
			e := g.entries[s.i]
			if e.batch == nil {
				return nil, nil
			}
			s.i++
			s.object.cache.read(e)
			s.passed()
			return e.batch, nil
		}
		if g.closed && g.last {
			return nil, io.EOF
		}
		n := g.follows()
		if n == nil {
			return nil, nil
		}
		s.stand(n, 0)
	}
}

// passed notes that s has read a batch. From the second one on it plays in sequence.
func (s *source) passed() {
	s.row++
	if f := s.fetch; f != nil && s.row > 1 {
		f.playing = true
		f.signal()
	}
}

// ask attaches s to a fetch that comes to where it stands.
func (s *source) ask() error {
	c := s.object.cache
	var g *group
	if s.group != nil {
		g = s.group.self()
	}
	f := s.fetching(g, s.i)
	switch {
	case s.lent:
		return fmt.Errorf("read %s for %s: no more of it is in memory here: %w", s.object.info.Name, s.peer, media.ErrUnavailable)
	case c.stopped:
		return fmt.Errorf("read %s: the cache has stopped: %w", s.object.info.Name, media.ErrUnavailable)
	case f == nil:
		c.metrics.misses.Inc()
		f = c.newFetch(s.object, nil, s, g)
	case f.reading || len(f.waiting) > 0:
		c.metrics.coalesced.Inc()
	default:
		c.metrics.misses.Inc()
	}
	s.attach(f)
	f.waiting = append(f.waiting, s)
	f.signal()
	return nil
}

// fetching returns the fetch that comes to i in g, or with g nil the one that
// begins where s does. What is fetched for a peer will do for anybody, but a peer is
// not given what comes from a third node, which may be waiting for the peer.
func (s *source) fetching(g *group, i int) *fetch {
	for _, f := range s.object.fetches {
		comes := g != nil && f.serves(g, i) || g == nil && f.group == nil && f.from == s.from && !f.ended
		if comes && (s.peer == "" || f.peer != "") {
			return f
		}
	}
	return nil
}

func (s *source) attach(f *fetch) {
	if s.fetch == f {
		return
	}
	s.detach()
	s.fetch = f
	f.sources++
}

// detach ends the fetch when s was its last source.
func (s *source) detach() {
	f := s.fetch
	if f == nil {
		return
	}
	s.fetch = nil
	s.leave(f)
	if f.sources--; f.sources == 0 {
		f.ended = true
		f.cancel()
	}
}

// leave takes s from those who wait for f.
func (s *source) leave(f *fetch) {
	if i := slices.Index(f.waiting, s); i >= 0 {
		f.waiting = slices.Delete(f.waiting, i, i+1)
	}
}

// wait waits, without the lock, for the fetch. A batch that comes together with
// the end of ctx is not lost.
func (s *source) wait(ctx context.Context) (*media.Batch, error) {
	c := s.object.cache
	woken := make(chan struct{})
	s.woken, s.batch, s.err = woken, nil, nil
	c.mu.Unlock()
	select {
	case <-woken:
	case <-ctx.Done():
	}
	c.mu.Lock()
	b, err := s.batch, s.err
	s.woken, s.batch, s.err = nil, nil, nil
	switch {
	case b != nil:
		s.passed()
		return b, nil
	case s.closed:
		return nil, media.ErrClosed
	case err != nil:
		return nil, err
	case ctx.Err() != nil:
		if s.fetch != nil {
			s.leave(s.fetch)
		}
		return nil, ctx.Err()
	}
	return nil, nil
}

// result wakes s.
func (s *source) result(b *media.Batch, err error) {
	s.batch, s.err = b, err
	close(s.woken)
	s.woken = nil
}

// stand moves s to a place.
func (s *source) stand(g *group, i int) {
	if g != s.group {
		g.hold()
		if s.group != nil {
			s.group.release()
		}
		s.group = g
	}
	s.i = i
}

// Close may be called while Next waits.
func (s *source) Close() error {
	c := s.object.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.detach()
	if s.woken != nil {
		close(s.woken)
		s.woken = nil
	}
	if s.group != nil {
		s.group.release()
		s.group = nil
	}
	c.left(s.object)
	if s.direct != nil {
		return s.direct.Close()
	}
	return nil
}

// maxBuffered is how many batches Buffered looks at.
const maxBuffered = 8

// Buffered is how many batches are in memory from here on.
func (s *source) Buffered() int {
	c := s.object.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for g, i := s.group, s.i; g != nil && n < maxBuffered; n++ {
		if g = g.self(); i == len(g.entries) {
			if g, i = g.follows(), 0; g == nil {
				break
			}
		}
		if i == len(g.entries) || g.entries[i].batch == nil {
			break
		}
		i++
	}
	return n
}

// nextDirect reads an odd object from upstream, past the cache. It is called
// with the lock and gives it up while it reads.
func (s *source) nextDirect(ctx context.Context) (*media.Batch, error) {
	o := s.object
	if s.direct == nil {
		s.detach()
		from := s.from
		if s.group != nil {
			g := s.group.self()
			from, s.skip = g.from, g.skip+s.i
		}
		f := &fetch{object: o, from: from, peer: s.peer}
		o.cache.mu.Unlock()
		src, err := f.open(ctx)
		o.cache.mu.Lock()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", o.info.Name, err)
		}
		if s.closed {
			_ = src.Close()
			return nil, media.ErrClosed
		}
		s.direct = src
	}
	o.cache.mu.Unlock()
	defer o.cache.mu.Lock()
	for {
		b, err := s.direct.Next(ctx)
		if err != nil || s.skip == 0 {
			if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
				err = fmt.Errorf("read %s: %w", o.info.Name, err)
			}
			return b, err
		}
		s.skip--
	}
}
