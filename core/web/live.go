// Live HLS: the channels that are watched, and the muxer of each, gohlslib's. A muxer
// is a reader of the channel as any other. It begins with what the channel keeps, so
// that the first playlist is there at once and can be gone back in.

package web

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A channel is a live channel that is watched as HLS.
type channel struct {
	app  *app
	name string

	mu      sync.Mutex
	muxers  []*muxer      // the last one is fed, or was; the one before it may still be read
	changed chan struct{} // closed and replaced when muxers or err change
	running bool          // there is a goroutine that feeds
	err     error         // why it has ended
	cancel  context.CancelFunc
	idle    *time.Timer          // while there are no requests
	users   int                  // requests
	clients map[client]time.Time // when they asked last; nil when the channel has been dropped
	counted time.Time
}

// A client is told from others by what HTTP has; several behind one address with the
// same browser count as one.
type client struct {
	addr  netip.Addr
	agent string
}

// maxClients is how many are told from each other.
const maxClients = 10000

// look opens name, to see what it is. Live media may be waited for. A client that begins with it may be sent
// to another node.
func (a *app) look(r *http.Request, name string, begins bool) (media.Source, error) {
	ctx, cancel := context.WithTimeout(r.Context(), a.server.limits.Wait)
	defer cancel()
	return a.Reader.Open(ctx, media.OpenRequest{Name: name, Redirects: begins && a.server.follows(r)})
}

// serveIndex serves the playlist that a player begins with.
func (a *app) serveIndex(w http.ResponseWriter, r *http.Request, name string) error {
	c := a.channel(name)
	if c == nil || !c.alive() {
		source, err := a.look(r, name, true)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		if !source.Info().Live {
			return a.servePlaylist(w, r, name, source)
		}
		if c, err = a.run(name, source); err != nil {
			return err
		}
	}
	defer c.use(r)()
	m, err := c.current(r.Context(), a.server.limits.Wait)
	if err != nil {
		return fmt.Errorf("%s as HLS: %w", name, err)
	}
	return m.serveMaster(w, r)
}

// serveLive serves a file of a muxer.
func (a *app) serveLive(w http.ResponseWriter, r *http.Request, name, file string) error {
	c := a.channel(name)
	if c == nil {
		return media.ErrNotFound
	}
	defer c.use(r)()
	if file == gapFile {
		w.Header().Set("Content-Type", "video/mp4")
		return nil
	}
	for _, m := range c.all() {
		if ok, err := m.serve(w, r, file); ok || err != nil {
			return err
		}
	}
	return media.ErrNotFound
}

func (a *app) channel(name string) *channel {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.channels[name]
}

// run returns the channel name, fed from source unless it is fed already.
func (a *app) run(name string, source media.Source) (*channel, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ctx.Err() != nil {
		_ = source.Close()
		return nil, media.ErrUnavailable
	}
	c := a.channels[name]
	if c == nil {
		select {
		case a.server.muxers <- struct{}{}:
		default:
			_ = source.Close()
			return nil, &httpError{http.StatusServiceUnavailable, "too many channels are watched as HLS"}
		}
		c = &channel{app: a, name: name, changed: make(chan struct{}), clients: map[client]time.Time{}}
		c.idle = time.AfterFunc(a.server.limits.Idle, c.expire)
		a.channels[name] = c
		a.server.metrics.muxers.Inc()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running {
		_ = source.Close()
		return c, nil
	}
	ctx, cancel := context.WithCancel(a.ctx)
	c.running, c.err, c.cancel = true, nil, cancel
	a.work.Go(func() {
		defer cancel()
		err := c.feed(ctx, source)
		switch {
		case errors.Is(err, io.EOF):
			err = fmt.Errorf("%w: the channel has ended", media.ErrUnavailable)
		case ctx.Err() == nil:
			a.server.log.Warn("HLS has ended", "app", a.name, "name", name, "error", err)
		}
		c.update(func() { c.running, c.err = false, err })
	})
	return c, nil
}

// expire drops what nobody watches.
func (c *channel) expire() {
	c.mu.Lock()
	used := c.users > 0
	c.mu.Unlock()
	if !used {
		c.drop()
	}
}

// drop ends the channel.
func (c *channel) drop() {
	a := c.app
	a.mu.Lock()
	if a.channels[c.name] == c {
		delete(a.channels, c.name)
		a.server.metrics.muxers.Dec()
		<-a.server.muxers
	}
	a.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle.Stop()
	c.cancel()
	c.running = false
	for _, m := range c.muxers {
		m.close()
	}
	a.server.metrics.viewers.WithLabelValues(string(HLS)).Sub(float64(len(c.clients)))
	c.clients = nil
}

func (c *channel) update(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// alive reports whether the channel is being fed.
func (c *channel) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

func (c *channel) all() []*muxer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*muxer(nil), c.muxers...)
}

// current waits for a muxer that has something to play.
func (c *channel) current(ctx context.Context, wait time.Duration) (*muxer, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		c.mu.Lock()
		changed, err, running := c.changed, c.err, c.running
		var m *muxer
		var begun <-chan struct{}
		if n := len(c.muxers); n > 0 && !c.muxers[n-1].ended() {
			m = c.muxers[n-1]
			begun = m.begun
		}
		c.mu.Unlock()
		if !running {
			return nil, cmp.Or(err, media.ErrUnavailable) // without one, it was dropped
		}
		select {
		case <-begun:
			return m, nil
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: there is no whole segment yet", media.ErrUnavailable)
		}
	}
}

// use notes that somebody watches. The channel is kept at least until done is called.
func (c *channel) use(r *http.Request) (done func()) {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle.Stop()
	c.users++
	c.count(client{remote.Addr(), r.UserAgent()}, time.Now())
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.users--; c.users == 0 && c.clients != nil {
			c.idle.Reset(c.app.server.limits.Idle)
		}
	}
}

// count counts the clients of the last seconds, of which who is one.
func (c *channel) count(who client, now time.Time) {
	if c.clients == nil { // the channel has been dropped
		return
	}
	before := len(c.clients)
	if _, known := c.clients[who]; known || before < maxClients {
		c.clients[who] = now
	}
	if now.Sub(c.counted) > time.Second {
		c.counted = now
		for other, last := range c.clients {
			if now.Sub(last) > c.app.server.limits.Idle {
				delete(c.clients, other)
			}
		}
	}
	c.app.server.metrics.viewers.WithLabelValues(string(HLS)).Add(float64(len(c.clients) - before))
}

// errFull says that a segment is larger than its share of the memory.
var errFull = fmt.Errorf("%w: a segment is larger than its share of the memory", media.ErrUnavailable)

// feed gives what is read to a muxer until the media end, to another one whenever the
// codec configuration changes.
func (c *channel) feed(ctx context.Context, source media.Source) error {
	defer source.Close()
	l := c.app.server.limits
	count := max(int(l.Rewind/segmentTime), minSegments)
	batch, err := source.Next(ctx)
	for err == nil {
		// What is there already ends now: that is what its wall clock is told from.
		batches := []*media.Batch{batch}
		if b, ok := source.(media.Buffered); ok {
			for n := b.Buffered(); n > 0 && err == nil; n-- {
				if batch, err = source.Next(ctx); err == nil {
					batches = append(batches, batch)
				}
			}
		}
		if err != nil {
			break
		}
		batch, err = c.feedMuxer(ctx, source, batches, count)
		if errors.Is(err, errFull) && count > minSegments {
			// Fewer and larger segments fit into the same memory. Players begin anew.
			count = max(count/2, minSegments)
			_ = source.Close()
			source, err = c.app.Reader.Open(ctx, media.OpenRequest{Name: c.name, LiveOnly: true})
			if err != nil {
				return err
			}
			defer source.Close()
			batch, err = source.Next(ctx)
		}
	}
	return err
}

// feedMuxer makes a muxer and feeds it the batches and then source. It returns the batch
// that needs another muxer, or the error that has ended it.
func (c *channel) feedMuxer(ctx context.Context, source media.Source, batches []*media.Batch, count int) (*media.Batch, error) {
	s := c.app.server
	for len(batches) > 1 && !batches[0].Join() {
		batches = batches[1:]
	}
	m, err := newMuxer(batches, count, s.limits, s.metrics)
	if err != nil {
		return nil, err
	}
	if m.left != "" {
		s.log.Warn("a track is left out of HLS, which has no such codec here", "app", c.app.name, "name", c.name, "codec", m.left)
	}
	c.update(func() {
		if n := len(c.muxers); n > 1 {
			c.muxers[0].close()
			c.muxers = c.muxers[1:]
		}
		c.muxers = append(c.muxers, m)
		if c.clients == nil { // the channel was dropped meanwhile
			m.close()
		}
	})
	c.app.work.Go(m.follow)
	defer m.finish()
	header := batches[0].Header()
	for {
		for _, b := range batches {
			if h := b.Header(); h != header && !m.fits(h) {
				return b, nil
			}
			if err := m.write(b); err != nil {
				return nil, err
			}
		}
		b, err := source.Next(ctx)
		if err != nil {
			return nil, err
		}
		batches = append(batches[:0], b)
	}
}

// A recorder keeps what gohlslib answers.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}
