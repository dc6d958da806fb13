// mediad run: the daemon.

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/pipeline"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
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
	d, err := newDaemon(g, log, metrics)
	if err != nil {
		return err
	}
	d.metrics = metrics
	if err := d.run(ctx); err != nil {
		return failure{fmt.Errorf("mediad: %w", err)}
	}
	return nil
}
