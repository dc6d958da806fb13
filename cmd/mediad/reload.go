// mediad reload: the running daemon reads its file again.

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/mediad/mediad/pipeline"
	"github.com/spf13/cobra"
)

func reloadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Make the running daemon read its file again",
		Long: "Make the running daemon read its file again. A wrong file is refused, and the daemon goes on as it was;\n" +
			"else only the stages whose entries have changed are replaced. SIGHUP does the same.",
		Args: cobra.NoArgs,
	}
	daemon := clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		// It takes as long as the stages that are replaced take to finish.
		var c pipeline.Changes
		err := daemon.get(cmd, http.MethodPost, "/api/reload", &c)
		var refused refusal
		if errors.As(err, &refused) && refused.code == http.StatusUnprocessableEntity {
			return refused // the file is wrong
		}
		if err != nil {
			return err
		}
		printChanges(cmd.OutOrStdout(), c)
		return nil
	}
	return cmd
}

func printChanges(w io.Writer, c pipeline.Changes) {
	fmt.Fprintf(w, "reloaded %s: %d stages kept\n", c.File, len(c.Kept))
	for _, line := range []struct {
		what string
		list []string
	}{
		{"replaced", c.Replaced},
		{"added", c.Added},
		{"removed", c.Removed},
		{"changed, which takes a restart", c.Restart},
	} {
		if len(line.list) > 0 {
			fmt.Fprintf(w, "%s: %s\n", line.what, strings.Join(line.list, ", "))
		}
	}
}
