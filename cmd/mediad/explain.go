// mediad explain: how the running daemon would choose where to open a name from.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
	file := fileFlag(cmd)
	base := cmd.Flags().String("api", "", "URL of the daemon's HTTP listener (default: listen.http of the file)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *base == "" {
			*base = apiURL(*file)
		}
		return explain(cmd, *base, args[0])
	}
	return cmd
}

// apiURL is where the daemon that runs the file serves HTTP.
func apiURL(file string) string {
	host, port := "127.0.0.1", "8080"
	if g, err := load(file); err == nil && g.Listen.HTTP != "" {
		host, port, _ = net.SplitHostPort(g.Listen.HTTP)
		if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
			host = "127.0.0.1"
		}
	}
	return "http://" + net.JoinHostPort(host, port)
}

func explain(cmd *cobra.Command, base, name string) error {
	client := http.Client{Timeout: 10 * time.Second}
	request, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, base+"/api/explain?name="+url.QueryEscape(name), nil)
	if err != nil {
		return fmt.Errorf("--api: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return failure{fmt.Errorf("is mediad running, with listen.http? --api says where: %w", err)}
	}
	defer response.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return failure{err}
	}
	if response.StatusCode != http.StatusOK {
		var reply struct{ Error string }
		if json.Unmarshal(body, &reply) != nil || reply.Error == "" {
			return failure{fmt.Errorf("%s answered %s: is it mediad?", base, response.Status)}
		}
		return failure{fmt.Errorf("%s: %s", name, reply.Error)}
	}
	var e api.Explanation
	if err := json.Unmarshal(body, &e); err != nil {
		return failure{fmt.Errorf("%s answered what is no explanation: is it mediad? %w", base, err)}
	}
	return table(cmd.OutOrStdout(), e)
}

func table(w io.Writer, e api.Explanation) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s by %s\n", e.Name, e.Stage)
	fmt.Fprintln(t, "\tSOURCE\tPLACE\tBASE\tLOAD\tCOST\tNOTE")
	for _, c := range e.Candidates {
		mark := ""
		if c.Chosen {
			mark = "->"
		}
		if c.Cost.Place == "" { // it is no candidate, the note says why
			fmt.Fprintf(t, "%s\t%s\t-\t-\t-\t-\t%s\n", mark, c.Source, c.Note)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%g\t%.0f%%\t%.1f\t%s\n", mark, c.Source, c.Cost.Place, c.Cost.Base, 100*c.Cost.Load, c.Total, c.Note)
	}
	return t.Flush()
}
