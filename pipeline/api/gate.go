// Who may ask the API, and what is refused before the API sees it.

package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// cookie carries the token in a browser.
const cookie = "mediad"

// A gate lets this machine pass, and whoever has the token; nobody else, but to ask
// whether the daemon is well. It refuses what a page from elsewhere makes a browser
// send: a foreign Origin, or a foreign name for this machine (DNS rebinding).
type gate struct {
	next  http.Handler
	token string // "": there is none
	refusals
}

func (g gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	allow := "GET, HEAD"
	switch r.URL.Path {
	case reloadPath, drainPath, kickPath:
		allow = "POST"
	}
	known := g.known(r)
	switch {
	case !slices.Contains(strings.Split(allow, ", "), r.Method):
		w.Header().Set("Allow", allow)
		g.refuse(w, r, "method", http.StatusMethodNotAllowed, "%s is not allowed here: there is only %s", r.Method, allow)
	case !sameOrigin(r):
		g.refuse(w, r, "origin", http.StatusForbidden, "requests from pages of another origin (%s) are refused", r.Header.Get("Origin"))
	case known && r.URL.Query().Has("token") && allow != "POST":
		g.remember(w, r)
	case known, r.URL.Path == healthPath, thisMachine(r) && plainHost(r.Host):
		g.next.ServeHTTP(w, r)
	case thisMachine(r):
		g.refuse(w, r, "host", http.StatusForbidden, "this is for this machine, which is called 127.0.0.1 or localhost and not %q, or for who has the token (listen.token)", r.Host)
	default:
		w.Header().Set("WWW-Authenticate", `Bearer realm="mediad"`)
		g.refuse(w, r, "token", http.StatusUnauthorized, "%s must show the token (listen.token), in a browser by /?token=TOKEN", r.RemoteAddr)
	}
}

// refusals are counted by their cause, and logged, a line a second at most.
type refusals struct {
	counted *prometheus.CounterVec
	log     hclog.Logger
	logged  *atomic.Int64 // when, as Unix time in ns
}

func newRefusals(metrics prometheus.Registerer, log hclog.Logger) refusals {
	return refusals{
		counted: promauto.With(metrics).NewCounterVec(prometheus.CounterOpts{
			Name: "mediad_api_refused_total", Help: "Requests that were refused, by cause."}, []string{"cause"}),
		log:    log,
		logged: new(atomic.Int64),
	}
}

func (f refusals) refuse(w http.ResponseWriter, r *http.Request, cause string, code int, format string, args ...any) {
	f.counted.WithLabelValues(cause).Inc()
	last, now := f.logged.Load(), time.Now().UnixNano()
	if now-last >= int64(time.Second) && f.logged.CompareAndSwap(last, now) {
		f.log.Warn("request refused, no others are logged for a second", "cause", cause, "remote", r.RemoteAddr, "path", fmt.Sprintf("%.64q", r.URL.Path))
	}
	fail(w, code, format, args...)
}

// known reports whether a request has the token.
func (g gate) known(r *http.Request) bool {
	if g.token == "" {
		return false
	}
	shown := []string{r.URL.Query().Get("token")}
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		shown = append(shown, bearer)
	}
	if c, err := r.Cookie(cookie); err == nil {
		shown = append(shown, c.Value)
	}
	want := sha256.Sum256([]byte(g.token))
	for _, s := range shown {
		if got := sha256.Sum256([]byte(s)); subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			return true
		}
	}
	return false
}

// remember moves the token from the address to a cookie, so that it stays in no history.
func (g gate) remember(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{
		Name: cookie, Value: g.token, Path: "/",
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	})
	q := r.URL.Query()
	q.Del("token")
	http.Redirect(w, r, (&url.URL{Path: r.URL.Path, RawQuery: q.Encode()}).String(), http.StatusSeeOther)
}

// thisMachine reports whether a request comes from here: from a loopback address, or
// from the very address that it came to.
func thisMachine(r *http.Request) bool {
	from := hostIP(r.RemoteAddr)
	if from.IsLoopback() {
		return true
	}
	to, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && from != nil && from.Equal(hostIP(to.String()))
}

// plainHost reports whether a host is no name that could lead somewhere else.
func plainHost(host string) bool {
	return host == "localhost" || strings.HasPrefix(host, "localhost:") || hostIP(host) != nil
}

// hostIP is the address in a host with or without a port, nil when it is a name.
func hostIP(host string) net.IP {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return net.ParseIP(strings.Trim(host, "[]"))
}

func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host == r.Host
}
