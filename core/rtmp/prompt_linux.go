// Writing to a socket without waiting for it. The net package cannot: its Write
// returns when all is written.

package rtmp

import (
	"cmp"
	"net"
	"syscall"
	"unsafe"
)

// A prompt writes to one socket, as long as that is open: see output.shut. The
// zero prompt is none.
type prompt struct{ fd int }

// newPrompt returns none for a connection that is no plain socket.
func newPrompt(conn net.Conn) (p prompt) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return p
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { p.fd = int(fd) })
	}
	return p
}

func (p prompt) exists() bool { return p.fd > 0 }

// write writes as much of queue as the socket takes, and returns how much that is.
//
// The system call is not announced to the scheduler, as one that may wait is. It
// returns within microseconds, and there are tens of thousands of them a second.
func (p prompt) write(queue [][]byte) (written int, err error) {
	for len(queue) > 0 {
		pieces, size := queue[:min(maxPieces, len(queue))], 0
		for _, b := range pieces {
			size += len(b)
		}
		n, errno := p.send(pieces)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return written, nil
		case errno != 0:
			return written, errno
		}
		written += n
		if n < size { // the socket is full
			return written, nil
		}
		queue = queue[len(pieces):]
	}
	return written, nil
}

// maxPieces is how many pieces one system call writes.
const maxPieces = 64

// send is one system call. For one piece, as most rounds have, it is the one of less work.
func (p prompt) send(pieces [][]byte) (int, syscall.Errno) {
	const flags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
	if b := pieces[0]; len(pieces) == 1 {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(p.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		return int(n), errno
	}
	var vec [maxPieces]syscall.Iovec
	for i, b := range pieces {
		vec[i].Base = unsafe.SliceData(b)
		vec[i].SetLen(len(b))
	}
	message := syscall.Msghdr{Iov: &vec[0], Iovlen: uint64(len(pieces))}
	n, _, errno := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(p.fd), uintptr(unsafe.Pointer(&message)), flags)
	return int(n), errno
}

// writeAll writes all of queue, which it changes, to conn, whose prompt p is, and waits
// for room under the write deadline. Writev of the net package would keep room for as many pieces.
func (p prompt) writeAll(conn *net.TCPConn, queue [][]byte) (written int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	wait := raw.Write(func(uintptr) (done bool) {
		var n int
		n, err = p.write(queue)
		written += n
		if queue, n = after(queue, n); len(queue) > 0 {
			queue[0] = queue[0][n:]
		}
		return err != nil || len(queue) == 0
	})
	return written, cmp.Or(err, wait)
}
