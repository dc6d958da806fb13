// The HTTP server around the API, and what it refuses before the API sees it.

package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Serve serves h on l until ctx ends, then gives what is under way a second.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log hclog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute, // a CPU profile takes 30 s
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn}),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if stop() {
		return err
	}
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// guard refuses what would change something, but for a reload that this machine
// asks for; and what a page from elsewhere makes a browser send: a foreign Origin,
// and, where only this machine is meant, a foreign Host (DNS rebinding).
func guard(next http.Handler, loopback bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		reload := r.URL.Path == reloadPath
		allow := "GET, HEAD"
		if reload {
			allow = "POST"
		}
		switch {
		case !slices.Contains(strings.Split(allow, ", "), r.Method):
			w.Header().Set("Allow", allow)
			fail(w, http.StatusMethodNotAllowed, "%s is not allowed here: there is only %s", r.Method, allow)
		case reload && !localHost(r.RemoteAddr):
			fail(w, http.StatusForbidden, "only this machine may ask for a reload, not %s", r.RemoteAddr)
		case (loopback || reload) && !localHost(r.Host):
			fail(w, http.StatusForbidden, "this is for this machine only: ask for it as 127.0.0.1 or localhost, not as %q", r.Host)
		case !sameOrigin(r):
			fail(w, http.StatusForbidden, "requests from pages of another origin (%s) are refused", r.Header.Get("Origin"))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// localHost reports whether a host, with or without port, is a loopback name or
// address.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")).IsLoopback()
}

func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Scheme == "http" && u.Host == r.Host
}
