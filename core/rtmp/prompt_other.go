//go:build !linux

package rtmp

import (
	"errors"
	"net"
)

// A prompt exists on Linux only. Elsewhere each viewer is written to by its own
// goroutine.
type prompt struct{}

func newPrompt(net.Conn) prompt { return prompt{} }

func (prompt) exists() bool { return false }

func (prompt) write([][]byte) (int, error) { return 0, errors.ErrUnsupported }

func (prompt) writeAll(conn *net.TCPConn, queue [][]byte) (int, error) {
	b := net.Buffers(queue)
	n, err := b.WriteTo(conn)
	return int(n), err
}
