// Where the daemon listens.

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"github.com/mediad/mediad/core/certs"
	"github.com/mediad/mediad/core/ingest"
)

// bind binds the listeners of the file, by their names in it; all or none.
func (d *daemon) bind(ctx context.Context) (map[string]net.Listener, error) {
	on := map[string]net.Listener{}
	if err := d.bindTo(ctx, on); err != nil {
		for _, l := range on {
			_ = l.Close()
		}
		return nil, err
	}
	return on, nil
}

func (d *daemon) bindTo(ctx context.Context, on map[string]net.Listener) error {
	to := d.graph.Listen
	var own *certs.Certs
	if to.RTMPS+to.HTTPS != "" {
		var err error
		if own, err = certs.Read(certs.Files{Cert: to.Cert, Key: to.Key}, d.log.Named("certs")); err != nil {
			return fmt.Errorf("%s: listen.cert, listen.key: %w", d.graph.File, err)
		}
	}
	for _, a := range []struct {
		name, addr string
		protocols  []string // inside TLS; nil: without
	}{
		{"rtmp", to.RTMP, nil},
		{"rtmps", to.RTMPS, []string{}},
		{"http", to.HTTP, nil},
		{"https", to.HTTPS, []string{"h2", "http/1.1"}},
	} {
		if a.addr == "" {
			continue
		}
		l, err := d.listen(ctx, a.name, a.addr)
		if err != nil {
			return err
		}
		if a.protocols != nil {
			l = tls.NewListener(l, own.Server(a.protocols...))
		}
		on[a.name] = l
	}
	return nil
}

// listen binds the address of a listener.
func (d *daemon) listen(ctx context.Context, name, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	hint := "change listen." + name + " in " + d.graph.File
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another program uses the address; stop it, or " + hint
	case errors.Is(err, fs.ErrPermission):
		hint = "a port below 1024 needs privileges; " + hint
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, hint)
	}
	return l, nil
}

// onAir logs the one line that says what can be done with the daemon now.
func (d *daemon) onAir(on map[string]net.Listener) {
	var args []any
	for _, name := range []string{"rtmp", "rtmps", "http", "https"} {
		if l := on[name]; l != nil {
			args = append(args, name, l.Addr().String())
		}
	}
	onRTMP := on["rtmp"]
	var lines, publish, play []string
	for _, s := range d.stages.Stages() {
		if len(lines) == 0 || lines[len(lines)-1] != s.Pipeline {
			lines = append(lines, s.Pipeline)
		}
		if onRTMP == nil {
			continue
		}
		switch made := s.Made.(type) {
		case *ingest.Ingest:
			publish = append(publish, playURL(onRTMP, made.App))
		case interface{ App() string }:
			play = append(play, playURL(onRTMP, made.App()))
		}
	}
	args = append(args, "pipelines", lines)
	if len(publish) > 0 {
		args = append(args, "publish", publish)
	}
	if len(play) > 0 {
		args = append(args, "play", play)
	}
	d.log.Info("on air", args...)
}

// playURL is where a client on this machine finds the media of an app.
func playURL(l net.Listener, app string) string {
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	}
	if port != "1935" {
		host = net.JoinHostPort(host, port)
	}
	return "rtmp://" + host + "/" + app + "/NAME"
}
