// What the connections between nodes are made of.

package repeatertcp

import (
	"context"
	"net"
)

// A Network makes the connections between nodes: TCP, or that of a simulation.
type Network interface {
	Listen(ctx context.Context, address string) (net.Listener, error)
	Dial(ctx context.Context, address string) (net.Conn, error)
}

type tcp struct{}

func (tcp) Listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: limitSilence}
	return config.Listen(ctx, "tcp", address)
}

func (tcp) Dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Control: limitSilence}
	return d.DialContext(ctx, "tcp", address)
}
