// The HTTP server around the API.

package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Serve serves h on l until ctx ends, then gives what is under way a second.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log hclog.Logger) error {
	server := &http.Server{
		Handler:           lastWithBody(h),
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

// lastWithBody makes a request with a body the last on its connection. Nothing here takes one, and
// where it ends a proxy may have seen otherwise: what follows would be another's request (RFC 9112, 11.2).
func lastWithBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// lift takes the deadlines from a request that may take long.
func lift(w http.ResponseWriter) {
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // a recorder in a test has none
	_ = out.SetWriteDeadline(time.Time{})
}
