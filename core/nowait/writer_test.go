package nowait

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What is more than one write may take is divided wherever that falls, and arrives whole,
// from a socket and from a connection that is none.
func TestWriterDivides(t *testing.T) {
	server, client := pair(t)
	for name, conn := range map[string]net.Conn{"socket": server, "other": struct{ net.Conn }{server}} {
		var want []byte
		w := NewWriter(conn, 10*time.Second, prometheus.NewCounter(prometheus.CounterOpts{}))
		for i, size := range []int{1, MaxWrite - 1, MaxWrite, MaxWrite + 1, 10, 0, 3*MaxWrite + 7, 5} {
			piece := bytes.Repeat([]byte{byte(i)}, size)
			w.Queue = append(w.Queue, piece)
			want = append(want, piece...)
		}
		flushed := make(chan error, 1)
		go func() { flushed <- w.Flush() }()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: not what was written has come, %v", name, err)
		}
		if err := <-flushed; err != nil || len(w.Queue) > 0 {
			t.Errorf("%s: %d pieces are left, %v", name, len(w.Queue), err)
		}
	}
}
