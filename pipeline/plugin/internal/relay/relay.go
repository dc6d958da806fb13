// Package relay is a stage kind for the tests of plugins: it stands apart, as a
// repeater does, and asks its daemon about the other nodes.
package relay

import (
	"context"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// RTT is the round trip to every node.
const RTT = 3 * time.Millisecond

// Kind describes it.
func Kind() stage.Kind {
	return stage.Kind{
		Name:    "relay",
		Summary: "Relays media between nodes.",
		Ports:   stage.Ports{ProvidesReader: true, NeedsReader: stage.Any, Apart: true},
		New:     func(env stage.Env, _ any) (stage.Stage, error) { return &relay{env}, nil },
	}
}

type relay struct{ env stage.Env }

// Serve says that it serves the others.
func (r *relay) Serve(ctx context.Context) error {
	if r.env.Nodes != nil {
		r.env.Nodes.Serves("127.0.0.1:4100")
	}
	<-ctx.Done()
	return nil
}

// Open opens from its own input, as if it were another node's viewers that ask.
func (r *relay) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	req.Peer = r.env.Nodes.Self()
	return r.env.Inputs[0].Reader.Open(ctx, req)
}

// Cost is that of the first of the nodes, with the load of this one.
func (r *relay) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	peers, err := r.env.Nodes.Peers(ctx, req.Name, req.LiveOnly)
	if err != nil {
		return media.Cost{}, err
	}
	return media.Cost{
		Place: peers[0].Address, Base: peers[0].Load, Load: r.env.Nodes.Load(),
		Node: peers[0].Name, RTT: RTT, Depth: len(peers[0].Path),
	}, nil
}
