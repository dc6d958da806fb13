package nowait

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// A socket takes what there is room for, and the rest of the queue is what after says.
func TestSocket(t *testing.T) {
	server, client := pair(t)
	s := Of(server)
	if !s.Exists() || Of(new(net.UnixConn)).Exists() {
		t.Fatal("sockets are not those of TCP alone")
	}
	var sent, got bytes.Buffer
	queue := make([][]byte, 200) // more than one system call takes
	for i := range queue {
		queue[i] = bytes.Repeat([]byte{byte(i)}, 100_000)
		sent.Write(queue[i])
	}
	stops := 0
	for len(queue) > 0 {
		n, err := s.Write(queue)
		if err != nil {
			t.Fatal(err)
		}
		rest, first := after(queue, n)
		if queue = rest; len(queue) > 0 {
			queue[0] = queue[0][first:]
			stops++
		}
		if _, err := io.CopyN(&got, client, int64(n)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got.Bytes(), sent.Bytes()) || stops == 0 {
		t.Errorf("%d bytes of %d, the socket was full %d times", got.Len(), sent.Len(), stops)
	}
}
