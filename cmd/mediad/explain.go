// mediad explain: how the running daemon would choose where to open a name from.

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/mediad/mediad/pipeline/api"
	"github.com/spf13/cobra"
)

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "explain APP/NAME",
		Short:   "Show where the running daemon would open a name from, and why",
		Example: "  mediad explain vod/sample\n  mediad explain live/demo",
		Args:    cobra.ExactArgs(1),
	}
	daemon := clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var e api.Explanation
		if err := daemon.get(cmd, http.MethodGet, "/api/explain?name="+url.QueryEscape(args[0]), &e); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		return table(cmd.OutOrStdout(), e)
	}
	return cmd
}

func table(w io.Writer, e api.Explanation) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s by %s\n", e.Name, e.Stage)
	fmt.Fprintln(t, "\tSOURCE\tNODE\tRTT\tDEPTH\tPLACE\tBASE\tLOAD\tCOST\tNOTE")
	for _, c := range e.Candidates {
		mark := ""
		if c.Chosen {
			mark = "->"
		}
		if c.Cost.Place == "" { // it is no candidate, the note says why
			fmt.Fprintf(t, "%s\t%s\t-\t-\t-\t-\t-\t-\t-\t%s\n", mark, c.Source, c.Note)
			continue
		}
		where := "here\t-\t-"
		if c.Cost.Node != "" {
			where = fmt.Sprintf("%s\t%s\t%d", c.Cost.Node, milliseconds(c.Cost.RTT), c.Cost.Depth)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%g\t%.0f%%\t%.1f\t%s\n", mark, c.Source, where, c.Cost.Place, c.Cost.Base, 100*c.Cost.Load, c.Total, c.Note)
	}
	return t.Flush()
}

// milliseconds writes a round trip.
func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds()*1000, 'f', 2, 64) + "ms"
}
