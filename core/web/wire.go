// How what a player writes reaches its client: a socket of our own, the HTTP
// server's response, or a WebSocket.

package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
)

// maxWrite is how much is written under one deadline: a viewer that takes this
// much within it is slow, but alive.
const maxWrite = 256 << 10

// sendBuffer is the size of the kernel's buffer for what a viewer has not taken,
// which would else grow to megabytes for each that stalls.
const sendBuffer = 192 << 10

// A wire takes the bytes of a response. Its methods are called by one goroutine.
type wire interface {
	// write writes the pieces, which it may change the slice of, but not the bytes.
	write(pieces [][]byte) error
	// end tells the client that all was written. Without it, the client sees that the
	// response has broken off.
	end() error
	// wait reads until the client has left.
	wait()
	// shut ends write and wait at once.
	shut()
}

// A socket is a connection taken over from the HTTP server, so that a write is one
// system call and the bytes are those that all viewers share. The body is chunked (RFC 9112,
// 7.1), one chunk a write, so that its end is told from a broken connection and
// proxies may keep theirs. A client of HTTP/1.0 gets it plain, until the connection closes.
type socket struct {
	conn    net.Conn
	timeout time.Duration
	bytes   prometheus.Counter
	chunked bool
	head    []byte // of the response, until the first write
	scratch []byte
	queue   [][]byte    // what flush will write
	iov     [][]byte    // what one write takes of it
	vec     net.Buffers // iov while it is being written
}

// takeOver makes a socket of the connection of r. Head are the fields of the response.
func takeOver(w http.ResponseWriter, r *http.Request, timeout time.Duration, bytes prometheus.Counter) (*socket, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	if buffered.Reader.Buffered() > 0 { // a pipelined request, which nobody will answer
		_ = conn.Close()
		return nil, errors.New("the client has sent more than one request")
	}
	setBuffer(conn)
	s := &socket{conn: conn, timeout: timeout, bytes: bytes, chunked: r.ProtoAtLeast(1, 1)}
	s.head = fmt.Appendf(nil, "HTTP/1.%d 200 OK\r\n", r.ProtoMinor)
	h := w.Header()
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Connection", "close")
	if s.chunked {
		h.Set("Transfer-Encoding", "chunked")
	}
	var fields fieldWriter
	_ = h.Write(&fields)
	s.head = append(append(s.head, fields...), "\r\n"...)
	return s, nil
}

type fieldWriter []byte

func (f *fieldWriter) Write(p []byte) (int, error) {
	*f = append(*f, p...)
	return len(p), nil
}

// setBuffer bounds the memory that a connection has in the kernel.
func setBuffer(conn net.Conn) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetWriteBuffer(sendBuffer)
	}
}

func (s *socket) write(pieces [][]byte) error {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	if size == 0 { // such a chunk would be the last
		return nil
	}
	if s.head != nil {
		s.queue = append(s.queue, s.head)
		s.head = nil
	}
	if s.chunked {
		s.scratch = append(strconv.AppendInt(s.scratch[:0], int64(size), 16), "\r\n"...)
		s.queue = append(s.queue, s.scratch)
	}
	s.queue = append(s.queue, pieces...)
	if s.chunked {
		s.queue = append(s.queue, lineEnd)
	}
	return s.flush()
}

var (
	lineEnd   = []byte("\r\n")
	lastChunk = []byte("0\r\n\r\n")
)

// flush writes the queue. It is one system call up to maxWrite bytes.
func (s *socket) flush() error {
	var err error
	for rest := s.queue; len(rest) > 0 && err == nil; {
		rest = s.take(rest)
		_ = s.conn.SetWriteDeadline(time.Now().Add(s.timeout))
		var n int64
		if _, plain := s.conn.(*net.TCPConn); plain {
			s.vec = s.iov
			n, err = s.vec.WriteTo(s.conn)
		} else {
			n, err = writeJoined(s.conn, s.iov)
		}
		s.bytes.Add(float64(n))
	}
	clear(s.queue)
	clear(s.iov)
	s.queue = s.queue[:0]
	if cap(s.queue) > maxRest {
		s.queue, s.iov, s.vec = nil, nil, nil
	}
	if err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}

// maxRest is how many pieces a viewer at rest keeps room for. What a joiner is sent at
// first has more, and what follows has a few.
const maxRest = 64

// take moves up to maxWrite bytes of queue to iov and returns what is left.
func (s *socket) take(queue [][]byte) [][]byte {
	s.iov = s.iov[:0]
	for room := maxWrite; len(queue) > 0 && room > 0; {
		if len(queue[0]) > room {
			s.iov = append(s.iov, queue[0][:room])
			queue[0] = queue[0][room:]
			break
		}
		room -= len(queue[0])
		s.iov = append(s.iov, queue[0])
		queue = queue[1:]
	}
	return queue
}

// joins are the buffers of writers that cannot take several pieces at once (TLS and
// WebSockets would make a record or a frame of each).
var joins = sync.Pool{New: func() any { return new([]byte) }}

func join(pieces [][]byte) *[]byte {
	p := joins.Get().(*[]byte)
	*p = (*p)[:0]
	for _, b := range pieces {
		*p = append(*p, b...)
	}
	return p
}

func writeJoined(w io.Writer, pieces [][]byte) (int64, error) {
	p := join(pieces)
	defer joins.Put(p)
	n, err := w.Write(*p)
	return int64(n), err
}

func (s *socket) end() error {
	if s.chunked {
		s.queue = append(s.queue, lastChunk)
		return s.flush()
	}
	return nil
}

// wait reads what the client sends, which is nothing.
func (s *socket) wait() {
	var p [512]byte
	for total := 0; total < 64<<10; {
		n, err := s.conn.Read(p[:])
		if err != nil {
			return
		}
		total += n
	}
}

func (s *socket) shut() { _ = s.conn.Close() }

// A response is written through the HTTP server, where the connection is not ours to
// take: HTTP/2 has many requests on it.
type response struct {
	*paced
	left   context.Context // ends when the client has left
	cancel context.CancelFunc
	whole  bool
}

func newResponse(w http.ResponseWriter, r *http.Request, timeout time.Duration, bytes prometheus.Counter) *response {
	p := &response{paced: newPaced(w, timeout, bytes)}
	p.left, p.cancel = context.WithCancel(r.Context())
	return p
}

func (p *response) write(pieces [][]byte) error {
	if _, err := writeJoined(p.paced, pieces); err != nil {
		return err
	}
	return p.control.Flush()
}

func (p *response) wait() { <-p.left.Done() }

func (p *response) end() error {
	p.whole = true
	return nil
}

func (p *response) shut() {
	p.cancel()
	_ = p.control.SetWriteDeadline(time.Unix(1, 0))
}

// A paced is a ResponseWriter with a deadline for each maxWrite bytes.
type paced struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	bytes   prometheus.Counter
	wrote   bool // something, be it the status
}

func newPaced(w http.ResponseWriter, timeout time.Duration, bytes prometheus.Counter) *paced {
	return &paced{ResponseWriter: w, control: http.NewResponseController(w), timeout: timeout, bytes: bytes}
}

func (p *paced) WriteHeader(code int) {
	p.wrote = true
	p.ResponseWriter.WriteHeader(code)
}

func (p *paced) Write(b []byte) (int, error) {
	p.wrote = true
	n := 0
	for n < len(b) || n == 0 {
		_ = p.control.SetWriteDeadline(time.Now().Add(p.timeout))
		m, err := p.ResponseWriter.Write(b[n:min(len(b), n+maxWrite)])
		p.bytes.Add(float64(m))
		n += m
		if err != nil || len(b) == 0 {
			return n, err
		}
	}
	return n, nil
}

// A messages is a WebSocket: each write is a message.
type messages struct {
	conn    *websocket.Conn
	ctx     context.Context
	cancel  context.CancelFunc
	timeout time.Duration
	bytes   prometheus.Counter
}

// upgrade answers the handshake of a WebSocket. Pages of any origin may connect that
// may read the media by other ways.
func upgrade(w http.ResponseWriter, r *http.Request, origin string, timeout time.Duration, bytes prometheus.Counter) (*messages, error) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: origin == "*",
		OriginPatterns:     []string{origin},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswered, err)
	}
	m := &messages{conn: conn, timeout: timeout, bytes: bytes}
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	return m, nil
}

func (m *messages) write(pieces [][]byte) error {
	ctx, cancel := context.WithTimeout(m.ctx, m.timeout)
	defer cancel()
	p := join(pieces)
	defer joins.Put(p)
	if err := m.conn.Write(ctx, websocket.MessageBinary, *p); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	m.bytes.Add(float64(len(*p)))
	return nil
}

func (m *messages) end() error { return m.conn.Close(websocket.StatusNormalClosure, "") }

// wait reads, as it must for pings to be answered and the close to be seen.
func (m *messages) wait() {
	for {
		if _, _, err := m.conn.Read(m.ctx); err != nil {
			return
		}
	}
}

func (m *messages) shut() {
	m.cancel()
	_ = m.conn.CloseNow()
}

// errAnswered says that the client has been told of an error.
var errAnswered = errors.New("the handshake failed")

func isWebSocket(r *http.Request) bool {
	return r.Header.Get("Upgrade") != "" && r.Header.Get("Sec-WebSocket-Key") != ""
}
