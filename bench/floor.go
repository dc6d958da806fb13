// The floor: what it costs to write the same ready bytes to the same sockets,
// from one loop per processor that does nothing else. The wire carries RTMP chunks
// without a conversation, so that the load client can measure it alike.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// floor listens on args[0] and writes what came in the last args[1] milliseconds
// at once, each message by itself when that is 0.
func floor(ctx context.Context, args []string) error {
	gather, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	loops := make([]*loop, runtime.GOMAXPROCS(0))
	for i := range loops {
		loops[i] = &loop{ready: make(chan []byte, 1024)}
		go loops[i].run()
	}
	go stampAll(loops, time.Duration(gather)*time.Millisecond)
	for i := 0; ; i++ {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if err := loops[i%len(loops)].add(conn.(*net.TCPConn)); err != nil {
			return err
		}
	}
}

// stampAll makes the frames, as they are due, and hands them to the loops.
func stampAll(loops []*loop, gather time.Duration) {
	f, began, flushed := newFilm(), time.Now(), time.Now()
	var p []byte
	for {
		kind, due, body := f.next()
		time.Sleep(time.Until(began.Add(due)))
		mark(kind, body)
		p = appendMessage(p, pubChunk, csidOf[kind], kind, 1, uint32(due.Milliseconds()), body)
		if time.Since(flushed) < gather {
			continue
		}
		for _, l := range loops {
			l.ready <- p
		}
		p, flushed = nil, time.Now()
	}
}

// A loop writes to its share of the sockets.
type loop struct {
	ready chan []byte
	mu    sync.Mutex
	conns []*floorConn
}

type floorConn struct {
	fd   int
	file *os.File
	rest []byte // what the socket did not take
}

func (l *loop) add(conn *net.TCPConn) error {
	f, err := conn.File()
	if err != nil {
		return err
	}
	_ = conn.Close()
	fd := int(f.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, &floorConn{fd: fd, file: f})
	return nil
}

func (l *loop) run() {
	runtime.LockOSThread()
	for p := range l.ready {
		l.mu.Lock()
		for i := 0; i < len(l.conns); i++ {
			if err := l.conns[i].write(p); err != nil {
				_ = l.conns[i].file.Close()
				l.conns[i] = l.conns[len(l.conns)-1]
				l.conns = l.conns[:len(l.conns)-1]
				i--
			}
		}
		l.mu.Unlock()
	}
}

// write writes p, after what is left. The floor has no slow viewers: one that
// leaves a megabyte is an error.
func (c *floorConn) write(p []byte) error {
	if len(c.rest) > 0 {
		p = append(c.rest, p...)
		c.rest = nil
	}
	n, err := syscall.Write(c.fd, p)
	if errors.Is(err, syscall.EAGAIN) {
		n, err = 0, nil
	}
	if err != nil {
		return err
	}
	if len(p)-n > 1<<20 {
		return fmt.Errorf("%d bytes are left", len(p)-n)
	}
	if n < len(p) {
		c.rest = append([]byte(nil), p[n:]...)
	}
	return nil
}
