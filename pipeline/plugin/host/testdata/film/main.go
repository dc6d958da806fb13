// A plugin for the tests. Its first argument is how it misbehaves at its start.
package main

import (
	"fmt"
	"os"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"github.com/mediad/mediad/pipeline/plugin"
	"github.com/mediad/mediad/pipeline/plugin/internal/film"
	"github.com/mediad/mediad/pipeline/plugin/internal/pass"
	"github.com/mediad/mediad/pipeline/plugin/internal/relay"
	"github.com/mediad/mediad/pipeline/plugin/wire"
)

func main() {
	kind := film.Kind()
	mode := ""
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "pass":
		kind = pass.Kind()
	case "relay":
		kind = relay.Kind()
	case "crash":
		panic("boom in main")
	case "exit":
		fmt.Fprintln(os.Stderr, "nothing to do here")
		os.Exit(3)
	case "garbage":
		for range 1000 {
			fmt.Println("Hello, I am no plugin at all.")
		}
		time.Sleep(time.Hour)
	case "silent":
		time.Sleep(time.Hour)
	case "version":
		wire.Handshake.ProtocolVersion = 2
		goplugin.Serve(&goplugin.ServeConfig{
			HandshakeConfig:  wire.Handshake,
			VersionedPlugins: map[int]goplugin.PluginSet{2: {}},
			GRPCServer:       goplugin.DefaultGRPCServer,
		})
		return
	}
	plugin.Serve(kind)
}
