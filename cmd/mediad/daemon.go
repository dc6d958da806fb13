// The daemon: listeners around the stages of a graph.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/ingest"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/api"
	"github.com/prometheus/client_golang/prometheus"
)

// server meets publishers and players, such as rtmp.Server. It accepts until ctx
// ends, and then returns once its clients are gone.
type server interface {
	Serve(ctx context.Context, l net.Listener) error
}

type daemon struct {
	graph   *pipeline.Graph // that it was started with
	kinds   []stage.Kind
	log     hclog.Logger
	metrics prometheus.Gatherer
	rtmp    server
	stages  *pipeline.Supervisor
}

// run binds the listeners, starts the stages, then the servers, and runs until ctx
// ends or one of them fails. The RTMP server stops accepting at once then, and is
// waited for after the stages, which end its clients in their order. HTTP is
// served to the last.
func (d *daemon) run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	showing, hide := context.WithCancel(context.WithoutCancel(ctx))
	defer hide()

	onRTMP, err := d.listen(ctx, "rtmp", d.graph.Listen.RTMP)
	if err != nil {
		return err
	}
	onHTTP, err := d.listen(ctx, "http", d.graph.Listen.HTTP)
	if err != nil {
		if onRTMP != nil {
			onRTMP.Close()
		}
		return err
	}

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	d.stages.Start()
	var clients, viewers sync.WaitGroup
	clients.Go(func() { d.reloadOn(ctx, hangups) })
	if onRTMP != nil {
		clients.Go(func() {
			if err := d.rtmp.Serve(ctx, onRTMP); err != nil {
				fail(fmt.Errorf("RTMP on %s: %w", onRTMP.Addr(), err))
			}
		})
	}
	if onHTTP != nil {
		handler := api.New(api.Options{
			Stages:   d.stages.Stages,
			Metrics:  d.metrics,
			Loopback: pipeline.Loopback(onHTTP.Addr().String()),
			Pprof:    d.graph.Pprof,
			Reload:   d.reload,
		})
		viewers.Go(func() {
			if err := api.Serve(showing, onHTTP, handler, d.log.Named("http")); err != nil {
				fail(fmt.Errorf("HTTP on %s: %w", onHTTP.Addr(), err))
			}
		})
	}
	d.onAir(onRTMP, onHTTP)

	err = d.stages.Wait(ctx)
	fail(nil) // a stage may have failed: no more clients then
	clients.Wait()
	hide()
	viewers.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	if err == nil {
		d.log.Info("stopped")
	}
	return err
}

// listen binds the address of a listener, and returns nil when there is none.
func (d *daemon) listen(ctx context.Context, name, addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
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

// reloadOn reloads at each signal until ctx ends.
func (d *daemon) reloadOn(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-signals:
			_, _ = d.reload(ctx) // which logs it
		case <-ctx.Done():
			return
		}
	}
}

// reload reads the file again and changes what has changed in it.
func (d *daemon) reload(ctx context.Context) (changes pipeline.Changes, err error) {
	g, err := load(d.graph.File)
	if err == nil {
		changes, err = d.stages.Reload(ctx, g, d.kinds)
	}
	if err != nil {
		d.log.Error("reload refused, everything goes on as it was", "error", err)
	}
	return changes, err
}

// onAir logs the one line that says what can be done with the daemon now.
func (d *daemon) onAir(onRTMP, onHTTP net.Listener) {
	var args []any
	if onRTMP != nil {
		args = append(args, "rtmp", onRTMP.Addr().String())
	}
	if onHTTP != nil {
		args = append(args, "http", onHTTP.Addr().String())
	}
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
