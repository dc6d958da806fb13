// The side that serves: what a peer asks, and the media that it has open here.

package repeatertcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
)

const (
	// maxAsking is how many questions of one peer are looked into at once.
	maxAsking = 32
	// askIdle is how long a peer may be silent on a connection for questions, where it pings.
	askIdle = 15 * time.Second
	// maxRelayed is how many children a node has for a channel that is not its own.
	maxRelayed = 8
)

// children are the nodes that have a channel open here.
type children struct {
	of    map[string]int // how often, by node
	relay bool           // the channel comes from another node
}

// most is how many there may be.
func (r *repeater) most(relay bool) int {
	if relay {
		return min(max(r.settings.Children/2, 1), maxRelayed)
	}
	return r.settings.Children
}

// A refusal is why a peer gets nothing here, for now.
type refusal struct{ reason, text string }

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return media.ErrUnavailable }

// load returns the load of this node, or why it takes no peers.
func (r *repeater) load() (load float64, err error) {
	if r.nodes != nil {
		load = r.nodes.Load()
	}
	switch {
	case r.leaving.Load():
		return load, &refusal{refusedDraining, r.self + " is draining"}
	case load >= media.Overloaded:
		return load, &refusal{refusedLoad, fmt.Sprintf("%s is overloaded, %.0f%% of its busiest resource is in use", r.self, 100*load)}
	}
	return load, nil
}

// full returns why a node may not have a channel, or nil. The caller holds mu.
func (r *repeater) full(name, node string, c children) error {
	if most := r.most(c.relay); len(c.of) >= most && c.of[node] == 0 {
		return &refusal{refusedChildren, fmt.Sprintf("%s has %s open for %d nodes, which is the most", r.self, name, most)}
	}
	return nil
}

// admit takes node as a child of a channel with the path, until leave is called.
func (r *repeater) admit(name, node string, path []string) (leave func(), err error) {
	switch {
	case slices.Contains(path, node):
		return nil, &refusal{refusedLoop, fmt.Sprintf("%s comes to %s through %s", name, r.self, node)}
	case len(path) == 0:
		return nil, &refusal{refusedOrphan, fmt.Sprintf("%s has %s from nobody at the moment", r.self, name)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.channels[name]
	if !ok {
		c.of = map[string]int{}
	}
	c.relay = len(path) > 1
	if err := r.full(name, node, c); err != nil {
		return nil, err
	}
	c.of[node]++
	r.channels[name] = c
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if c.of[node]--; c.of[node] == 0 {
			delete(c.of, node)
		}
		if len(c.of) == 0 {
			delete(r.channels, name)
		}
	}, nil
}

// path is the path of live media that are open here, empty while they come from nobody.
func (r *repeater) path(src media.Source) []string {
	if routed, ok := src.(media.Routed); ok {
		if path := routed.Path(); len(path) > 0 || r.nodes != nil {
			return path
		}
	}
	return []string{r.self}
}

// refused counts a refusal and returns it; any other error is passed by.
func (r *repeater) refused(err error) error {
	var no *refusal
	if errors.As(err, &no) {
		r.metrics.refused.WithLabelValues(no.reason).Inc()
	}
	return err
}

// answer serves a connection to its end.
func (r *repeater) answer(life context.Context, c *conn) {
	defer c.Close()
	defer context.AfterFunc(life, func() { c.Close() })()
	_ = c.SetDeadline(time.Now().Add(handshake))
	err := c.send(hello(r.self))
	if err == nil {
		err = c.greeted()
	}
	if err != nil {
		r.metrics.refused.WithLabelValues(refusedHandshake).Inc()
		r.log.Debug("a connection is no peer's", "remote", c.RemoteAddr(), "reason", err)
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	if err := r.converse(life, c); errors.Is(err, errProtocol) {
		r.metrics.refused.WithLabelValues(refusedProtocol).Inc()
		r.log.Warn("a peer is hung up on", "peer", c.node, "remote", c.RemoteAddr(), "reason", err)
	}
}

// converse answers what a peer asks, up to its Open, which makes the connection that of the media.
func (r *repeater) converse(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	slots := make(chan struct{}, maxAsking)
	c.idle = askIdle
	for {
		k, p, err := c.message(kindPing, kindAsk, kindOpen)
		if err != nil {
			return err
		}
		switch k {
		case kindPing:
			id := p.uint(maxID)
			if err := p.end(); err != nil {
				return err
			}
			if err := c.send(finish(appendUint(begin(nil, kindPong), id), 0, 0)); err != nil {
				return err
			}
		case kindAsk:
			id, req := p.uint(maxID), p.request()
			if err := p.end(); err != nil {
				return err
			}
			slots <- struct{}{} // a peer that asks too much waits
			asking.Go(func() {
				defer func() { <-slots }()
				req.Peer = c.node
				cost, err := r.quote(ctx, req)
				b := appendUint(begin(nil, kindCost), id)
				b = appendCost(appendFailure(b, err), cost)
				_ = c.send(finish(b, 0, 0)) // when it fails, message does too
			})
		case kindOpen:
			credit, req := p.uint(maxCredit), p.request()
			if err := p.end(); err != nil {
				return err
			}
			req.Peer = c.node
			return r.feed(ctx, c, req, int64(credit))
		}
	}
}

// quote returns what it costs a peer to open req here.
func (r *repeater) quote(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	if err := media.CheckName(req.Name); err != nil {
		return media.Cost{}, fmt.Errorf("%w: %w", media.ErrNotFound, err)
	}
	load, err := r.load()
	if err != nil {
		return media.Cost{}, r.refused(err)
	}
	cost, err := r.inputs.Cost(ctx, req)
	if err != nil {
		return media.Cost{}, err
	}
	r.mu.Lock()
	if c, ok := r.channels[req.Name]; ok && cost.Place == placeLive {
		err = r.full(req.Name, req.Peer, c)
	}
	r.mu.Unlock()
	cost.Load = max(cost.Load, load)
	return cost, r.refused(err)
}

// placeLive is where the media of a broadcast are.
const placeLive = "live"

// openFor opens what a peer asks for. done is to be called at the end.
func (r *repeater) openFor(ctx context.Context, req media.OpenRequest) (src media.Source, done func(), err error) {
	if err := media.CheckName(req.Name); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", media.ErrNotFound, err)
	}
	if _, err := r.load(); err != nil {
		return nil, nil, r.refused(err)
	}
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	if src, err = r.inputs.Open(ctx, req); err != nil {
		return nil, nil, err
	}
	live := src.Info().Live
	count, leave := r.metrics.recordings, func() {}
	if live {
		count = r.metrics.children
		if leave, err = r.admit(req.Name, req.Peer, r.path(src)); err != nil {
			src.Close()
			return nil, nil, r.refused(err)
		}
	}
	count.Inc()
	r.opened(live, 1)
	return src, func() {
		src.Close()
		leave()
		count.Dec()
		r.opened(live, -1)
	}, nil
}

// feed answers an Open, and sends the media until their end or the peer's.
func (r *repeater) feed(ctx context.Context, c *conn, req media.OpenRequest, credit int64) error {
	c.idle = 0
	src, done, err := r.openFor(ctx, req)
	if err != nil {
		return c.hangUp(err)
	}
	defer done()
	f := &feed{r: r, conn: c, src: src, live: src.Info().Live, granted: make(chan struct{}, 1)}
	f.skipper, _ = src.(skipper)
	f.credit.Store(credit)
	b := appendInfo(begin(nil, kindOpened), src.Info())
	if err := c.send(finish(appendPath(b, f.path()), 0, 0)); err != nil {
		return err
	}
	r.log.Debug("a peer has opened", "peer", c.node, "name", req.Name, "live", f.live)

	ctx, cancel := context.WithCancel(ctx)
	var pumping sync.WaitGroup
	pumping.Go(func() { f.run(ctx) })
	for err == nil {
		var p fields
		if _, p, err = c.message(kindCredit); err == nil {
			f.grant(int64(p.uint(maxCredit)))
			err = p.end()
		}
	}
	cancel()
	c.Close() // ends a write
	src.Close()
	pumping.Wait()
	return err
}

// hangUp ends the connection with what went wrong, or nil for the end of the media. It waits until the peer, who
// would lose what is on its way otherwise, has hung up too.
func (c *conn) hangUp(why error) error {
	if err := c.sendEnd(why); err != nil {
		return err
	}
	for {
		if _, _, err := c.message(kindCredit); err != nil {
			return err
		}
	}
}

// sendEnd sends the last message, and gives the peer some time to hang up.
func (c *conn) sendEnd(why error) error {
	err := c.send(finish(appendFailure(begin(nil, kindEnd), why), 0, 0))
	_ = c.SetReadDeadline(time.Now().Add(handshake))
	return err
}

// A feed is media that a peer has open here.
type feed struct {
	r       *repeater
	conn    *conn
	src     media.Source
	live    bool
	skipper skipper       // src, nil when it is none
	credit  atomic.Int64  // bytes of recorded media that may be sent
	granted chan struct{} // holds one after credit has grown
	sent    atomic.Bool   // media, since the last beat was due
}

func (f *feed) grant(n int64) {
	f.credit.Add(n)
	signal(f.granted)
}

// path is that of live media.
func (f *feed) path() []string {
	if !f.live {
		return nil
	}
	return f.r.path(f.src)
}

// run sends the media, and beats beside them, until ctx ends or they do.
func (f *feed) run(ctx context.Context) {
	beating, stop := context.WithCancel(ctx)
	var beats sync.WaitGroup
	beats.Go(func() { f.beat(beating) })
	err := f.pump(ctx)
	stop()
	beats.Wait()
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errWrite):
		f.r.log.Info("a peer is lost", "peer", f.conn.node, "name", f.src.Info().Name, "reason", err)
		f.conn.Close() // ends the reading
	default:
		_ = f.conn.sendEnd(err) // when it cannot be sent, the peer has gone
	}
}

// beat tells the peer that this node is alive, and by which path the media come. While they do come, and by the path that
// was told, they tell it themselves.
func (f *feed) beat(ctx context.Context) {
	ticker := time.NewTicker(f.r.pace.beat)
	defer ticker.Stop()
	var told []string
	for {
		path, leaving := f.path(), f.r.leaving.Load()
		if !f.sent.Swap(false) || leaving || len(path) == 0 || !slices.Equal(path, told) {
			b := appendBool(begin(nil, kindBeat), leaving)
			if f.conn.send(finish(appendPath(b, path), 0, 0)) != nil {
				return // pump fails too, or the reading does
			}
			told = path
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// errWrite is wrapped when the peer cannot be sent anything.
var errWrite = errors.New("write to the peer")

// skipper is a live source that is moved forward when it is read too slowly.
type skipper interface {
	Skips() int
	Missed() int64
}

// pump sends the media, and returns how they end: what is ready together, and when nothing is, by push.
func (f *feed) pump(ctx context.Context) error {
	buffered, _ := f.src.(media.Buffered)
	pushing, _ := f.src.(media.Pushing)
	more := func() bool { return buffered != nil && buffered.Buffered() > 0 }
	var ready []arrival
	for {
		if err := f.allowed(ctx); err != nil {
			return err
		}
		var end error
		for size := 0; end == nil && (len(ready) == 0 || size < nowait.MaxWrite && more()); {
			var b *media.Batch
			if b, end = f.src.Next(ctx); end == nil {
				ready = append(ready, f.arrival(b))
				size += bodies(b)
			}
		}
		if err := f.send(ready); err != nil {
			return err
		}
		clear(ready)
		ready = ready[:0]
		if end == nil && f.live && pushing != nil && f.conn.out.Prompt() && !more() {
			end = f.push(ctx, pushing)
		}
		if errors.Is(end, io.EOF) {
			return nil
		}
		if end != nil {
			return end
		}
	}
}

// arrival is a batch that the source has just delivered.
func (f *feed) arrival(b *media.Batch) arrival {
	a := arrival{batch: b}
	if f.skipper != nil {
		a.losses = losses{f.skipper.Skips(), f.skipper.Missed()}
	}
	return a
}

// send sends batches, and waits until the peer has taken them.
func (f *feed) send(list []arrival) error {
	if err := f.conn.sendBatches(list); err != nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	for _, a := range list {
		f.count(a)
	}
	return nil
}

// push has the source send what comes without a goroutine that is woken for it, until the connection takes no
// more at once. That is waited for.
func (f *feed) push(ctx context.Context, src media.Pushing) error {
	var left []arrival
	err := src.Push(ctx, func(b *media.Batch) error {
		a := f.arrival(b)
		queued, err := f.conn.try(a)
		if queued {
			f.count(a)
		} else {
			left = append(left, a)
		}
		return err
	})
	if !errors.Is(err, errBusy) {
		return err
	}
	return f.send(left)
}

// count counts what is sent.
func (f *feed) count(a arrival) {
	f.credit.Add(int64(-bodies(a.batch)))
	f.sent.Store(true)
	f.r.metrics.batchesOut.Inc()
	f.r.metrics.framesOut.Add(float64(len(a.batch.Frames())))
}

// allowed waits until the peer wants more of recorded media.
func (f *feed) allowed(ctx context.Context) error {
	for !f.live && f.credit.Load() <= 0 {
		select {
		case <-f.granted:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
