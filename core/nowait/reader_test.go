package nowait

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair returns both ends of a connection.
func pair(t testing.TB) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = accepted.Close()
		_ = dialed.Close()
	})
	return accepted.(*net.TCPConn), dialed.(*net.TCPConn)
}

// What is written arrives whole, and then the end.
func TestReader(t *testing.T) {
	server, client := pair(t)
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	written := make(chan error, 1)
	go func() {
		_, err := client.Write(sent)
		written <- errors.Join(err, client.CloseWrite())
	}()
	got, err := io.ReadAll(Reading(server))
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// A read ends as one of the connection itself does: at the deadline, when the
// connection is closed, and when the peer resets it.
func TestReaderFails(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(server, client *net.TCPConn) error
		want error
	}{
		"deadline": {func(s, _ *net.TCPConn) error { return s.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		"closed":   {func(s, _ *net.TCPConn) error { return s.Close() }, net.ErrClosed},
		"reset":    {func(_, c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }, syscall.ECONNRESET},
	} {
		server, client := pair(t)
		failed := make(chan error, 1)
		go func() {
			_, err := Reader(server).Read(make([]byte, 10))
			failed <- err
		}()
		if err := c.end(server, client); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestReaderAllocatesNothing(t *testing.T) {
	server, client := pair(t)
	r, p := Reader(server), make([]byte, 10)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = client.Write(p)
		if n, err := r.Read(p); n == 0 || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a read", n)
	}
}
