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
	idle     time.Duration
	received prometheus.Counter // bytes

	out  nowait.Writer // locked by whoever writes
	told *media.Header // that was sent last; guarded by out
}

func (r *repeater) newConn(c net.Conn) *conn {
	n := &conn{Conn: c, from: nowait.Reader(c), out: nowait.NewWriter(c, silence, r.metrics.sent), received: r.metrics.received}
	n.in = bufio.NewReaderSize(n, readBuffer)
	return n
}

// Close closes the connection; what is being read or written fails.
func (c *conn) Close() error {
	c.out.Shut()
	return c.Conn.Close()
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
	c.out.Lock()
	defer c.out.Unlock()
	c.out.Queue = append(c.out.Queue, b)
	return c.out.Flush()
}

// sendBatches writes batches from their own memory, each with the header before it when it is another one.
func (c *conn) sendBatches(list []arrival) error {
	c.out.Lock()
	defer c.out.Unlock()
	for _, a := range list {
		c.put(a)
	}
	return c.out.Flush()
}

// errBusy says that a connection takes no more without waiting.
var errBusy = errors.New("the connection is busy")

// try writes a batch as far as it can be done at once. With errBusy some is left for sendBatches: of
// what is queued or, if !queued, the batch itself.
func (c *conn) try(a arrival) (queued bool, err error) {
	if !c.out.TryLock() {
		return false, errBusy
	}
	defer c.out.Unlock()
	c.put(a)
	done, err := c.out.Try(nil)
	switch {
	case err != nil:
		return true, fmt.Errorf("%w: %w", errWrite, err)
	case !done:
		return true, errBusy
	}
	return true, nil
}

// put adds a batch to the queue. The pieces of what is scratch by now stay good when that grows.
func (c *conn) put(a arrival) {
	queue, scratch := c.out.Queue, c.out.Scratch
	if h := a.batch.Header(); h != c.told {
		c.told = h
		queue = append(queue, finish(appendHeader(begin(nil, kindHeader), h), 0, 0))
	}
	at := len(scratch)
	scratch = append(begin(scratch, kindBatch), 0, 0, 0, 0)
	table := len(scratch)
	scratch = appendTable(scratch, a.batch, a.losses)
	binary.BigEndian.PutUint32(scratch[table-4:], uint32(len(scratch)-table))
	queue = append(queue, finish(scratch, at, bodies(a.batch))[at:])
	for _, f := range a.batch.Frames() {
		queue = append(queue, f.Body)
	}
	c.out.Queue, c.out.Scratch = queue, scratch
}

// bodies is the size of the bodies of b.
func bodies(b *media.Batch) int { return len(b.Slab()) - len(b.Frames())*media.Headroom }

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
