// Media that are open at a peer.

package repeatertcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/mediad/mediad/core/media"
)

// window is how much of the media that nobody has read yet is kept here, and on its way.
const window = 4 << 20

// An arrival is a batch, and what had been skipped when it came.
type arrival struct {
	batch *media.Batch
	losses
}

// An upstream is a connection on which media come. It is a media.Source for one
// goroutine; Close may be called by any.
type upstream struct {
	*conn
	r       *repeater
	address string
	info    media.Info
	path    []string // as it was told last
	leaving bool
	lost    losses // as of the last batch

	than  *upstream    // the parent that it is better than
	first *media.Batch // what Next returns before it reads
	gap   bool         // first is not what follows the last batch of the parent before
	kept  func() bool  // ends keep
}

// keep bounds the life of u by that of the source that it is for.
func (u *upstream) keep(life context.Context) {
	u.kept = context.AfterFunc(life, func() { u.conn.Close() })
}

// Close implements media.Source. It is for those who have called keep.
func (u *upstream) Close() error {
	u.kept()
	return u.conn.Close()
}

// open opens req at the peer at an address.
func (r *repeater) open(ctx context.Context, address string, req media.OpenRequest) (*upstream, error) {
	b := appendRequest(appendUint(begin(nil, kindOpen), 0), req)
	c, err := r.dial(ctx, address, finish(b, 0, 0))
	if err != nil {
		return nil, fmt.Errorf("peer at %s: %w", address, err)
	}
	u := &upstream{conn: c, r: r, address: address}
	err = c.within(ctx, func() error {
		k, p, err := c.message(kindOpened, kindEnd)
		switch {
		case err != nil:
			return err
		case k == kindEnd:
			err = p.failure()
			return errors.Join(err, p.end())
		}
		u.info, u.path = p.info(), p.path()
		return p.end()
	})
	switch {
	case err != nil:
	case u.info.Live && req.RecordedOnly, !u.info.Live && req.LiveOnly:
		err = fmt.Errorf("%w: it has opened the wrong kind of media", errProtocol)
	case slices.Contains(u.path, r.self):
		err = fmt.Errorf("%w: %w", media.ErrUnavailable, errLoop)
	case u.info.Live && len(u.path) == 0:
		err = fmt.Errorf("%w: the peer has it from nobody", media.ErrUnavailable)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("peer at %s: %w", address, unavailable(err))
	}
	c.idle = r.pace.stalled
	if u.info.Live {
		c.idle = r.pace.silent
	}
	return u, nil
}

// event is that of the decoder, counted and remembered.
func (u *upstream) event() (event, error) {
	e, err := u.conn.event()
	switch {
	case err != nil:
		return e, err
	case e.batch != nil:
		u.lost = e.losses
		u.r.metrics.batchesIn.Inc()
		u.r.metrics.framesIn.Add(float64(len(e.batch.Frames())))
	default:
		u.path, u.leaving = e.beat.path, e.beat.leaving
	}
	return e, nil
}

// Info implements media.Source.
func (u *upstream) Info() media.Info { return u.info }

// Next implements media.Source, but waits until Close and not for the context.
func (u *upstream) Next(context.Context) (*media.Batch, error) { return u.next() }

func (u *upstream) next() (*media.Batch, error) {
	if b := u.first; b != nil {
		u.first = nil
		return b, nil
	}
	for {
		e, err := u.event()
		if err != nil || e.batch != nil {
			return e.batch, err
		}
	}
}

// source makes the source of media that were opened.
func (r *repeater) source(req media.OpenRequest, up *upstream) (media.Source, error) {
	if up.info.Live {
		return newLive(r, req, up)
	}
	return newRecorded(r, up)
}

// recorded is a source of recorded media.
type recorded struct {
	up    *upstream
	queue queue
	begun bool  // Next has been called, and credit been given
	taken int64 // bytes that Next has returned since credit was given for such
	once  sync.Once
}

func newRecorded(r *repeater, up *upstream) (*recorded, error) {
	s := &recorded{up: up, queue: newQueue(window + maxBatch)}
	up.keep(r.life)
	if !r.run(s.run) {
		up.Close()
		return nil, errStopped
	}
	r.metrics.recordings.Inc()
	return s, nil
}

// run moves what comes to the queue, where there is room for more than there can be credit for.
func (s *recorded) run() {
	defer s.up.Close()
	for {
		b, err := s.up.next()
		if err != nil {
			s.queue.finish(ended(err))
			return
		}
		if !s.queue.put(arrival{batch: b}) {
			return
		}
	}
}

// Info implements media.Source.
func (s *recorded) Info() media.Info { return s.up.info }

// Buffered implements media.Buffered.
func (s *recorded) Buffered() int { return s.queue.len() }

// Next implements media.Source.
func (s *recorded) Next(ctx context.Context) (*media.Batch, error) {
	if !s.begun { // who opens and never reads, as a cache that has it all, costs the link nothing
		s.begun = true
		s.grant(window)
	}
	a, err := s.queue.get(ctx)
	if err != nil {
		return nil, err
	}
	if s.taken += int64(bodies(a.batch)); s.taken >= window/2 {
		s.grant(s.taken)
		s.taken = 0
	}
	return a.batch, nil
}

// grant lets the peer send so many more bytes. When it cannot be told, run fails too.
func (s *recorded) grant(n int64) {
	_ = s.up.send(finish(appendUint(begin(nil, kindCredit), uint64(n)), 0, 0))
}

// Close implements media.Source.
func (s *recorded) Close() error {
	s.once.Do(func() {
		s.queue.close()
		s.up.Close()
		s.up.r.metrics.recordings.Dec()
	})
	return nil
}

// A queue is what has come and was not read yet. One goroutine puts, one gets or has it pushed.
type queue struct {
	mu     sync.Mutex
	list   []arrival
	size   int           // bytes of bodies
	most   int           // from which on put waits
	take   func(arrival) // called by put in the place of the list, nil when nothing is pushed
	end    error         // after the last in the list
	shut   bool
	more   chan struct{} // holds one after list or end has changed
	room   chan struct{} // holds one after there is room
	closed chan struct{}
}

func newQueue(most int) queue {
	return queue{most: most, more: make(chan struct{}, 1), room: make(chan struct{}, 1), closed: make(chan struct{})}
}

// signal wakes the one who waits, now or next.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put waits for room. It reports false when the queue is closed.
func (q *queue) put(a arrival) bool {
	for {
		q.mu.Lock()
		if q.shut {
			q.mu.Unlock()
			return false
		}
		if q.take != nil {
			q.take(a)
			q.mu.Unlock()
			return true
		}
		if q.size < q.most {
			q.list = append(q.list, a)
			q.size += bodies(a.batch)
			q.mu.Unlock()
			signal(q.more)
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-q.closed:
		}
	}
}

// finish ends the queue with the error that follows what is in it.
func (q *queue) finish(err error) {
	q.mu.Lock()
	q.end = err
	q.mu.Unlock()
	signal(q.more)
}

func (q *queue) get(ctx context.Context) (arrival, error) {
	for {
		q.mu.Lock()
		switch {
		case q.shut:
			q.mu.Unlock()
			return arrival{}, media.ErrClosed
		case len(q.list) > 0:
			a := q.first()
			q.mu.Unlock()
			return a, nil
		case q.end != nil:
			q.mu.Unlock()
			return arrival{}, q.end
		}
		q.mu.Unlock()
		select {
		case <-q.more:
		case <-q.closed:
		case <-ctx.Done():
			return arrival{}, ctx.Err()
		}
	}
}

// first takes the first of the list, which is not empty. The caller holds mu.
func (q *queue) first() arrival {
	a := q.list[0]
	q.list[0] = arrival{}
	q.list = q.list[1:]
	q.size -= bodies(a.batch)
	signal(q.room)
	return a
}

// push calls take with what is in the list, and has put call it with what comes then, until
// the end or the error of take or ctx, which it returns.
func (q *queue) push(ctx context.Context, take func(arrival) error) error {
	var failed error
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case failed != nil:
			return failed
		case q.shut:
			return media.ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case len(q.list) > 0:
			failed = take(q.first())
			continue
		case q.end != nil:
			return q.end
		}
		q.take = func(a arrival) {
			if failed = take(a); failed != nil {
				q.take = nil
				signal(q.more)
			}
		}
		q.mu.Unlock()
		select {
		case <-q.more:
		case <-q.closed:
		case <-ctx.Done():
		}
		q.mu.Lock()
		q.take = nil
	}
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list)
}

// close lets go of everything. It is called once.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shut, q.list, q.size = true, nil, 0
	close(q.closed)
}

// ended is how media end for those who read them: io.EOF, or an error that they know.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return unavailable(err)
}
