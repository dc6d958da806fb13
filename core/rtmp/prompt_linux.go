// Writing to a socket without waiting for it. The net package cannot: its Write
// returns when all is written.

package rtmp

import (
	"net"
	"syscall"
	"unsafe"
)

// A prompt writes to one connection. It is used by one goroutine at a time.
type prompt struct {
	conn syscall.RawConn
	call func(fd uintptr) bool // p.writev, made once

	queue   [][]byte
	written int
	errno   syscall.Errno
}

// newPrompt returns nil for a connection that is no plain socket.
func newPrompt(conn net.Conn) *prompt {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	p := &prompt{conn: raw}
	p.call = p.writev
	return p
}

// write writes as much of queue as the socket takes, and returns how much that is.
func (p *prompt) write(queue [][]byte) (int, error) {
	p.queue, p.written, p.errno = queue, 0, 0
	err := p.conn.Write(p.call)
	p.queue = nil
	if err == nil && p.errno != 0 {
		err = p.errno
	}
	return p.written, err
}

// writev always returns true: that the socket has room is not waited for.
func (p *prompt) writev(fd uintptr) bool {
	for len(p.queue) > 0 {
		var pieces [64]syscall.Iovec
		count, size := 0, 0
		for count < min(len(pieces), len(p.queue)) {
			b := p.queue[count]
			pieces[count].Base = unsafe.SliceData(b)
			pieces[count].SetLen(len(b))
			size += len(b)
			count++
		}
		message := syscall.Msghdr{Iov: &pieces[0], Iovlen: uint64(count)}
		n, _, errno := syscall.Syscall(syscall.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&message)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return true
		case errno != 0:
			p.errno = errno
			return true
		}
		p.written += int(n)
		if int(n) < size { // the socket is full
			return true
		}
		p.queue = p.queue[count:]
	}
	return true
}
