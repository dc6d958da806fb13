// mediad plugin: a built-in kind as a process of its own, started by the daemon.

package main

import (
	"fmt"

	"github.com/mediad/mediad/pipeline/plugin"
	"github.com/spf13/cobra"
)

func pluginCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "plugin KIND",
		Short:  "Serve a built-in kind as a plugin; the daemon starts this for `run: process`",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, k := range kinds(nil, nil) {
				if k.Name == args[0] && !meetsClients(k.Name) {
					plugin.Serve(k)
					return nil
				}
			}
			return fmt.Errorf("%s is no kind that can run in a process of its own", args[0])
		},
	}
}
