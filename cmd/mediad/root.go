// The command line: what is common to the commands.

package main

import (
	"fmt"
	"os"

	"github.com/mediad/mediad/pipeline"
	"github.com/spf13/cobra"
)

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "mediad",
		Short:         "A media streaming daemon assembled from stages",
		SilenceUsage:  true,
		SilenceErrors: true,
		// There is nothing to run without a command, but usage to be shown.
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Usage()
			return fmt.Errorf("mediad: a command is wanted, such as mediad run")
		},
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(runCommand(), checkCommand(), graphCommand(), explainCommand(), nodesCommand(), channelsCommand(), clientsCommand(), kickCommand(),
		reloadCommand(), drainCommand(), tapCommand(), topCommand(), stageCommand(), pluginCommand(), versionCommand(), manCommand(), completionCommand())
	return cmd
}

// fileFlag adds the flag for the file that a command reads.
func fileFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("config", "c", "pipelines.yaml", "the file with the pipelines")
}

// load reads and checks the file. To be checked a kind needs no server.
func load(path string) (*pipeline.Graph, error) {
	return pipeline.Load(path, newCatalog(quiet()), os.LookupEnv)
}
