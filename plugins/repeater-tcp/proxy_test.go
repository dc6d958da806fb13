// A link that can be made slow, silent or cut.

package repeatertcp

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A proxy is a link to a target.
type proxy struct {
	target string
	l      net.Listener

	mu      sync.Mutex
	conns   []net.Conn
	stopped chan struct{} // closed when nothing passes any more
	slow    chan struct{} // while it is not nil and open, all wait for tokens
	tokens  chan struct{} // each is for a KiB
	running sync.WaitGroup
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: target, l: l, stopped: make(chan struct{}), tokens: make(chan struct{}, 1<<16)}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		out.(*net.TCPConn).SetReadBuffer(64 << 10)
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		p.running.Go(func() { p.pass(in, out) })
		p.running.Go(func() { p.pass(out, in) })
	}
}

// pass copies from one side to the other.
func (p *proxy) pass(dst, src net.Conn) {
	defer dst.Close()
	buf := make([]byte, 64<<10)
	for {
		p.mu.Lock()
		slow := p.slow
		p.mu.Unlock()
		select {
		case <-p.stopped:
			_, _ = io.Copy(io.Discard, src)
			return
		default:
		}
		b := buf
		if slow != nil {
			select {
			case <-p.tokens:
				b = buf[:1<<10]
			case <-slow:
			}
		}
		n, err := src.Read(b)
		if err == nil {
			_, err = dst.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// slowDown lets no more pass than allow says, until the function that it returns is called.
func (p *proxy) slowDown(t *testing.T) (stop func()) {
	slow := make(chan struct{})
	p.mu.Lock()
	p.slow = slow
	p.mu.Unlock()
	stop = sync.OnceFunc(func() { close(slow) })
	t.Cleanup(stop)
	return stop
}

// allow lets so many KiB pass.
func (p *proxy) allow(n int) {
	for range n {
		p.tokens <- struct{}{}
	}
}

// hang lets nothing pass any more, as when the machine behind it is gone.
func (p *proxy) hang() { close(p.stopped) }

// cut ends all connections, and refuses others.
func (p *proxy) cut() {
	p.l.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
}
