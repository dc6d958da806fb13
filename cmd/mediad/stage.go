// mediad stage: what kinds of stages there are, and one stage alone.

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin/host"
	"github.com/spf13/cobra"
)

func stageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stage",
		Short: "Show, run and test single stages, and begin new ones",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Usage()
			return fmt.Errorf("mediad stage: a command is wanted, such as mediad stage list")
		},
	}
	dir := pluginsFlag(cmd)
	cmd.AddCommand(stageListCommand(dir), stageDescribeCommand(dir), stageRunCommand(dir), stageConformCommand(dir), stageNewCommand())
	return cmd
}

// quiet is the log of commands: what goes wrong is their error.
func quiet() hclog.Logger { return hclog.NewNullLogger() }

func stageListCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the kinds of stages: built in and found, where each runs, its version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := newCatalog(quiet())
			found, err := c.plugins(*dir)
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "KIND\tRUNS IN\tVERSION\tSUMMARY")
			for _, k := range c.builtin {
				fmt.Fprintf(t, "%s\tthe daemon\t%s\t%s\n", k.Name, version(), k.Summary)
			}
			for _, b := range found {
				k, err := host.Kind(cmd.Context(), b, c.log)
				if err != nil { // one broken plugin hides no other
					fmt.Fprintf(t, "%s\t%s\t-\t%s\n", b.Name, b.Path, firstLine(err))
					continue
				}
				v, _ := host.Version(cmd.Context(), b, c.log)
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", k.Name, b.Path, v, k.Summary)
			}
			return t.Flush()
		},
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func stageDescribeCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "describe KIND",
		Short:   "Describe a kind: its settings, what it provides and needs",
		Example: "  mediad stage describe reader-http\n  mediad stage describe ./plugins.d/reader-mine",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := newCatalog(quiet()).find(cmd.Context(), *dir, args[0])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s: %s\n%s\n", k.Name, k.Summary, ports(k.Ports))
			t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			for i, s := range k.Describe() {
				if i == 0 {
					fmt.Fprintln(t, "\nSETTING\tTYPE\tDEFAULT\tMEANING")
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Name, s.Type, defaultOf(s), s.Doc)
			}
			return t.Flush()
		},
	}
}

func defaultOf(s stage.Setting) string {
	if s.Required {
		return "(required)"
	}
	return s.Default
}

// ports says what a kind provides and needs.
func ports(p stage.Ports) string {
	var gives, takes, parts []string
	if p.ProvidesReader {
		gives = append(gives, "a reader")
	}
	if p.ProvidesWriter {
		gives = append(gives, "a writer")
	}
	switch p.NeedsReader {
	case stage.None:
	case stage.One:
		takes = append(takes, "one reader")
	case stage.Some:
		takes = append(takes, "one or more readers")
	case stage.Any:
		takes = append(takes, "any number of readers")
	}
	if p.NeedsWriter {
		takes = append(takes, "a writer")
	}
	if len(gives) > 0 {
		parts = append(parts, "provides "+strings.Join(gives, " and "))
	}
	if len(takes) > 0 {
		parts = append(parts, "needs "+strings.Join(takes, " and "))
	}
	if p.Apart {
		parts = append(parts, "and feeds those that feed it too")
	}
	return "It " + strings.Join(parts, ", ") + "."
}
