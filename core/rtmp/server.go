// Package rtmp is the RTMP server: the way in for publishers and the way out to
// viewers. It implements ingest.Front and stream.Front, and knows nothing of what
// is done with the media.
//
// A connection is one goroutine that reads, the session (session.go), and takes
// its commands from a table (commands.go). What viewers are sent is written by
// their players' goroutines, through a viewer (viewer.go), and mostly is memory that all
// viewers share (form.go).
package rtmp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/ingest"
	"github.com/mediad/mediad/core/stream"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are what a Server is made with. The zero value of each has a default.
type Options struct {
	Log     hclog.Logger          // none: nothing is logged
	Metrics prometheus.Registerer // none: the metrics are not registered
	// Drain is how long Serve waits for connections to end once its context has.
	Drain  time.Duration // 10 s
	Limits Limits
	// Elsewhere names another node that clients may be sent to by Drain, "" for
	// none. Without it they are asked to connect again by the URL that they have.
	Elsewhere func() (host string)
}

// Limits bound what clients may do; in brackets the defaults.
type Limits struct {
	Connections int           // open at a time (10000)
	Message     int           // bytes of an audio or video message of a publisher (16 MiB)
	Handshake   time.Duration // for all of it (10 s)
	Idle        time.Duration // a connection that neither publishes nor plays (60 s)
	Silence     time.Duration // of a publisher (30 s)
	Write       time.Duration // for a viewer to take up to 256 KiB (10 s)
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Connections: cmp.Or(l.Connections, 10000),
		Message:     min(cmp.Or(l.Message, maxPayload), maxPayload),
		Handshake:   cmp.Or(l.Handshake, 10*time.Second),
		Idle:        cmp.Or(l.Idle, time.Minute),
		Silence:     cmp.Or(l.Silence, 30*time.Second),
		Write:       cmp.Or(l.Write, 10*time.Second),
	}
}

// A Server serves RTMP.
type Server struct {
	log     hclog.Logger
	logged  throttle
	backoff backoff
	metrics *metrics
	drain   time.Duration
	limits  Limits

	elsewhere func() string
	draining  context.Context // ends with the first Drain
	beginning context.CancelFunc

	mu       sync.Mutex
	apps     map[string]app
	sessions map[*session]struct{}
}

// An app is what is registered under its name: either or both.
type app struct {
	publisher ingest.Publisher
	newPlayer func(stream.Viewer) stream.Player
}

var (
	_ ingest.Front = (*Server)(nil)
	_ stream.Front = (*Server)(nil)
)

// New returns a server.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Elsewhere == nil {
		o.Elsewhere = func() string { return "" }
	}
	s := &Server{
		log:       o.Log,
		metrics:   newMetrics(o.Metrics),
		drain:     cmp.Or(o.Drain, 10*time.Second),
		limits:    o.Limits.withDefaults(),
		elsewhere: o.Elsewhere,
		logged:    throttle{causes: make(map[string]lines)},
		apps:      make(map[string]app),
		sessions:  make(map[*session]struct{}),
	}
	s.draining, s.beginning = context.WithCancel(context.Background())
	return s
}

// HandlePublish implements ingest.Front.
func (s *Server) HandlePublish(name string, p ingest.Publisher) (remove func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[name]
	if a.publisher != nil {
		return nil, fmt.Errorf("the app %q takes publishers already", name)
	}
	a.publisher = p
	s.apps[name] = a
	return sync.OnceFunc(func() { s.change(name, func(a *app) { a.publisher = nil }) }), nil
}

// HandlePlay implements stream.Front.
func (s *Server) HandlePlay(name string, newPlayer func(stream.Viewer) stream.Player) (remove func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[name]
	if a.newPlayer != nil {
		return nil, fmt.Errorf("the app %q is played from already", name)
	}
	a.newPlayer = newPlayer
	s.apps[name] = a
	return sync.OnceFunc(func() { s.change(name, func(a *app) { a.newPlayer = nil }) }), nil
}

func (s *Server) change(name string, f func(*app)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[name]
	f(&a)
	s.apps[name] = a
	if a.publisher == nil && a.newPlayer == nil {
		delete(s.apps, name)
	}
}

// app returns what is registered under a name, which may be nothing.
func (s *Server) app(name string) app {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apps[name]
}

func (s *Server) serves(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.apps[name]
	return ok
}

// Serve accepts connections from l and serves them until ctx ends. Then it
// accepts no more, and nothing new is published or played; it closes the
// connections that do neither at once, those that are left after Options.Drain,
// and returns nil when the last is gone. It closes l in any case. An error is one of l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	defer context.AfterFunc(s.draining, stopServing)()
	// Connections outlive ctx by the drain.
	conns, closeAll := context.WithCancelCause(context.WithoutCancel(ctx))
	defer closeAll(nil)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()

	var open sync.WaitGroup
	err := s.accept(ctx, serving, conns, l, &open)
	_ = l.Close()
	if err != nil {
		closeAll(errShutdown)
	}
	drained := time.AfterFunc(s.drain, func() { closeAll(errShutdown) })
	defer drained.Stop()
	open.Wait()
	return err
}

// accept starts a session for each connection. It returns nil when ctx has ended.
func (s *Server) accept(ctx, serving, conns context.Context, l net.Listener, open *sync.WaitGroup) error {
	const shortest, longest = 5 * time.Millisecond, time.Second
	slots := make(chan struct{}, s.limits.Connections)
	pause := shortest
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept RTMP connections: %w", err)
		case err != nil: // no descriptors are left, or the like: others must end first
			s.metrics.unaccepted.Inc()
			s.warn("accept", "cannot accept connections for now", "error", err)
			wait(ctx, pause)
			pause = min(2*pause, longest)
			continue
		}
		pause = shortest
		select {
		case slots <- struct{}{}:
		default:
			s.metrics.closed.WithLabelValues(causeLimit).Inc()
			s.warn(causeLimit, "too many connections", "limit", s.limits.Connections, "remote", conn.RemoteAddr())
			_ = conn.Close()
			continue
		}
		ses := newSession(s, serving, conns, conn)
		s.add(ses)
		open.Go(func() {
			ses.run()
			s.remove(ses)
			<-slots
		})
	}
}

func (s *Server) add(ses *session) {
	s.metrics.connections.Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[ses] = struct{}{}
}

func (s *Server) remove(ses *session) {
	s.metrics.connections.Dec()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ses)
	close(ses.gone)
}

// Drain empties the server, which goes on accepting connections but refuses to
// begin anything with them. Clients that can are asked to connect elsewhere; what
// does nothing is closed. Drain returns when all have left or ctx ends, with the number of
// those who have not. It may be called again, to go on waiting.
func (s *Server) Drain(ctx context.Context) (left int) {
	s.beginning()
	s.mu.Lock()
	sessions := slices.Collect(maps.Keys(s.sessions))
	s.mu.Unlock()
	var asking sync.WaitGroup // a client that does not read may take until its write deadline
	defer asking.Wait()
	for _, ses := range sessions {
		asking.Go(func() { ses.sendAway(s.elsewhere()) })
	}
	for _, ses := range sessions {
		select {
		case <-ses.gone:
			continue
		default:
		}
		select {
		case <-ses.gone:
		case <-ctx.Done():
			left++
		}
	}
	return left
}

// Connected is how many connections are open.
func (s *Server) Connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// ended counts and logs the end of a session.
func (s *Server) ended(ses *session, why *ending) {
	s.metrics.closed.WithLabelValues(why.cause).Inc()
	switch why.cause {
	case causeClient, causeShutdown, causeIdle, causeNetwork:
		ses.log.Debug("the connection has ended", "cause", why.cause, "reason", why)
	case causeKicked:
		ses.log.Info("the connection has ended", "cause", why.cause, "reason", why)
	default:
		s.warn(why.cause, "connection closed", "cause", why.cause, "reason", why,
			"app", ses.address.app, "remote", ses.conn.RemoteAddr())
	}
}

// warn notes a warning.
func (s *Server) warn(cause, msg string, args ...any) { s.note(hclog.Warn, cause, msg, args...) }

// note logs a line, unless one of the same cause was logged in the last second. What
// was left out is counted in the next.
func (s *Server) note(level hclog.Level, cause, msg string, args ...any) {
	if ok, omitted := s.logged.allow(cause, time.Now()); ok {
		if omitted > 0 {
			args = append(args, "omitted", omitted)
		}
		s.log.Log(level, msg, args...)
	}
}

// A throttle lets one line of each cause through per second.
type throttle struct {
	mu     sync.Mutex
	causes map[string]lines
}

type lines struct {
	last    time.Time
	omitted int
}

// allow reports whether a line may be logged, and how many were not since the last.
func (t *throttle) allow(cause string, now time.Time) (ok bool, omitted int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.causes[cause]
	if now.Sub(c.last) < time.Second {
		c.omitted++
		t.causes[cause] = c
		return false, 0
	}
	t.causes[cause] = lines{last: now}
	return true, c.omitted
}
