// A network in memory, for the simulation: connections that carry bytes after a delay,
// and hosts that can lose their power.

package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A simNet connects simulated hosts.
type simNet struct {
	// delay is how long a byte takes from one host to another.
	delay func(from, to string) time.Duration

	mu        sync.Mutex
	listeners map[string]*simListener
	dead      map[string]bool
}

// simHost is a host's access to the network; a host has one address.
type simHost struct {
	net  *simNet
	name string
	sent atomic.Int64 // bytes
}

type simListener struct {
	host  *simHost
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (h *simHost) Listen(_ context.Context, address string) (net.Listener, error) {
	l := &simListener{host: h, conns: make(chan net.Conn, 64), done: make(chan struct{})}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.net.listeners[address] = l
	return l, nil
}

func (h *simHost) Dial(ctx context.Context, address string) (net.Conn, error) {
	h.net.mu.Lock()
	l := h.net.listeners[address]
	dead := l == nil || h.net.dead[l.host.name] || h.net.dead[h.name]
	h.net.mu.Unlock()
	if dead {
		<-ctx.Done() // nobody answers
		return nil, ctx.Err()
	}
	there, back := newPipe(h, l.host), newPipe(l.host, h)
	mine, theirs := &simConn{in: back, out: there}, &simConn{in: there, out: back}
	time.Sleep(2 * there.delay) // TCP's handshake
	select {
	case l.conns <- theirs:
		return mine, nil
	case <-l.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *simListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *simListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *simListener) Addr() net.Addr { return simAddr(l.host.name) }

type simAddr string

func (a simAddr) Network() string { return "sim" }
func (a simAddr) String() string  { return string(a) + ":4100" }

// kill takes the power from a host: nothing comes from it any more, and nobody is told.
func (n *simNet) kill(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead[name] = true
}

// A pipe is one direction of a connection.
type pipe struct {
	from, to *simHost
	delay    time.Duration

	mu      sync.Mutex
	queue   []packet
	size    int
	closed  bool
	changed chan struct{} // closed and replaced
}

type packet struct {
	data []byte
	due  time.Time
}

const pipeBuffer = 4 << 20 // as of a socket's two ends

func newPipe(from, to *simHost) *pipe {
	return &pipe{from: from, to: to, delay: from.net.delay(from.name, to.name), changed: make(chan struct{})}
}

// notify wakes who waits. The caller holds mu.
func (p *pipe) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		p.notify()
	}
}

// A simConn is one end of a connection.
type simConn struct {
	in, out *pipe

	mu          sync.Mutex
	read, write time.Time // deadlines
	ended       bool
}

func (c *simConn) deadline(t *time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *t
}

// wait waits until changed, due or the deadline, which is an error.
func wait(changed <-chan struct{}, due, deadline time.Time) error {
	if due.IsZero() || !deadline.IsZero() && deadline.Before(due) {
		due = deadline
	}
	if !due.IsZero() {
		timer := time.NewTimer(time.Until(due))
		defer timer.Stop()
		select {
		case <-changed:
		case <-timer.C:
			if due.Equal(deadline) {
				return os.ErrDeadlineExceeded
			}
		}
		return nil
	}
	<-changed
	return nil
}

func (c *simConn) Read(b []byte) (int, error) {
	for p := c.in; ; {
		p.mu.Lock()
		var due time.Time
		switch {
		case c.gone():
			p.mu.Unlock()
			return 0, net.ErrClosed
		case len(p.queue) > 0 && !p.queue[0].due.After(time.Now()):
			n := copy(b, p.queue[0].data)
			if p.queue[0].data = p.queue[0].data[n:]; len(p.queue[0].data) == 0 {
				p.queue = p.queue[1:]
			}
			p.size -= n
			p.notify()
			p.mu.Unlock()
			return n, nil
		case len(p.queue) > 0:
			due = p.queue[0].due
		case p.closed:
			p.mu.Unlock()
			return 0, io.EOF
		}
		changed := p.changed
		p.mu.Unlock()
		if err := wait(changed, due, c.deadline(&c.read)); err != nil {
			return 0, err
		}
	}
}

func (c *simConn) Write(b []byte) (int, error) {
	for p := c.out; ; {
		p.mu.Lock()
		switch {
		case c.gone():
			p.mu.Unlock()
			return 0, net.ErrClosed
		case p.closed:
			p.mu.Unlock()
			return 0, errors.New("connection reset by peer")
		case p.lost():
			p.mu.Unlock()
			return len(b), nil
		case p.size < pipeBuffer:
			p.queue = append(p.queue, packet{append([]byte(nil), b...), time.Now().Add(p.delay)})
			p.size += len(b)
			p.from.sent.Add(int64(len(b)))
			p.notify()
			p.mu.Unlock()
			return len(b), nil
		}
		changed := p.changed
		p.mu.Unlock()
		if err := wait(changed, time.Time{}, c.deadline(&c.write)); err != nil {
			return 0, err
		}
	}
}

// lost says that one of the hosts has no power.
func (p *pipe) lost() bool {
	n := p.from.net
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dead[p.from.name] || n.dead[p.to.name]
}

func (c *simConn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

func (c *simConn) Close() error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.in.mu.Lock()
	c.in.notify()
	c.in.mu.Unlock()
	c.out.mu.Lock()
	c.out.notify()
	lost := c.out.lost()
	c.out.mu.Unlock()
	if !lost { // else nobody learns of it
		c.out.close()
		c.in.close()
	}
	return nil
}

func (c *simConn) LocalAddr() net.Addr  { return simAddr(c.out.from.name) }
func (c *simConn) RemoteAddr() net.Addr { return simAddr(c.out.to.name) }

func (c *simConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *simConn) SetReadDeadline(t time.Time) error  { return c.set(&c.read, t, c.in) }
func (c *simConn) SetWriteDeadline(t time.Time) error { return c.set(&c.write, t, c.out) }

func (c *simConn) set(which *time.Time, t time.Time, p *pipe) error {
	c.mu.Lock()
	*which = t
	c.mu.Unlock()
	p.mu.Lock()
	p.notify()
	p.mu.Unlock()
	return nil
}
