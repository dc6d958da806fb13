// Package nowait writes to sockets without waiting for them, which the net package cannot, as its
// Write returns when all is written, and reads from them at the least cost. Elsewhere than on
// Linux there are no such sockets, and the net package reads.
package nowait

import (
	"io"
	"net"
)

// after is what is left of queue after its first n bytes, and how many of these are of
// the first piece that is left.
func after(queue [][]byte, n int) (rest [][]byte, first int) {
	for len(queue) > 0 && n >= len(queue[0]) {
		n -= len(queue[0])
		queue = queue[1:]
	}
	return queue, n
}

// Reading returns conn with the reads of Reader, for what is put on top of it, such as TLS.
func Reading(conn net.Conn) net.Conn { return reading{conn, Reader(conn)} }

type reading struct {
	net.Conn
	from io.Reader
}

func (r reading) Read(p []byte) (int, error) { return r.from.Read(p) }
