// mediad check: every mistake of the file at once.

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the file and print every mistake in it",
		Args:  cobra.NoArgs,
	}
	file := fileFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		g, err := load(*file)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is right: %d stages\n", *file, len(g.Stages))
		return nil
	}
	return cmd
}
