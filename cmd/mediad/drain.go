// mediad drain: the running daemon empties itself, and stops.

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/api"
	"github.com/spf13/cobra"
)

func drainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Make the running daemon send its clients elsewhere, and stop",
		Long: "Make the running daemon send its clients elsewhere, and stop: it takes no new viewers and publishers, asks those\n" +
			"who publish to connect to another node, and stops when all have gone or the time is over.",
		Args: cobra.NoArgs,
	}
	daemon := clientFlags(cmd)
	within := cmd.Flags().String("for", "", "how long clients may stay, such as 5m (default: drain of the daemon's file)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path := "/api/drain"
		if *within != "" {
			if _, err := stage.ParseDuration(*within); err != nil {
				return fmt.Errorf("--for: %w", err)
			}
			path += "?for=" + url.QueryEscape(*within)
		}
		var d api.Drained
		if err := daemon.get(cmd, http.MethodPost, path, &d); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "drained in %.1fs, %d clients were left; mediad stops\n", d.Took, d.Left)
		return nil
	}
	return cmd
}

// drain empties the daemon, until ctx ends or for as long as it may take.
func (d *daemon) drain(ctx context.Context, within time.Duration) (left int, err error) {
	if d.draining.Swap(true) {
		return 0, api.ErrDraining
	}
	if within == 0 {
		within = d.graph.Drain
	}
	d.log.Info("draining", "for", within)
	if d.cluster != nil {
		d.cluster.Drain()
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	left = d.rtmp.Drain(ctx)
	d.log.Info("drained", "clients left", left)
	return left, nil
}
