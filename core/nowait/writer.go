// A connection to whoever watches: what is to be written is gathered, and written together.

package nowait

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// MaxWrite is how many bytes are written under one deadline: a viewer that takes
	// this much within it is slow, but alive.
	MaxWrite = 256 << 10
	// sendBuffer is the size of the kernel's buffer for what a viewer has not taken, which
	// would else grow to megabytes for each that stalls. The kernel sets aside twice as
	// much: 100 of them are under 40 MB.
	sendBuffer = 176 << 10
	// maxQueue is how many pieces a connection at rest keeps room for. What a
	// joiner is sent at first has more, and what follows has a few.
	maxQueue = 64
)

// ErrSlow says that the other side does not take what is written to it. It comes with
// os.ErrDeadlineExceeded.
var ErrSlow = errors.New("the other side is too slow")

// A Writer writes to one connection. All but Shut is used with it locked.
//
// What a round looks at for each viewer comes first, so that it is in few cache lines.
type Writer struct {
	sync.Mutex
	closed atomic.Bool
	socket Socket // none when the connection cannot be written to without waiting
	err    error  // the first failure; nothing is written after it
	// Queue is what Flush will write, in order: append to it. The bytes are kept, and not
	// changed, until they are written.
	Queue [][]byte
	// Scratch is room for what stands between the pieces that viewers share. It is emptied
	// with the queue.
	Scratch []byte

	conn    net.Conn
	timeout time.Duration
	bytes   prometheus.Counter
}

// NewWriter returns the writer of a connection. MaxWrite bytes may take as long as timeout; those
// written are added to bytes.
func NewWriter(conn net.Conn, timeout time.Duration, bytes prometheus.Counter) Writer {
	return Writer{socket: Of(conn), conn: conn, timeout: timeout, bytes: bytes}
}

// ToViewer is NewWriter for one of many, and bounds the memory that the connection has in the kernel.
func ToViewer(conn net.Conn, timeout time.Duration, bytes prometheus.Counter) Writer {
	if tcp, ok := tcpOf(conn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer)
	}
	return NewWriter(conn, timeout, bytes)
}

// tcpOf returns the connection below TLS, too.
func tcpOf(conn net.Conn) (*net.TCPConn, bool) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	return tcp, ok
}

// Prompt reports whether Try can write.
func (w *Writer) Prompt() bool { return w.socket.Exists() }

// Flush writes the queue. It is one system call up to MaxWrite bytes.
func (w *Writer) Flush() error {
	for rest := w.Queue; len(rest) > 0 && w.err == nil; {
		n, over := within(rest, MaxWrite)
		last := rest[n-1]
		here := len(last) - over
		rest[n-1] = last[:here]
		if w.err = w.write(rest[:n]); over > 0 {
			n--
			rest[n] = last[here:]
		}
		rest = rest[n:]
	}
	clear(w.Queue)
	w.Queue, w.Scratch = w.Queue[:0], w.Scratch[:0]
	if cap(w.Queue) > maxQueue {
		w.Queue, w.Scratch = nil, nil
	}
	return w.err
}

// within returns how many pieces of queue begin within the first room bytes, and by how many
// bytes these go beyond them.
func within(queue [][]byte, room int) (pieces, over int) {
	for pieces < len(queue) && room > 0 {
		room -= len(queue[pieces])
		pieces++
	}
	return pieces, max(-room, 0)
}

// write writes a part of the queue, which it may change.
func (w *Writer) write(pieces [][]byte) error {
	_ = w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
	if w.closed.Load() { // in this order, or the deadline would undo Shut's
		return media.ErrClosed
	}
	var n int
	var err error
	if conn, ok := w.conn.(*net.TCPConn); ok {
		n, err = w.socket.WriteAll(conn, pieces)
	} else {
		n, err = WriteJoined(w.conn, pieces)
	}
	w.bytes.Add(float64(n))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded) && !w.closed.Load():
		w.forget()
		return fmt.Errorf("%w: it has not taken %d bytes within %v: %w", ErrSlow, MaxWrite, w.timeout, err)
	}
	return fmt.Errorf("write: %w", err)
}

// forget has the kernel drop, when the connection is closed, what the client did not take.
// Otherwise it would keep trying to send that for minutes.
func (w *Writer) forget() {
	if tcp, ok := tcpOf(w.conn); ok {
		_ = tcp.SetLinger(0)
	}
}

// Try writes the queue and then shared, as far as the connection takes it at once, and
// reports whether that was all. The rest is written by the next Flush. Shared is not changed.
func (w *Writer) Try(shared [][]byte) (done bool, err error) {
	if w.closed.Load() && w.err == nil {
		w.err = media.ErrClosed
	}
	if w.err != nil {
		return false, w.err
	}
	queue := shared
	if len(w.Queue) > 0 || !w.Prompt() {
		w.Queue = append(w.Queue, shared...)
		queue = w.Queue
	}
	n := 0
	if w.Prompt() {
		n, err = w.socket.Write(queue)
		w.bytes.Add(float64(n))
	}
	if err != nil {
		w.err = fmt.Errorf("write: %w", err)
	}
	w.keep(after(queue, n))
	return len(w.Queue) == 0, w.err
}

// keep makes rest the queue, without its first n bytes. It may be a part of the queue.
func (w *Writer) keep(rest [][]byte, n int) {
	before := w.Queue
	w.Queue = append(w.Queue[:0], rest...)
	if len(rest) > 0 {
		w.Queue[0] = w.Queue[0][n:]
	} else {
		w.Scratch = w.Scratch[:0]
	}
	if len(before) > len(rest) {
		clear(before[len(rest):])
	}
}

// Shut fails all writes from now on, and what is being written at once. When it
// has returned nobody writes any more, so that the connection may be closed.
func (w *Writer) Shut() {
	w.closed.Store(true)
	_ = w.conn.SetWriteDeadline(time.Unix(1, 0))
	w.Lock()
	defer w.Unlock()
	if w.err == nil {
		w.err = media.ErrClosed
	}
}

// WriteJoined writes the pieces as one: a writer such as TLS would make a record of each.
func WriteJoined(w io.Writer, pieces [][]byte) (int, error) {
	p := joins.Get().(*[]byte)
	defer joins.Put(p)
	*p = (*p)[:0]
	for _, b := range pieces {
		*p = append(*p, b...)
	}
	return w.Write(*p)
}

// joins are the buffers of WriteJoined: connections at rest have none.
var joins = sync.Pool{New: func() any { return new([]byte) }}
