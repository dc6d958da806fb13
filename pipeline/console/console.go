// Package console is the daemon's page for people: channels with a player, the graph with
// its rates, what the broker chose, recordings, nodes. It is a few files that the
// browser gets as they are, and a snapshot of the daemon each second, which
// `mediad top` shows too. It changes nothing.
package console

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/api"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are what the console shows.
type Options struct {
	// Stages are the stages as they are now, in the order of the file.
	Stages  func() []pipeline.Status
	Metrics prometheus.Gatherer
	// Host is what the daemon is called.
	Host string
	// Nodes and Channels are those of the cluster, nil when the daemon is alone.
	Nodes    func() ([]api.Node, error)
	Channels func() []cluster.Channel
}

const (
	// interval is the time between two snapshots.
	interval = time.Second
	// maxWatchers is how many may be sent snapshots at a time.
	maxWatchers = 100
	// patience is how long a watcher may take for one of them.
	patience = 10 * time.Second
)

// A Console serves the page. Its handler answers while Serve runs.
type Console struct {
	options  Options
	observer observer // of Serve's goroutine alone
	library  library
	wake     chan struct{} // the first watcher has come
	over     chan struct{} // closed when Serve has ended

	mu       sync.Mutex
	watchers int
	event    []byte        // the last snapshot as it is sent; nil when nobody watches
	changed  chan struct{} // closed and replaced with each event
}

// New returns a console.
func New(o Options) *Console {
	return &Console{
		options:  o,
		observer: observer{options: o},
		library:  library{stages: o.Stages},
		wake:     make(chan struct{}, 1),
		over:     make(chan struct{}),
		changed:  make(chan struct{}),
	}
}

// Serve makes a snapshot each second while anybody watches, until ctx ends. It
// may be called once.
func (c *Console) Serve(ctx context.Context) {
	defer close(c.over)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.wake:
		}
		if !c.watched() {
			c.observer.forget()
			continue
		}
		c.publish(c.observer.look(time.Now()))
	}
}

// enter counts a watcher, unless there are too many.
func (c *Console) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers == maxWatchers {
		return false
	}
	c.watchers++
	if c.watchers == 1 {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return true
}

func (c *Console) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers--
	if c.watchers == 0 {
		c.event = nil // it would be old when the next one comes
	}
}

func (c *Console) watched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.watchers > 0
}

// publish hands a snapshot to all who watch.
func (c *Console) publish(s Snapshot) {
	text, err := json.Marshal(s)
	if err != nil { // a rate that is no number
		text, _ = json.Marshal(Snapshot{Time: s.Time, Host: s.Host, Error: err.Error()})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.event = fmt.Appendf(nil, "retry: 1000\ndata: %s\n\n", text)
	close(c.changed)
	c.changed = make(chan struct{})
}

// current returns the last event, nil when there is none yet, and what is closed
// when there is another.
func (c *Console) current() ([]byte, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.event, c.changed
}

//go:embed static
var static embed.FS

// policy lets the page load what the daemon serves, and nothing else.
const policy = "default-src 'self'; media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves / and /console/ (the page), /api/events (snapshots as server-sent
// events) and /api/media (the recordings).
func (c *Console) Handler() http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // it is embedded
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "index.html") })
	mux.HandleFunc("GET /console/{file}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, files, r.PathValue("file"))
	})
	mux.HandleFunc("GET /api/events", c.events)
	mux.HandleFunc("GET /api/media", c.library.serve)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		mux.ServeHTTP(w, r)
	})
}

// events sends snapshots until the watcher leaves or takes too long for one. Who is
// slow misses some.
func (c *Console) events(w http.ResponseWriter, r *http.Request) {
	if !c.enter() {
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("%d watch already, no more may", maxWatchers))
		return
	}
	defer c.leave()
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	// The server's deadline for the request would be taken for the end of the watcher.
	_ = out.SetReadDeadline(time.Time{})
	for {
		event, changed := c.current()
		if event != nil {
			_ = out.SetWriteDeadline(time.Now().Add(patience))
			if _, err := w.Write(event); err != nil {
				return
			}
			if err := out.Flush(); err != nil {
				return
			}
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-c.over:
			return
		}
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}

func fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}
