// Sending clients to another node, with 302.

package web

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/mediad/mediad/core/media"
)

// followers are what stands in the User-Agent of players that follow a redirect to another host.
var followers = []string{
	"Lavf/", "libmpv", "VLC/", "GStreamer", "AppleCoreMedia/", "ExoPlayerLib/", "AndroidXMedia3/",
}

// follows reports whether the client that sent r is known to follow. Browsers do unless one origin alone
// is allowed: behind a redirect they don't tell theirs.
func (s *Server) follows(r *http.Request) bool {
	agent := r.UserAgent()
	if strings.HasPrefix(agent, "Mozilla/") && s.origin == "*" && !isWebSocket(r) {
		return true
	}
	return slices.ContainsFunc(followers, func(name string) bool { return strings.Contains(agent, name) })
}

// location is where r is sent by a redirect: its own URL at another host when the redirect names
// no protocol. It is "" for what a client should not be sent to.
func location(to string, r *http.Request) string {
	u, err := url.Parse(to)
	switch {
	case err != nil || u.Host == "":
		return ""
	case u.Scheme == "http", u.Scheme == "https":
		return to
	case u.Scheme != "":
		return ""
	}
	there := *r.URL
	there.Scheme, there.Host = "http", u.Host
	if r.TLS != nil {
		there.Scheme = "https"
	}
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		there.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return there.String()
}

// Redirect implements stream.Redirector.
func (v *viewer) Redirect(to string) error {
	if v.wire == nil && v.err == nil {
		v.fail(&media.RedirectError{URL: to})
	}
	return v.err
}
