// mediad clients and mediad kick: who publishes and watches on the running daemon, and
// throwing them out.

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/mediad/mediad/pipeline/api"
	"github.com/spf13/cobra"
)

// clientFilter adds the flags that say which clients are meant, and returns what makes a query of them.
func clientFilter(cmd *cobra.Command) func(ids []string) string {
	name := cmd.Flags().String("name", "", "those who publish or watch this, as APP/NAME")
	action := cmd.Flags().String("action", "", "of these only those who publish, or play")
	address := cmd.Flags().String("address", "", "those from this IP address")
	return func(ids []string) string {
		q := url.Values{}
		for key, value := range map[string]string{"name": *name, "action": *action, "address": *address} {
			if value != "" {
				q.Set(key, value)
			}
		}
		q["id"] = ids
		return "?" + q.Encode()
	}
}

func clientsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clients",
		Short: "List who publishes to the running daemon, and who watches on it",
		Args:  cobra.NoArgs,
	}
	daemon, query := clientFlags(cmd), clientFilter(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var list []api.Client
		if err := daemon.get(cmd, http.MethodGet, "/api/clients"+query(nil), &list); err != nil {
			return err
		}
		return printClients(cmd.OutOrStdout(), list)
	}
	return cmd
}

func printClients(w io.Writer, list []api.Client) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "nobody is there")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tACTION\tPROTOCOL\tNAME\tADDRESS\tFOR")
	for _, c := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", c.ID, c.Action, c.Protocol, c.Name, c.Address, ago(c.Since))
	}
	return t.Flush()
}

func kickCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kick [ID...]",
		Short: "Throw clients of the running daemon out",
		Long: "Throw clients of the running daemon out: those of the IDs that `mediad clients` shows, or all that --name, --action and --address\n" +
			"are about. Nothing keeps them from coming again: for that there are `deny`, keys, tokens and the callback.",
	}
	daemon, query := clientFlags(cmd), clientFilter(cmd)
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		if len(ids) == 0 && !cmd.Flags().Changed("name") && !cmd.Flags().Changed("address") {
			return errors.New("mediad kick: whom? An ID that `mediad clients` shows, --name or --address is wanted")
		}
		var k api.Kicked
		if err := daemon.get(cmd, http.MethodPost, "/api/kick"+query(ids), &k); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "%d thrown out\n", k.Kicked)
		if k.Left > 0 {
			fmt.Fprintf(out, "%d are still waiting to be let in, and are left\n", k.Left)
		}
		return nil
	}
	return cmd
}
