//go:build !linux

package nowait

import (
	"errors"
	"net"
)

const Possible = false

// A Socket is none here: whoever could write without waiting has a goroutine that waits.
type Socket struct{}

func Of(net.Conn) Socket { return Socket{} }

func (Socket) Exists() bool { return false }

func (Socket) Write([][]byte) (int, error) { return 0, errors.ErrUnsupported }

func (Socket) WriteAll(conn *net.TCPConn, queue [][]byte) (int, error) {
	b := net.Buffers(queue)
	n, err := b.WriteTo(conn)
	return int(n), err
}
