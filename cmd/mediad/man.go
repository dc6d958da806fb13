// mediad man and mediad completion: what a package installs beside the binary.

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a folder",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.Root().DisableAutoGenTag = true // the same pages each time
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Title: "MEDIAD", Section: "1", Source: "mediad"}, args[0])
		},
	}
}

func completionCommand() *cobra.Command {
	shells := map[string]func(*cobra.Command) error{
		"bash": func(cmd *cobra.Command) error { return cmd.Root().GenBashCompletionV2(cmd.OutOrStdout(), true) },
		"zsh":  func(cmd *cobra.Command) error { return cmd.Root().GenZshCompletion(cmd.OutOrStdout()) },
		"fish": func(cmd *cobra.Command) error { return cmd.Root().GenFishCompletion(cmd.OutOrStdout(), true) },
	}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print the completions for a shell",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := shells[args[0]]
			if !ok {
				return fmt.Errorf("%q is not one of %s", args[0], strings.Join(cmd.ValidArgs, ", "))
			}
			return write(cmd)
		},
	}
}
