// The catalog: the kinds of stages there are, built in and as plugins.

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/plugin/host"
	"github.com/spf13/cobra"
)

// catalog is a pipeline.Catalog.
type catalog struct {
	builtin []stage.Kind
	log     hclog.Logger
}

// newCatalog returns the catalog to check a file and to describe kinds with. log
// is that of plugins that are asked what they are.
func newCatalog(log hclog.Logger) catalog {
	return catalog{builtin: kinds(nil, nil), log: log}
}

// BuiltIn implements pipeline.Catalog.
func (c catalog) BuiltIn() []stage.Kind { return c.builtin }

// Plugins implements pipeline.Catalog.
func (c catalog) Plugins(dir string) ([]string, error) {
	found, err := host.Discover(dir)
	var names []string
	for _, b := range found {
		names = append(names, b.Name)
	}
	return names, err
}

// Process implements pipeline.Catalog: a plugin if there is one of the name, else
// the built-in kind in a process that is this program again.
func (c catalog) Process(dir, kind string, how pipeline.Process) (stage.Kind, error) {
	b, err := c.binary(dir, kind)
	if err != nil {
		return stage.Kind{}, err
	}
	b.SHA256, b.Memory = how.SHA256, how.Memory
	return host.Kind(context.Background(), b, c.log) // bounded by the host's own deadlines
}

func (c catalog) binary(dir, name string) (host.Binary, error) {
	if dir != "" {
		found, err := host.Discover(dir)
		if err != nil {
			return host.Binary{}, err
		}
		if i := slices.IndexFunc(found, func(b host.Binary) bool { return b.Name == name }); i >= 0 {
			return found[i], nil
		}
	}
	if meetsClients(name) {
		return host.Binary{}, fmt.Errorf("the kind %s meets the clients of this process and cannot run in another", name)
	}
	self, err := os.Executable()
	return host.Binary{Name: name, Path: self, Args: []string{"plugin", name}}, err
}

// meetsClients reports whether stages of the kind need the daemon's listeners.
func meetsClients(name string) bool { return name == "stream" || name == "ingest" }

// find returns the kind that a command names: a path to a binary, a plugin in dir,
// or a built-in kind.
func (c catalog) find(ctx context.Context, dir, name string) (stage.Kind, error) {
	if strings.Contains(name, "/") {
		return host.Kind(ctx, host.Binary{Path: name}, c.log)
	}
	plugins, err := c.plugins(dir)
	if err != nil {
		return stage.Kind{}, err
	}
	for _, b := range plugins {
		if b.Name == name {
			return host.Kind(ctx, b, c.log)
		}
	}
	for _, k := range c.builtin {
		if k.Name == name {
			return k, nil
		}
	}
	return stage.Kind{}, fmt.Errorf("there is no kind of stage called %q: mediad stage list shows what there is", name)
}

// plugins lists those in dir; no folder has none.
func (c catalog) plugins(dir string) ([]host.Binary, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, nil
	}
	return host.Discover(dir)
}

// pluginsFlag adds the flag for the folder in which commands look for plugins.
func pluginsFlag(cmd *cobra.Command) *string {
	return cmd.PersistentFlags().String("plugins", "./plugins.d", "the folder with plugins")
}
