// The other nodes, as a stage sees them.

package stage

import (
	"context"
	"net"
)

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
	// Serves tells the others the host:port at which this node serves its peers,
	// "" when it does no more.
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

// Reachable is where other nodes find a listener: on its own address, or, when it takes
// what comes to any, on the first of this machine that is not for itself alone.
func Reachable(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil || !net.ParseIP(host).IsUnspecified() {
		return l.Addr().String()
	}
	host = "127.0.0.1"
	addresses, _ := net.InterfaceAddrs() // without any there is this machine alone
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			host = n.IP.String()
			break
		}
	}
	return net.JoinHostPort(host, port)
}
