// How what a player writes reaches its client: a socket of our own, the HTTP
// server's response, or a WebSocket.

package web

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/mediad/mediad/core/nowait"
	"github.com/prometheus/client_golang/prometheus"
)

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
	nowait.Writer
	conn    net.Conn
	framing framing
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
	s := &socket{Writer: nowait.ToViewer(conn, timeout, bytes), conn: conn}
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
	s.Queue = append(s.Queue, append(append(head, fields...), "\r\n"...))
	return s, nil
}

type fieldWriter []byte

func (f *fieldWriter) Write(p []byte) (int, error) {
	*f = append(*f, p...)
	return len(p), nil
}

func (s *socket) write(pieces [][]byte) error {
	s.Lock()
	defer s.Unlock()
	s.put(pieces)
	return s.Flush()
}

// put adds pieces to the queue, framed. The caller has the lock.
func (s *socket) put(pieces [][]byte) {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	if size == 0 { // such a chunk would be the last
		return
	}
	at := len(s.Scratch)
	if s.Scratch = s.framing.appendHead(s.Scratch, size); len(s.Scratch) > at {
		s.Queue = append(s.Queue, s.Scratch[at:len(s.Scratch):len(s.Scratch)])
	}
	s.Queue = append(s.Queue, pieces...)
	if s.framing == chunks {
		s.Queue = append(s.Queue, lineEnd)
	}
}

func (s *socket) end() error {
	s.Lock()
	defer s.Unlock()
	if s.framing == chunks {
		s.Queue = append(s.Queue, lastChunk)
	}
	return s.Flush()
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
	s.Shut()
	_ = s.conn.Close()
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
	if _, err := nowait.WriteJoined(p.paced, pieces); err != nil {
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

// A paced is a ResponseWriter with a deadline for each nowait.MaxWrite bytes.
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
		m, err := p.ResponseWriter.Write(b[n:min(len(b), n+nowait.MaxWrite)])
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
	h.socket = &socket{Writer: nowait.ToViewer(conn, h.timeout, h.bytes), conn: conn, framing: messages}
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
	b.s.Lock()
	defer b.s.Unlock()
	b.s.Queue = append(b.s.Queue, p)
	if err := b.s.Flush(); err != nil {
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
