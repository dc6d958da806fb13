//go:build !linux

package nowait

import (
	"io"
	"net"
)

// Reader returns what reads from conn.
func Reader(conn net.Conn) io.Reader { return conn }
