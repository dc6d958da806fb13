// mediad nodes and mediad channels: what the running daemon knows of its cluster.

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mediad/mediad/pipeline/api"
	"github.com/spf13/cobra"
)

func nodesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes that the running daemon knows, and how busy they are",
		Args:  cobra.NoArgs,
	}
	daemon := clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var list []api.Node
		if err := daemon.get(cmd, http.MethodGet, "/api/nodes", &list); err != nil {
			return err
		}
		return printNodes(cmd.OutOrStdout(), list)
	}
	return cmd
}

func printNodes(w io.Writer, list []api.Node) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "this node is alone: there is no cluster: in its file")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tNODE\tSTATE\tCPU\tNET\tDISK\tOWNS\tREPEATS\tRTT\tREPEATER\tRTMP\tUP")
	for _, n := range list {
		mark, rtt := "", "-"
		if n.Self {
			mark = "*"
		}
		if n.RTT != nil {
			rtt = fmt.Sprintf("%.2fms", *n.RTT)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.0f%%\t%.0f%%\t%.0f%%\t%d\t%d\t%s\t%s\t%s\t%s\n", mark, n.Name, n.State,
			100*n.Load.CPU, 100*n.Load.Network, 100*n.Load.Disk, n.Owns, n.Repeats, rtt, orDash(n.Repeater), orDash(n.RTMP), ago(n.Since))
	}
	return t.Flush()
}

func channelsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "channels",
		Short: "List the channels on air on all nodes: who has them, who repeats them, how many watch where",
		Args:  cobra.NoArgs,
	}
	daemon := clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var all api.Channels
		if err := daemon.get(cmd, http.MethodGet, "/api/cluster/channels", &all); err != nil {
			return err
		}
		if err := printChannels(cmd.OutOrStdout(), all.Channels); err != nil {
			return err
		}
		if all.Error != "" {
			return failure{fmt.Errorf("the readers of some nodes are missing: %s", all.Error)}
		}
		return nil
	}
	return cmd
}

func printChannels(w io.Writer, list []api.Channel) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no channel is on air")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CHANNEL\tOWNER\tREPEATED BY\tREADERS\tON AIR")
	for _, c := range list {
		var repeaters, readers []string
		for _, h := range c.Holders {
			repeaters = append(repeaters, h.Node+parentOf(h.Path))
		}
		for _, node := range slices.Sorted(maps.Keys(c.Readers)) {
			readers = append(readers, fmt.Sprintf("%s %d", node, c.Readers[node]))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", c.Name, orDash(c.Owner), orDash(strings.Join(repeaters, ", ")), orDash(strings.Join(readers, ", ")), ago(c.Since))
	}
	return t.Flush()
}

// parentOf says from where the last node of a path has the channel.
func parentOf(path []string) string {
	if len(path) < 2 {
		return " (from nowhere)"
	}
	return " (from " + path[len(path)-2] + ")"
}

func orDash(s string) string { return cmp.Or(s, "-") }

// ago is how long t is past, "-" when it is not known.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return time.Since(t).Round(time.Second).String()
}
