// mediad graph: a drawing of what would run.

package main

import "github.com/spf13/cobra"

func graphCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Draw what would run",
		Long:  "Draw what would run. A thin arrow goes to a stage that reads, a thick one (=>) to a stage that is written into.",
		Args:  cobra.NoArgs,
	}
	file := fileFlag(cmd)
	format := cmd.Flags().String("format", "text", "text, dot or mermaid")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		g, err := load(*file)
		if err != nil {
			return err
		}
		return g.Draw(cmd.OutOrStdout(), *format)
	}
	return cmd
}
