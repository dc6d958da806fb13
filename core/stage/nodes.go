// The other nodes, as a stage sees them.

package stage

import "context"

// Nodes is what a stage may ask about the cluster of which its daemon is a node.
type Nodes interface {
	// Self is the name of this node.
	Self() string
	// Load is the use of this node's busiest resource, 0 to 1.
	Load() float64
	// Peers returns the nodes that can be asked for name: of a live channel those
	// that have it on air, of recorded media all that are alive. Nodes that are
	// dead, suspect or draining are left out, and so is this one. It answers from memory,
	// or, for a stage in a process of its own, from that of its daemon.
	Peers(ctx context.Context, name string, live bool) ([]Peer, error)
	// Serves tells the others the host:port at which this node serves its peers, "" when it does
	// no more. For a host that stands for all of this machine's addresses, such as [::], they are told the one
	// that it has on the way to them.
	Serves(address string)
}

// A Peer is another node that media can be opened from.
type Peer struct {
	Name    string
	Address string // host:port of its repeater
	// Load is the use of its busiest resource as it was told last, 0 to 1.
	Load float64
	// Path are the nodes that a live channel comes through on its way to the peer, the owner
	// first and the peer last; nil for recorded media.
	Path []string
}
