// Which kinds there are, and where their stages run.

package pipeline

import (
	"errors"

	"github.com/mediad/mediad/core/stage"
)

// A Catalog is the kinds of stages that a file may use.
type Catalog interface {
	// BuiltIn are the kinds whose stages run in the daemon.
	BuiltIn() []stage.Kind
	// Plugins are the names of the kinds in a folder. It starts nothing.
	Plugins(dir string) ([]string, error)
	// Process returns a kind whose stages each run in a process of their own: the
	// plugin of that name in the folder dir, or else the built-in kind. dir is ""
	// when the file names no folder.
	Process(dir, kind string, how Process) (stage.Kind, error)
}

// Process is how a stage runs out of the daemon.
type Process struct {
	// SHA256 is what the plugin's file must have, in hex; "": anything.
	SHA256 string
	// Memory is how large the process may grow; 0: as large as it likes.
	Memory stage.Size
}

// Kinds is a Catalog of built-in kinds alone.
type Kinds []stage.Kind

// BuiltIn implements Catalog.
func (k Kinds) BuiltIn() []stage.Kind { return k }

// Plugins implements Catalog.
func (k Kinds) Plugins(string) ([]string, error) { return nil, nil }

// Process implements Catalog.
func (k Kinds) Process(string, string, Process) (stage.Kind, error) {
	return stage.Kind{}, errors.New("stages cannot run in processes of their own here")
}
