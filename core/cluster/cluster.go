// Package cluster is what a node knows of the other nodes, and what they know of
// it: who is there, how busy each is, which channels are on air where, and who
// may publish a name.
package cluster

import (
	"context"
	"time"

	"github.com/mediad/mediad/core/stage"

	_ "github.com/nats-io/nats-server/v2/server"
	_ "github.com/nats-io/nats.go"
	_ "github.com/nats-io/nats.go/jetstream"
)

// A Cluster is this node's view of all nodes, and its own part among them. It
// implements stage.Nodes.
type Cluster struct{}

var _ stage.Nodes = (*Cluster)(nil)

// Self is the name of this node.
func (c *Cluster) Self() string { panic("not written yet") }

// Load is the use of this node's busiest resource, 0 to 1.
func (c *Cluster) Load() float64 { panic("not written yet") }

// Peers implements stage.Nodes.
func (c *Cluster) Peers(ctx context.Context, name string, live bool) ([]stage.Peer, error) {
	panic("not written yet")
}

// Serves implements stage.Nodes.
func (c *Cluster) Serves(address string) { panic("not written yet") }

// Changed is closed at the next change of the nodes or the channels.
func (c *Cluster) Changed() <-chan struct{} { panic("not written yet") }

// Claim says that this node puts the channel name on air. It fails with
// media.ErrBusy when a living node is known to have it, unless takeover is set. It does
// not wait for anything: the claim is registered in the background, and held through
// the loss of the whole control plane.
func (c *Cluster) Claim(name string, takeover bool) (*Claim, error) { panic("not written yet") }

// A Claim is this node's right to a name, until it is lost or released.
type Claim struct{}

// Origin is the wall-clock time of the channel's time 0: that of this claim, or, when the
// name was another node's until lately, of the first in the row, so that the
// timeline goes on.
func (c *Claim) Origin() time.Time { panic("not written yet") }

// Lost is closed when another node has the name. Err then wraps media.ErrTakenOver and names the node.
func (c *Claim) Lost() <-chan struct{} { panic("not written yet") }

// Err says why Lost is closed.
func (c *Claim) Err() error { panic("not written yet") }

// Release gives the name up. It may be called more than once.
func (c *Claim) Release() { panic("not written yet") }

// Hold says that this node repeats a channel of another.
func (c *Cluster) Hold(name string) *Holding { panic("not written yet") }

// A Holding is a channel that this node repeats.
type Holding struct{}

// Set tells the nodes that the channel comes through, the owner first and this one
// last; empty while it has no parent.
func (h *Holding) Set(path []string) { panic("not written yet") }

// Release says that this node repeats the channel no more.
func (h *Holding) Release() { panic("not written yet") }
