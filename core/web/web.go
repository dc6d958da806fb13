// Package web is the way out to viewers over HTTP: HTTP-FLV, also over WebSocket,
// HLS with its low-latency variant, and MP4. It implements stream.Web, and knows
// nothing of where media come from.
//
//	/APP/NAME.flv         HTTP-FLV of live or recorded media; ?start=SECONDS
//	/APP/NAME.mp4         live: fragmented, without an end; recorded: a file, with ranges
//	/APP/NAME/index.m3u8  HLS; live with parts
//
// What goes to each viewer as it comes (FLV, live MP4) is written by the viewer's
// player, as over RTMP (viewer.go). Live HLS has one muxer a channel (live.go). For
// recorded HLS and MP4 the frames of a film are looked through once, and from then on it is read
// where a request begins (film.go).
package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are what a Server is made with. The zero value of each has a default.
type Options struct {
	Log     hclog.Logger          // none: nothing is logged
	Metrics prometheus.Registerer // none: the metrics are not registered
	// Origin is the origin whose pages may use the media, "*" (the default) for all.
	Origin string
	// Tickets let those in who show one, whatever the access of a stage says; nil: there are none.
	Tickets *access.Tickets
	Limits  Limits
}

// Limits bound what clients may make the server do; in brackets the defaults.
type Limits struct {
	Viewers int           // of FLV and live MP4, at a time (10000)
	Muxers  int           // channels that are watched as HLS, at a time (100)
	Memory  int           // bytes of the segments of one channel (128 MiB)
	Films   int           // bytes of what is kept of recorded films besides their frames (256 MiB)
	Rewind  time.Duration // how far one can go back in live HLS, if Memory suffices (60 s)
	Idle    time.Duration // after which what nobody asks for is dropped (30 s)
	Wait    time.Duration // for the first frames, and for the parts of HLS (30 s)
	Write   time.Duration // for a viewer to take up to 256 KiB (10 s)
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Viewers: cmp.Or(l.Viewers, 10000),
		Muxers:  cmp.Or(l.Muxers, 100),
		Memory:  cmp.Or(l.Memory, 128<<20),
		Films:   cmp.Or(l.Films, 256<<20),
		Rewind:  cmp.Or(l.Rewind, time.Minute),
		Idle:    cmp.Or(l.Idle, 30*time.Second),
		Wait:    cmp.Or(l.Wait, 30*time.Second),
		Write:   cmp.Or(l.Write, 10*time.Second),
	}
}

// What a stage lets be watched, and how.
type (
	Watch = stream.Watch
	Form  = stream.Form
)

// The forms.
const (
	FLV = stream.FLV
	HLS = stream.HLS
	MP4 = stream.MP4
)

// A Server serves viewers over HTTP. Its zero value is not ready: use New.
type Server struct {
	log     hclog.Logger
	metrics *metrics
	limits  Limits
	origin  string
	tickets *access.Tickets
	films   *films

	viewers chan struct{}   // a slot for each
	muxers  chan struct{}   // likewise
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc

	mu     sync.Mutex
	apps   map[string]*app
	closed bool
}

var _ stream.Web = (*Server)(nil)

// New returns a server. Close ends it.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	s := &Server{
		log:     o.Log,
		metrics: newMetrics(o.Metrics),
		limits:  o.Limits.withDefaults(),
		origin:  cmp.Or(o.Origin, "*"),
		tickets: o.Tickets,
		apps:    map[string]*app{},
	}
	s.viewers = make(chan struct{}, s.limits.Viewers)
	s.muxers = make(chan struct{}, s.limits.Muxers)
	s.films = newFilms(s.limits.Films, s.metrics)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// An app is what is registered under its name.
type app struct {
	Watch
	server *Server
	name   string
	ctx    context.Context // ends when the app is removed
	cancel context.CancelFunc
	work   sync.WaitGroup // requests, muxers, and films that are being read

	mu       sync.Mutex
	channels map[string]*channel // watched as HLS, by name
	visits   map[visitor]*visit
}

// HandleWatch lets w be watched under the name of an app, until remove is called,
// which may be called again. remove ends what was begun with w and waits for it; the
// players are closed before it returns. It fails when the app is there already.
func (s *Server) HandleWatch(name string, w Watch) (remove func(), err error) {
	if err := media.CheckName(name); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, fmt.Errorf("the app %q: the server is %w", name, media.ErrClosed)
	case s.apps[name] != nil:
		return nil, fmt.Errorf("the app %q is watched from already", name)
	}
	a := &app{Watch: w, server: s, name: name, channels: map[string]*channel{}, visits: map[visitor]*visit{}}
	a.ctx, a.cancel = context.WithCancel(s.ctx)
	s.apps[name] = a
	return sync.OnceFunc(func() {
		s.mu.Lock()
		if s.apps[name] == a {
			delete(s.apps, name)
		}
		s.mu.Unlock()
		a.stop()
	}), nil
}

// stop ends what was begun with a, and waits for it.
func (a *app) stop() {
	a.cancel()
	a.mu.Lock()
	channels := slices.Collect(maps.Values(a.channels))
	a.mu.Unlock()
	for _, c := range channels {
		c.drop()
	}
	a.work.Wait()
	a.endVisits()
	a.server.films.forget(func(k filmKey) bool { return k.app == a })
}

// Close ends all that is served, and returns when nothing of it is left.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	apps := s.apps
	s.apps = map[string]*app{}
	s.mu.Unlock()
	s.cancel()
	for _, a := range apps {
		a.stop()
	}
	return nil
}

// find returns the app of a path, which has the longest name, and the rest of it.
// The app is counted as in use until done is called.
func (s *Server) find(path string) (a *app, rest string, done func()) {
	path = strings.TrimPrefix(path, "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, other := range s.apps {
		after, ok := strings.CutPrefix(path, name+"/")
		if ok && (a == nil || len(name) > len(a.name)) {
			a, rest = other, after
		}
	}
	if a == nil {
		return nil, "", nil
	}
	a.work.Add(1)
	return a, rest, a.work.Done
}

// Serves reports whether the path of a URL is under one of the apps.
func (s *Server) Serves(path string) bool {
	a, _, done := s.find(path)
	if a != nil {
		done()
	}
	return a != nil
}

// Handler returns the handler of the paths of all apps. Its requests may take as long
// as a film does: writes have deadlines of their own.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", s.origin)
	if s.origin != "*" {
		h.Set("Vary", "Origin")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions: // a preflight: Range is not among the headers that need none
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Range")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		h.Set("Allow", "GET, HEAD, OPTIONS")
		s.refuse(w, r, &httpError{http.StatusMethodNotAllowed, r.Method + " is not allowed here"})
		return
	}
	h.Set("Access-Control-Expose-Headers", "Content-Length, Content-Range")
	a, rest, done := s.find(r.URL.Path)
	if a == nil {
		s.refuse(w, r, media.ErrNotFound)
		return
	}
	defer done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	// The deadline for reading the request must not end what is watched.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	err := a.serve(w, r.WithContext(ctx), rest)
	if err != nil && !errors.Is(err, errAnswered) && r.Context().Err() == nil {
		s.refuse(w, r, err)
	}
}

// serve serves what is at path under the app. An error means that nothing has been
// written yet.
func (a *app) serve(w http.ResponseWriter, r *http.Request, path string) error {
	t, err := parse(path)
	if err != nil {
		return err
	}
	if !slices.Contains(a.Forms, t.form) || t.form == HLS && a.Reader == nil {
		return fmt.Errorf("%w: the app %s is not served as %s", media.ErrNotFound, a.name, t.form)
	}
	if t.form == FLV {
		return a.serveFLV(w, r, t.name)
	}
	v, err := a.visit(r, t.form, t.name)
	if err != nil {
		return err
	}
	defer v.leave()
	files := &counted{w, v}
	switch {
	case t.form == MP4:
		return a.serveMP4(w, files, r, t.name)
	case t.file == indexFile:
		return a.serveIndex(files, r, t.name)
	case strings.HasSuffix(t.file, segmentSuffix):
		return a.serveSegment(files, r, t.name, t.file)
	}
	return a.serveLive(files, r, t.name, t.file)
}

// request is what a player is asked for on behalf of r, which is let in already if it has a ticket.
func (a *app) request(r *http.Request, name string) stream.Request {
	q := r.URL.Query()
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	req := stream.Request{
		App: a.name, Name: name, Protocol: string(FLV), Params: q, Remote: remote.Addr().Unmap(),
		Start: stream.StartAny, Length: -1, Redirects: a.server.follows(r),
	}
	req.Pass = a.server.tickets.Admit(access.Request{Action: access.Play, App: a.name, Name: name, Address: req.Remote, Params: q})
	return req
}

// query is what is put behind the URLs of a playlist, so that what lets a client
// have the playlist (a token) lets it have the rest.
func query(r *http.Request) string {
	q := r.URL.Query()
	for name := range q {
		if strings.HasPrefix(name, "_HLS_") {
			delete(q, name)
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// httpError is an error with a status of its own.
type httpError struct {
	code int
	text string
}

func (e *httpError) Error() string { return e.text }

// refuse answers with an error, of which the client is told neither paths nor addresses.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code, text := http.StatusInternalServerError, "the server could not read it"
	var redirect *media.RedirectError
	var refusal *access.Refusal
	var own *httpError
	switch {
	case errors.As(err, &own):
		code, text = own.code, own.text
	case errors.As(err, &refusal) && !errors.Is(err, media.ErrUnavailable):
		code, text = http.StatusForbidden, refusal.Error()
	case errors.As(err, &redirect):
		if there := location(redirect.URL, r); there != "" {
			w.Header().Set("Cache-Control", "no-store")
			http.Redirect(w, r, there, http.StatusFound)
			return
		}
		code, text = http.StatusServiceUnavailable, "it is at another server"
	case errors.Is(err, media.ErrNotFound):
		code, text = http.StatusNotFound, "there is no such stream"
	case errors.Is(err, media.ErrDenied):
		code, text = http.StatusForbidden, "it is not allowed"
	case errors.Is(err, media.ErrUnavailable), errors.Is(err, media.ErrClosed), errors.Is(err, media.ErrChanged),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		code, text = http.StatusServiceUnavailable, "it is not available at this time"
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	w.Header().Set("Cache-Control", "no-store")
	s.metrics.refused.WithLabelValues(fmt.Sprint(code)).Inc()
	s.log.Debug("refused", "path", r.URL.Path, "remote", r.RemoteAddr, "code", code, "error", err)
	http.Error(w, text, code)
}
