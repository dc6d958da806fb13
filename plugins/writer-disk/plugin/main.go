// Command writer-disk is the stage kind writer-disk as a plugin.
package main

import (
	"github.com/mediad/mediad/pipeline/plugin"
	writerdisk "github.com/mediad/mediad/plugins/writer-disk"
)

func main() { plugin.Serve(writerdisk.Kind()) }
