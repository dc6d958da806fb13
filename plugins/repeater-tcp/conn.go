// A connection between two repeaters, on either side.

package repeatertcp

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// handshake is how long the first messages of a connection may take.
	handshake = 5 * time.Second
	// silence is how long the other side may take nothing of what is sent.
	silence = 10 * time.Second
	// maxWrite is how much is written under one such deadline, and how much of what is ready is
	// gathered into one write.
	maxWrite = 256 << 10
	// readBuffer has the small messages; large bodies are read past it.
	readBuffer = 8 << 10
)

// A conn reads and writes messages. One goroutine reads; any may write.
type conn struct {
	net.Conn
	from io.Reader // reads from Conn
	decoder
	node string // on the other side, as it says
	// idle, when it is not 0, is how long the other side may send nothing. It is
	// set before anything is read.
	idle           time.Duration
	sent, received prometheus.Counter // bytes

	mu      sync.Mutex    // guards writing
	told    *media.Header // that was sent last
	scratch []byte        // all but the bodies of what is being written
	queue   [][]byte      // what is to be written
	pieces  [][]byte      // what one write takes of it
	socket  nowait.Socket // of Conn, none for TLS
	joined  []byte        // pieces in one, for TLS
}

func (r *repeater) newConn(c net.Conn) *conn {
	n := &conn{Conn: c, from: nowait.Reader(c), socket: nowait.Of(c), sent: r.metrics.sent, received: r.metrics.received}
	n.in = bufio.NewReaderSize(n, readBuffer)
	return n
}

// Read reads for the decoder.
func (c *conn) Read(p []byte) (int, error) {
	if c.idle > 0 {
		_ = c.SetReadDeadline(time.Now().Add(c.idle))
	}
	n, err := c.from.Read(p)
	c.received.Add(float64(n))
	return n, err
}

// hello makes the first bytes of a direction.
func hello(node string) []byte {
	b := []byte(preamble)
	at := len(b)
	return finish(appendText(begin(b, kindHello), node), at, 0)
}

// greeted reads them from the other side.
func (c *conn) greeted() error {
	var p [len(preamble)]byte
	if _, err := io.ReadFull(c.in, p[:]); err != nil {
		return err
	}
	const version = len(preamble) - 1
	switch {
	case string(p[:version]) != preamble[:version]:
		return fmt.Errorf("%w: it begins with %q; is TLS on on one side only?", errProtocol, p[:])
	case p[version] != preamble[version]:
		return fmt.Errorf("%w: it speaks version %d of it, this node speaks %d", errProtocol, p[version], preamble[version])
	}
	_, f, err := c.message(kindHello)
	if err != nil {
		return err
	}
	c.node = f.text()
	if err := media.CheckName(c.node); err != nil {
		f.wrong("its own name: %v", err)
	}
	return f.end()
}

// send writes one message that finish has finished, or several.
func (c *conn) send(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(silence))
	n, err := c.Write(b)
	c.sent.Add(float64(n))
	return err
}

// sendBatches writes batches from their own memory, each with the header before it when it is another one.
func (c *conn) sendBatches(list []arrival) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range list {
		c.put(a)
	}
	err := c.flush()
	clear(c.queue) // a connection at rest keeps no batch
	clear(c.pieces)
	c.queue, c.scratch = c.queue[:0], c.scratch[:0]
	if cap(c.scratch) > maxKept {
		c.scratch, c.joined = nil, nil
	}
	return err
}

// put adds a batch to the queue. The pieces of scratch in there stay good when it grows.
func (c *conn) put(a arrival) {
	start := len(c.scratch)
	if h := a.batch.Header(); h != c.told {
		c.told = h
		c.scratch = finish(appendHeader(begin(c.scratch, kindHeader), h), start, 0)
	}
	frames := a.batch.Frames()
	at := len(c.scratch)
	c.scratch = append(begin(c.scratch, kindBatch), 0, 0, 0, 0)
	table := len(c.scratch)
	c.scratch = appendTable(c.scratch, a.batch, a.losses)
	binary.BigEndian.PutUint32(c.scratch[table-4:], uint32(len(c.scratch)-table))
	finish(c.scratch, at, bodies(a.batch))
	c.queue = append(c.queue, c.scratch[start:])
	for i := range frames {
		c.queue = append(c.queue, frames[i].Body)
	}
}

// bodies is the size of the bodies of b.
func bodies(b *media.Batch) int { return len(b.Slab()) - len(b.Frames())*media.Headroom }

// flush writes the queue, maxWrite bytes at a time.
func (c *conn) flush() error {
	for rest := c.queue; len(rest) > 0; {
		c.pieces = c.pieces[:0]
		for room := maxWrite; len(rest) > 0 && room > 0; {
			p := rest[0]
			if len(p) > room {
				p, rest[0] = p[:room], p[room:]
			} else {
				rest = rest[1:]
			}
			room -= len(p)
			c.pieces = append(c.pieces, p)
		}
		_ = c.SetWriteDeadline(time.Now().Add(silence))
		n, err := c.write()
		c.sent.Add(float64(n))
		if err != nil {
			return err
		}
	}
	return nil
}

// write writes the pieces with one system call, and with TLS in as few records as can be.
func (c *conn) write() (int64, error) {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		n, err := c.socket.WriteAll(tcp, c.pieces)
		return int64(n), err
	}
	c.joined = c.joined[:0]
	for _, p := range c.pieces {
		c.joined = append(c.joined, p...)
	}
	n, err := c.Write(c.joined)
	return int64(n), err
}

// within calls f, which reads, and ends it with ctx or after a handshake's time.
func (c *conn) within(ctx context.Context, f func() error) error {
	_ = c.SetReadDeadline(time.Now().Add(handshake))
	stop := context.AfterFunc(ctx, func() { c.Close() })
	err := f()
	if !stop() {
		return ctx.Err()
	}
	_ = c.SetReadDeadline(time.Time{})
	return err
}

// dial connects to a peer and sends hello and then first. ctx bounds that alone.
func (r *repeater) dial(ctx context.Context, address string, first []byte) (*conn, error) {
	tcp, err := r.connect(ctx, address)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, unavailable(err)
	}
	c := r.newConn(tcp)
	err = c.within(ctx, func() error {
		if err := c.send(append(hello(r.self), first...)); err != nil {
			return err
		}
		return c.greeted()
	})
	if err != nil {
		c.Close()
		return nil, unavailable(err)
	}
	return c, nil
}

func (r *repeater) connect(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	c, err := r.network.Dial(ctx, address)
	if err != nil || r.certs == nil {
		return c, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		c.Close()
		return nil, err
	}
	t := tls.Client(nowait.Reading(c), r.certs.Client(host))
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// unavailable makes an error of the network one that others know. What the peer has said
// and the end of a context stay as they are.
func unavailable(err error) error {
	var said *failure
	switch {
	case errors.As(err, &said), errors.Is(err, media.ErrUnavailable),
		err == context.Canceled, err == context.DeadlineExceeded: //nolint:errorlint // package net has errors that are these too
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: the peer has hung up", media.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", media.ErrUnavailable, err)
}
