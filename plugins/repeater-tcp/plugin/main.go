// Command repeater-tcp is the stage kind repeater-tcp as a plugin.
package main

import (
	"github.com/mediad/mediad/pipeline/plugin"
	repeatertcp "github.com/mediad/mediad/plugins/repeater-tcp"
)

func main() { plugin.Serve(repeatertcp.Kind()) }
