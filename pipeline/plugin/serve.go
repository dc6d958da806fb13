// Package plugin is what a plugin's main imports:
//
//	func main() { plugin.Serve(readermine.Kind()) }
//
// The kind is the same as one that is built into the daemon. See docs/plugins.md
// for a walk through, proto/stage.proto for other languages, and host for the daemon's side.
package plugin

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"github.com/mediad/mediad/pipeline/plugin/wire"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
)

// orphanDrain is how long a stage may take to finish when its daemon has died.
const orphanDrain = time.Second

// Serve serves stages of the kind to the daemon that has started this process,
// and returns when the daemon is done with it. What the process prints goes to the
// daemon's log.
func Serve(kind stage.Kind) {
	if os.Getenv(wire.Handshake.MagicCookieKey) != wire.Handshake.MagicCookieValue {
		fmt.Fprintf(os.Stderr, "This is a plugin for mediad, the stage kind %s: %s\nThe daemon starts it: put it into the folder of plugins that pipelines.yaml names.\n",
			kind.Name, kind.Summary)
		os.Exit(2)
	}
	// When the daemon dies, what is said to it must not end us before we have
	// tidied up: writing to a closed standard output raises SIGPIPE.
	signal.Ignore(syscall.SIGPIPE)
	// go-plugin puts pipes in the place of os.Stdout and os.Stderr, so the logger,
	// which writes to the daemon itself, comes first.
	log := hclog.New(&hclog.LoggerOptions{
		Level:      hclog.LevelFromString(os.Getenv(wire.LogLevel)),
		Output:     os.Stderr,
		JSONFormat: true,
	})
	s := &served{kind: kind, log: log, ended: make(chan struct{}), metrics: prometheus.NewRegistry()}
	s.ctx, s.stop = context.WithCancel(context.Background())
	go s.untilAlone()
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  wire.Handshake,
		VersionedPlugins: map[int]goplugin.PluginSet{wire.Version: {"stage": grpcPlugin{served: s}}},
		Logger:           log,
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, wire.ServerOptions()...)...)
		},
	})
	removeSockets()
}

// untilAlone ends the process when the daemon has gone, which closes our standard
// input. What is under way gets a moment to be finished.
func (s *served) untilAlone() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.stop()
	if s.serving() {
		select {
		case <-s.ended:
		case <-time.After(orphanDrain):
		}
	}
	removeSockets()
	os.Exit(0)
}

// removeSockets removes the folder that the daemon has made for our sockets, and the
// one around it, in case the daemon died before it could.
func removeSockets() {
	if dir := os.Getenv(goplugin.EnvUnixSocketDir); dir != "" {
		_ = os.RemoveAll(dir)
		_ = os.Remove(filepath.Dir(dir)) // only if it is empty
	}
}

// grpcPlugin is what go-plugin wants of the plugin's side.
type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	served *served
}

// GRPCServer registers our services.
func (p grpcPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	pb.RegisterStageServer(s, p.served)
	(&wire.Server{Readers: p.served.readers, Writer: p.served.writer, Stuck: stuck}).Register(s)
	return nil
}

// stuck ends a process in which a call hangs, with the stacks that tell where. The
// daemon starts another.
func stuck(call string) {
	debug.SetTraceback("all")
	panic("plugin: " + call + " hangs: it goes on though its context has ended")
}

// GRPCClient is for the host's side.
func (p grpcPlugin) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, fmt.Errorf("this is the plugin's side")
}
