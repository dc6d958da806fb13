// The daemon: listeners around the stages of a graph.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/core/web"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/api"
	"github.com/mediad/mediad/pipeline/console"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// server meets publishers and players, such as rtmp.Server.
type server interface {
	// Serve accepts clients until ctx ends, and then returns once they are gone.
	Serve(ctx context.Context, l net.Listener) error
	// Drain lets clients begin nothing new and asks them to connect elsewhere. It returns
	// when all have gone or ctx has ended, with the number of those that are left.
	Drain(ctx context.Context) (left int)
}

type daemon struct {
	graph   *pipeline.Graph // that it was started with
	kinds   []stage.Kind
	log     hclog.Logger
	metrics *prometheus.Registry
	refused prometheus.Counter // reloads
	rtmp    server
	pages   *web.Server
	tickets *access.Tickets
	cluster *cluster.Cluster // nil when the daemon is alone
	stages  *pipeline.Supervisor

	draining atomic.Bool
}

// newDaemon makes the stages of a graph, and what serves their clients. Nothing runs yet.
func newDaemon(g *pipeline.Graph, log hclog.Logger, metrics prometheus.Registerer) (*daemon, error) {
	d := &daemon{graph: g, log: log, tickets: access.NewTickets()}
	d.refused = promauto.With(metrics).NewCounter(prometheus.CounterOpts{
		Name: "mediad_reloads_refused_total", Help: "Reloads that were refused; all went on as it was."})
	server := rtmp.New(rtmp.Options{
		Log: log.Named("rtmp"), Metrics: metrics, Drain: g.Drain, Elsewhere: d.elsewhere,
		Limits: rtmp.Limits{Connections: g.Listen.Connections},
	})
	d.rtmp, d.pages = server, web.New(web.Options{
		Log: log.Named("web"), Metrics: metrics, Tickets: d.tickets,
		Limits: web.Limits{Viewers: g.Listen.Connections},
	})
	d.kinds = kinds(server, d.pages)
	var nodes stage.Nodes
	var err error
	if g.Cluster != nil {
		if d.cluster, err = cluster.New(*g.Cluster, log.Named("cluster"), metrics); err != nil {
			return nil, fmt.Errorf("%s: cluster: %w", g.File, err)
		}
		nodes = directory{d.cluster}
	}
	d.stages, err = pipeline.Build(g, d.kinds, nodes, log, metrics)
	return d, err
}

// run binds the listeners, starts the stages, then the servers, and runs until ctx
// ends or one of them fails. The RTMP server stops accepting at once then, and is
// waited for after the stages, which end its clients in their order. Then the node
// leaves its cluster. HTTP is served to the last.
func (d *daemon) run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	showing, hide := context.WithCancel(context.WithoutCancel(ctx))
	defer hide()

	on, err := d.bind(ctx)
	if err != nil {
		return err
	}

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	var nodes, clients, viewers sync.WaitGroup
	joined, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	if d.cluster != nil {
		d.cluster.SetAddresses(address(on["rtmp"]), address(on["http"]))
		d.cluster.Answer(api.ReadersTopic, func() ([]byte, error) { return api.Readers(d.stages.Stages()) })
		nodes.Go(func() { d.join(joined) })
		defer context.AfterFunc(ctx, d.cluster.Drain)()
	}
	d.stages.Start()
	clients.Go(func() { d.reloadOn(ctx, hangups) })
	page := d.console()
	viewers.Go(func() { page.Serve(showing) })
	handler := d.api(on["http"], page.Handler(), func(within time.Duration) (int, error) {
		left, err := d.drain(ctx, within)
		if err == nil {
			fail(nil)
		}
		return left, err
	})
	for name, l := range on {
		switch name {
		case "rtmp", "rtmps":
			clients.Go(func() {
				if err := d.rtmp.Serve(ctx, l); err != nil {
					fail(fmt.Errorf("%s on %s: %w", name, l.Addr(), err))
				}
			})
		case "http", "https":
			viewers.Go(func() {
				if err := api.Serve(showing, l, handler, d.log.Named("http")); err != nil {
					fail(fmt.Errorf("%s on %s: %w", name, l.Addr(), err))
				}
			})
		}
	}
	d.onAir(on)
	if err := notify("READY=1"); err != nil {
		d.log.Warn("systemd cannot be told that the daemon is ready", "error", err)
	}
	viewers.Go(func() { boundGarbage(showing, time.Second) })
	viewers.Go(func() { watchdog(showing, func() { d.stages.Stages() }) })

	err = d.stages.Wait(ctx)
	fail(nil)                // a stage may have failed: no more clients then
	_ = notify("STOPPING=1") // systemd notices it by itself, too
	clients.Wait()
	leave()
	nodes.Wait()
	if err := d.pages.Close(); err != nil {
		d.log.Error("watching over HTTP did not end in order", "error", err)
	}
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

// host is what the daemon is called.
func (d *daemon) host() string {
	if host, err := os.Hostname(); err == nil {
		return host
	}
	return "localhost"
}

// console is the page for people.
func (d *daemon) console() *console.Console {
	options := console.Options{Stages: d.stages.Stages, Metrics: d.metrics, Host: d.host()}
	if d.cluster != nil {
		options.Nodes = func() ([]api.Node, error) { return api.ListNodes(d.cluster, d.metrics) }
		options.Channels = d.cluster.Channels
	}
	return console.New(options)
}

// api is what HTTP serves.
func (d *daemon) api(l net.Listener, page http.Handler, drain func(within time.Duration) (left int, err error)) http.Handler {
	options := api.Options{
		Stages:   d.stages.Stages,
		Metrics:  d.metrics,
		Log:      d.log.Named("http"),
		Token:    d.graph.Listen.Token,
		Loopback: l != nil && pipeline.Loopback(l.Addr().String()),
		Pprof:    d.graph.Pprof,
		Host:     d.host(),
		Reload:   d.reload,
		Drain:    drain,
		Console:  page,
		Media:    d.pages.Handler(),
		Ticket:   d.tickets.Issue,
	}
	if d.cluster != nil {
		options.Cluster = d.cluster
	}
	return api.New(options)
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
		d.refused.Inc()
		d.log.Error("reload refused, everything goes on as it was", "error", err)
	}
	return changes, err
}
