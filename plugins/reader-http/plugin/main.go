// Command reader-http is the stage kind reader-http as a plugin.
package main

import (
	"github.com/mediad/mediad/pipeline/plugin"
	readerhttp "github.com/mediad/mediad/plugins/reader-http"
)

func main() { plugin.Serve(readerhttp.Kind()) }
