// Command reader-disk is the stage kind reader-disk as a plugin.
package main

import (
	"github.com/mediad/mediad/pipeline/plugin"
	readerdisk "github.com/mediad/mediad/plugins/reader-disk"
)

func main() { plugin.Serve(readerdisk.Kind()) }
