// How what a player writes reaches its client: a socket of our own, the HTTP
// server's response, or a WebSocket.

package web

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	"github.com/prometheus/client_golang/prometheus"
)

// maxWrite is how much is written under one deadline: a viewer that takes this
// much within it is slow, but alive.
const maxWrite = 256 << 10

// sendBuffer is the size of the kernel's buffer for what a viewer has not taken,
// which would else grow to megabytes for each that stalls.
const sendBuffer = 192 << 10

// A wire takes the bytes of a response. All but wait and shut are called by one goroutine
// at a time.
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

// A framing is what stands around the pieces that are written together.
type framing int

const (
	plain    framing = iota // nothing
	chunks                  // a chunk of a body (RFC 9112, 7.1)
	messages                // a message of a WebSocket (RFC 6455, 5.2)
	framings
)

// appendHead appends what stands before size bytes.
func (f framing) appendHead(dst []byte, size int) []byte {
	switch f {
	case chunks:
		return append(strconv.AppendInt(dst, int64(size), 16), "\r\n"...)
	case messages:
		const binaryMessage = 0x82 // whole
		switch {
		case size < 126:
			return append(dst, binaryMessage, byte(size))
		case size <= math.MaxUint16:
			return binary.BigEndian.AppendUint16(append(dst, binaryMessage, 126), uint16(size))
		}
		return binary.BigEndian.AppendUint64(append(dst, binaryMessage, 127), uint64(size))
	}
	return dst
}

var (
	lineEnd   = []byte("\r\n")
	lastChunk = []byte("0\r\n\r\n")
)

// A socket is a connection taken over from the HTTP server, so that a write is one
// system call and the bytes are those that all viewers share. The body is chunked,
// so that its end is told from a broken connection and proxies may keep theirs. A
// client of HTTP/1.0 gets it plain, until the connection closes.
type socket struct {
	conn    net.Conn
	prompt  nowait.Socket // none for TLS
	timeout time.Duration // of each write
	bytes   prometheus.Counter
	framing framing
	closed  atomic.Bool

	mu      sync.Mutex // held while writing
	err     error      // the first failure; nothing is written after it
	queue   [][]byte   // what flush will write
	scratch []byte     // the heads in queue
	iov     [][]byte   // what one write takes of it
}

// takeOver makes a socket of the connection of r, and writes the head of the response, with
// the fields of w, together with what comes first.
func takeOver(w http.ResponseWriter, r *http.Request, timeout time.Duration, bytes prometheus.Counter) (*socket, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	if buffered.Reader.Buffered() > 0 { // a pipelined request, which nobody will answer
		_ = conn.Close()
		return nil, fmt.Errorf("%w: the client has sent more than one request", errAnswered)
	}
	s := newSocket(conn, timeout, bytes)
	head := fmt.Appendf(nil, "HTTP/1.%d 200 OK\r\n", r.ProtoMinor)
	h := w.Header()
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Connection", "close")
	if r.ProtoAtLeast(1, 1) {
		s.framing = chunks
		h.Set("Transfer-Encoding", "chunked")
	}
	var fields fieldWriter
	_ = h.Write(&fields)
	s.queue = append(s.queue, append(append(head, fields...), "\r\n"...))
	return s, nil
}

type fieldWriter []byte

func (f *fieldWriter) Write(p []byte) (int, error) {
	*f = append(*f, p...)
	return len(p), nil
}

// newSocket bounds the memory that the connection has in the kernel.
func newSocket(conn net.Conn, timeout time.Duration, bytes prometheus.Counter) *socket {
	if c, ok := tcpOf(conn); ok {
		_ = c.SetWriteBuffer(sendBuffer)
	}
	return &socket{conn: conn, prompt: nowait.Of(conn), timeout: timeout, bytes: bytes}
}

func tcpOf(conn net.Conn) (*net.TCPConn, bool) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	return c, ok
}

func (s *socket) write(pieces [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(pieces)
	return s.flush()
}

// The methods from here to end are called with mu held.

// put adds pieces to the queue, framed.
func (s *socket) put(pieces [][]byte) {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	if size == 0 { // such a chunk would be the last
		return
	}
	at := len(s.scratch)
	if s.scratch = s.framing.appendHead(s.scratch, size); len(s.scratch) > at {
		s.queue = append(s.queue, s.scratch[at:len(s.scratch):len(s.scratch)])
	}
	s.queue = append(s.queue, pieces...)
	if s.framing == chunks {
		s.queue = append(s.queue, lineEnd)
	}
}

// flush writes the queue. It is one system call up to maxWrite bytes.
func (s *socket) flush() error {
	for rest := s.queue; len(rest) > 0 && s.err == nil; {
		rest = s.take(rest)
		s.err = s.send()
	}
	clear(s.queue)
	s.queue, s.scratch = s.queue[:0], s.scratch[:0]
	if cap(s.queue) > maxRest {
		s.queue, s.scratch, s.iov = nil, nil, nil
	}
	return s.err
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

// send writes iov.
func (s *socket) send() error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.timeout))
	if s.closed.Load() { // in this order, or the deadline would undo shut's
		return media.ErrClosed
	}
	var n int
	var err error
	if conn, ok := s.conn.(*net.TCPConn); ok {
		n, err = s.prompt.WriteAll(conn, s.iov)
	} else {
		n, err = writeJoined(s.conn, s.iov)
	}
	clear(s.iov) // a viewer at rest keeps no batch
	s.bytes.Add(float64(n))
	if err == nil {
		return nil
	}
	if c, ok := tcpOf(s.conn); ok && errors.Is(err, os.ErrDeadlineExceeded) {
		_ = c.SetLinger(0) // the kernel need not keep what is not taken
	}
	return fmt.Errorf("write to the client: %w", err)
}

// try writes what was put, and then shared, which is framed already, as far as the
// connection takes it at once, and reports whether that was all. The rest is written by the next flush.
func (s *socket) try(shared [][]byte) (done bool, err error) {
	if s.closed.Load() && s.err == nil {
		s.err = media.ErrClosed
	}
	if s.err != nil {
		return false, s.err
	}
	queue := shared
	if len(s.queue) > 0 || !s.prompt.Exists() {
		s.queue = append(s.queue, shared...)
		queue = s.queue
	}
	n := 0
	if s.prompt.Exists() {
		n, err = s.prompt.Write(queue)
		s.bytes.Add(float64(n))
	}
	if err != nil {
		s.err = fmt.Errorf("write to the client: %w", err)
	}
	s.keep(nowait.After(queue, n))
	return len(s.queue) == 0, s.err
}

// keep makes rest the queue, without its first n bytes. It may be a part of the queue.
func (s *socket) keep(rest [][]byte, n int) {
	before := s.queue
	s.queue = append(s.queue[:0], rest...)
	if len(rest) > 0 {
		s.queue[0] = s.queue[0][n:]
	} else {
		s.scratch = s.scratch[:0]
	}
	if len(before) > len(rest) {
		clear(before[len(rest):])
	}
}

func (s *socket) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.framing == chunks {
		s.queue = append(s.queue, lastChunk)
	}
	return s.flush()
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

// shut closes the connection once nobody writes any more, which is at once.
func (s *socket) shut() {
	s.closed.Store(true)
	_ = s.conn.SetDeadline(time.Unix(1, 0))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = media.ErrClosed
	}
	_ = s.conn.Close()
}

// joins are the buffers of writers that cannot take several pieces at once: TLS would make a
// record of each.
var joins = sync.Pool{New: func() any { return new([]byte) }}

func writeJoined(w io.Writer, pieces [][]byte) (int, error) {
	p := joins.Get().(*[]byte)
	defer joins.Put(p)
	*p = (*p)[:0]
	for _, b := range pieces {
		*p = append(*p, b...)
	}
	return w.Write(*p)
}

// A response is written through the HTTP server, where the connection is not ours to
// take: HTTP/2 has many requests on it.
type response struct {
	*paced
	left   context.Context // ends when the client has left
	cancel context.CancelFunc
	whole  atomic.Bool
}

func newResponse(w http.ResponseWriter, r *http.Request, timeout time.Duration, bytes prometheus.Counter) *response {
	p := &response{paced: newPaced(w, timeout, bytes)}
	p.left, p.cancel = context.WithCancel(r.Context())
	return p
}

func (p *response) write(pieces [][]byte) error {
	if len(pieces) == 0 {
		return nil
	}
	if _, err := writeJoined(p.paced, pieces); err != nil {
		return err
	}
	if err := p.control.Flush(); err != nil {
		return err
	}
	return p.control.SetWriteDeadline(time.Time{}) // until there is more, which may be long
}

func (p *response) wait() { <-p.left.Done() }

func (p *response) end() error {
	p.whole.Store(true)
	return nil
}

func (p *response) shut() {
	p.cancel()
	if !p.whole.Load() { // else HTTP/2 would break off what is only to be ended
		_ = p.control.SetWriteDeadline(time.Unix(1, 0))
	}
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
	// HTTP/2 ends a response whose deadline passes, though nothing is being written.
	_ = p.control.SetWriteDeadline(time.Now().Add(maxNext + p.timeout))
	return n, nil
}

// A webSocket is a socket whose client speaks, too: each write is a message, and the library
// answers pings and the close.
type webSocket struct {
	*socket
	conn   *websocket.Conn
	ctx    context.Context
	cancel context.CancelFunc
}

// upgrade answers the handshake of a WebSocket. Pages of any origin may connect that
// may read the media by other ways.
func upgrade(w http.ResponseWriter, r *http.Request, origin string, timeout time.Duration, bytes prometheus.Counter) (*webSocket, error) {
	h := &hijacker{ResponseWriter: w, timeout: timeout, bytes: bytes}
	conn, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		InsecureSkipVerify: origin == "*",
		OriginPatterns:     []string{origin},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswered, err)
	}
	ws := &webSocket{socket: h.socket, conn: conn}
	ws.ctx, ws.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	return ws, nil
}

// A hijacker gives the library the connection such that its own frames go between our messages.
type hijacker struct {
	http.ResponseWriter
	timeout time.Duration
	bytes   prometheus.Counter
	socket  *socket
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.socket = newSocket(conn, h.timeout, h.bytes)
	h.socket.framing = messages
	c := between{conn, h.socket}
	buffered.Writer.Reset(c)
	return c, buffered, nil
}

// A between is the connection of a socket to those who write whole frames to it.
type between struct {
	net.Conn
	s *socket
}

func (b between) Write(p []byte) (int, error) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.queue = append(b.s.queue, p)
	if err := b.s.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (b between) Close() error {
	b.s.shut()
	return nil
}

func (w *webSocket) end() error { return w.conn.Close(websocket.StatusNormalClosure, "") }

// wait reads, as it must for pings to be answered and the close to be seen.
func (w *webSocket) wait() {
	for {
		if _, _, err := w.conn.Read(w.ctx); err != nil {
			return
		}
	}
}

func (w *webSocket) shut() {
	w.cancel()
	w.socket.shut()
	_ = w.conn.CloseNow()
}

// errAnswered says that nothing more can be told the client.
var errAnswered = errors.New("the connection was not taken over")

func isWebSocket(r *http.Request) bool {
	return r.Header.Get("Upgrade") != "" && r.Header.Get("Sec-WebSocket-Key") != ""
}
