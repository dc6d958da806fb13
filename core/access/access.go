// Package access decides who may publish and who may watch: by network, by signed
// token, by asking an HTTP service, and by how many watch already.
package access

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// Settings are the group `access` of a stage's settings. All of them are checked,
// and those that are empty let everybody pass.
type Settings struct {
	Allow      []netip.Prefix `set:"allow" doc:"networks that may; without it all may that deny does not name"`
	Deny       []netip.Prefix `set:"deny" doc:"networks that may not"`
	Secret     string         `set:"secret" doc:"secret of the signed tokens (JWT, HS256) that clients must send as NAME?token=..."`
	PublicKey  string         `set:"public-key" doc:"file with the public key (PEM) of the tokens, instead of a secret: RS256, ES256 or EdDSA"`
	Callback   string         `set:"callback" doc:"URL that is asked by POST for each publisher and viewer, and told of their end"`
	Grace      time.Duration  `set:"grace" doc:"how long an answer of the callback is honoured beyond its time while the callback fails"`
	PerName    int            `set:"per-name" doc:"how many may watch one name at a time; 0: any number"`
	PerAddress int            `set:"per-address" doc:"how many may watch from one address at a time; 0: any number"`
}

// Defaults are the settings of a stage that has none.
func Defaults() Settings { return Settings{Grace: 5 * time.Minute} }

// Check says what cannot be. The settings are named as in the group `access`.
func (s *Settings) Check() error {
	switch {
	case s.Secret != "" && s.PublicKey != "":
		return stage.Wrong("access.public-key", "tokens have a secret or a public key, not both")
	case s.Secret != "" && len(s.Secret) < minSecret:
		return stage.Wrong("access.secret", "is %d bytes long, which can be guessed: use at least %d (openssl rand -hex 32)", len(s.Secret), minSecret)
	case s.PerName < 0:
		return stage.Wrong("access.per-name", "is negative")
	case s.PerAddress < 0:
		return stage.Wrong("access.per-address", "is negative")
	}
	if s.Callback == "" {
		return nil
	}
	u, err := url.Parse(s.Callback)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return stage.Wrong("access.callback", "%q is no URL such as http://127.0.0.1:9000/mediad", s.Callback)
	}
	return nil
}

// Vouches reports whether a stranger must show something that only a friend has, so that
// a stage which is otherwise for this machine only can be opened to others.
func (s *Settings) Vouches() bool {
	return len(s.Allow) > 0 || s.Secret != "" || s.PublicKey != "" || s.Callback != ""
}

// An Action is what a client wants to do.
type Action string

// The actions.
const (
	Publish Action = "publish"
	Play    Action = "play"
)

// Request is what a client asks for.
type Request struct {
	Action    Action
	Protocol  string // rtmp, flv, hls, mp4
	App, Name string
	Address   netip.Addr
	Params    url.Values
}

// A Guard admits the clients of a stage.
type Guard struct {
	settings Settings
	log      hclog.Logger
	token    *verifier
	callback *callback
	refused  *prometheus.CounterVec

	mu     sync.Mutex
	passes map[*Pass]struct{} // of who is there
	last   int64              // id of a pass
	names  map[string]int
	addrs  map[netip.Addr]int
	users  map[string]int // of tokens
}

// New returns a guard by settings that Check finds right. It fails when the public
// key cannot be read.
func New(s Settings, log hclog.Logger, metrics prometheus.Registerer) (*Guard, error) {
	g := &Guard{
		settings: s,
		log:      log,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mediad_access_refused_total", Help: "Clients that were refused, by reason."}, []string{"reason"}),
		passes: map[*Pass]struct{}{},
		names:  map[string]int{},
		addrs:  map[netip.Addr]int{},
		users:  map[string]int{},
	}
	var err error
	if g.token, err = newVerifier(s); err != nil {
		return nil, err
	}
	if s.Callback != "" {
		g.callback = newCallback(s.Callback, s.Grace, log)
		if err := g.callback.register(metrics); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	if err := metrics.Register(g.refused); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return g, nil
}

// Start begins to Serve. stop is called once all clients have left, and returns when
// nothing is left to tell, or cannot be told.
func (g *Guard) Start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Serve(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// Serve tells the callback of those who have left, until ctx ends; then of those that
// are left to tell, for some seconds.
func (g *Guard) Serve(ctx context.Context) {
	if g.callback != nil {
		g.callback.serve(ctx)
	}
}

// A Refusal is why a client may not. Its text is fit to be shown to it.
type Refusal struct{ Err error }

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// Admit lets a client pass, or says why not with a *Refusal that wraps
// media.ErrDenied, or media.ErrUnavailable when that cannot be found out now. The
// Pass must be given back.
func (g *Guard) Admit(ctx context.Context, r Request) (*Pass, error) {
	r.Address = r.Address.Unmap()
	pass, reason, err := g.admit(ctx, r)
	if err != nil {
		g.refused.WithLabelValues(reason).Inc()
		return nil, &Refusal{err}
	}
	return pass, nil
}

func (g *Guard) admit(ctx context.Context, r Request) (pass *Pass, reason string, err error) {
	if err := g.network(r.Address); err != nil {
		return nil, "network", err
	}
	claims, err := g.token.verify(r)
	if err != nil {
		return nil, "token", fmt.Errorf("%w: %w", media.ErrDenied, err)
	}
	// A place is taken before the callback is asked, so that those who wait
	// for its answer are counted.
	pass, err = g.take(r, claims)
	if err != nil {
		return nil, "limit", err
	}
	if g.callback == nil {
		return pass, "", nil
	}
	if err := g.callback.ask(ctx, r); err != nil {
		pass.leave()
		return nil, "callback", err
	}
	return pass, "", nil
}

func (g *Guard) network(a netip.Addr) error {
	in := func(list []netip.Prefix) bool {
		for _, p := range list {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	if in(g.settings.Deny) || len(g.settings.Allow) > 0 && !in(g.settings.Allow) {
		return fmt.Errorf("%w: not from %s", media.ErrDenied, a)
	}
	return nil
}

// take takes a place for a client. Publishers are in no limit: a name has one.
func (g *Guard) take(r Request, c claims) (*Pass, error) {
	p := &Pass{guard: g, request: r, user: c.user(), since: time.Now()}
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Action == Play {
		if err := g.count(p, c); err != nil {
			return nil, err
		}
	}
	g.last++
	p.id = g.last
	g.passes[p] = struct{}{}
	return p, nil
}

// count counts a viewer in the limits, if it is within them. It is called with g locked.
func (g *Guard) count(p *Pass, c claims) error {
	r := p.request
	name := r.App + "/" + r.Name
	for _, l := range []struct {
		have, most int
		of         string
	}{
		{g.names[name], g.settings.PerName, "this name"},
		{g.addrs[r.Address], g.settings.PerAddress, "your address"},
		{g.users[p.user], c.Viewers, "this token"},
	} {
		if l.most > 0 && l.have >= l.most {
			return fmt.Errorf("%w: %d watch with %s already, which is all that may", media.ErrDenied, l.have, l.of)
		}
	}
	g.names[name]++
	g.addrs[r.Address]++
	if p.user != "" {
		g.users[p.user]++
	}
	return nil
}

// A Pass is a client that was let in.
type Pass struct {
	guard   *Guard // nil for who is there by a ticket, and is not counted
	request Request
	user    string
	since   time.Time
	once    sync.Once

	// Guarded by guard.mu.
	id   int64
	kick func() // nil: not Kickable
}

// Done gives the pass back: the client has left, having been sent, or having sent, so
// many bytes. Only the first call does anything; on a nil Pass none does.
func (p *Pass) Done(bytes int64) {
	if p == nil {
		return
	}
	p.once.Do(func() {
		p.free()
		if p.guard == nil {
			return
		}
		if c := p.guard.callback; c != nil {
			c.tell(p.request, bytes, time.Since(p.since))
		}
	})
}

// leave gives back the place of a client that was not let in after all.
func (p *Pass) leave() { p.once.Do(p.free) }

func (p *Pass) free() {
	g := p.guard
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.passes, p)
	if p.request.Action != Play {
		return
	}
	release(g.names, p.request.App+"/"+p.request.Name)
	release(g.addrs, p.request.Address)
	if p.user != "" {
		release(g.users, p.user)
	}
}

// release counts one less, and forgets who has none left.
func release[K comparable](counts map[K]int, of K) {
	if counts[of]--; counts[of] <= 0 {
		delete(counts, of)
	}
}

// target is the name as tokens have it.
func (r Request) target() string { return strings.Trim(r.App+"/"+r.Name, "/") }
