// mediad tap: the batches at one stage of the running daemon.

package main

import (
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func tapCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tap PIPELINE/STAGE --name NAME",
		Short:   "Show the running daemon's batches at one stage, without disturbing it",
		Example: "  mediad tap live/broadcast --name demo\n  mediad tap live/broadcast --name demo --format flv | ffplay -",
		Args:    cobra.ExactArgs(1),
	}
	daemon := clientFlags(cmd)
	name := cmd.Flags().String("name", "", "the channel or file to open at the stage")
	format := cmd.Flags().String("format", "lines", "what is printed: lines, flv or json")
	_ = cmd.MarkFlagRequired("name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query := url.Values{"stage": {args[0]}, "name": {*name}, "format": {*format}}
		body, err := daemon.ask(cmd, http.MethodGet, "/api/tap?"+query.Encode())
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(cmd.OutOrStdout(), body)
		if err != nil && cmd.Context().Err() == nil {
			return failure{errors.New("the daemon broke off: the stage has failed, or this is too slow")}
		}
		return nil
	}
	return cmd
}
