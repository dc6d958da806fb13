// mediad run: the daemon.

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/core/web"
	"github.com/mediad/mediad/pipeline"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spf13/cobra"
)

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Check the file and run what it says",
		Args:  cobra.NoArgs,
	}
	file := fileFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		g, err := load(*file)
		if err != nil {
			return err
		}
		return run(cmd.Context(), g, newLog(g.Log))
	}
	return cmd
}

func newLog(l pipeline.Log) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Level:      hclog.LevelFromString(l.Level),
		JSONFormat: l.Format == "json",
		Output:     os.Stderr,
	})
}

// run runs the graph until ctx ends.
func run(ctx context.Context, g *pipeline.Graph, log hclog.Logger) error {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	d := &daemon{graph: g, log: log, metrics: metrics, tickets: access.NewTickets()}
	d.refused = promauto.With(metrics).NewCounter(prometheus.CounterOpts{
		Name: "mediad_reloads_refused_total", Help: "Reloads that were refused; all went on as it was."})
	server := rtmp.New(rtmp.Options{Log: log.Named("rtmp"), Metrics: metrics, Drain: g.Drain, Elsewhere: d.elsewhere})
	d.rtmp, d.pages = server, web.New(web.Options{Log: log.Named("web"), Metrics: metrics, Tickets: d.tickets})
	d.kinds = kinds(server, d.pages)
	var nodes stage.Nodes
	var err error
	if g.Cluster != nil {
		if d.cluster, err = cluster.New(*g.Cluster, log.Named("cluster"), metrics); err != nil {
			return fmt.Errorf("%s: cluster: %w", g.File, err)
		}
		nodes = directory{d.cluster}
	}
	if d.stages, err = pipeline.Build(g, d.kinds, nodes, log, metrics); err != nil {
		return err
	}
	if err := d.run(ctx); err != nil {
		return failure{fmt.Errorf("mediad: %w", err)}
	}
	return nil
}
