//go:build !linux

package rtmp

import (
	"io"
	"net"
)

// newReceiver returns what reads from conn.
func newReceiver(conn net.Conn) io.Reader { return conn }
