// Writing by system calls of our own.

package nowait

import (
	"cmp"
	"net"
	"syscall"
	"unsafe"
)

// Possible says whether sockets exist on this system.
const Possible = true

// A Socket writes to one connection. Whoever closes that must know that nobody
// writes any more: the number of the descriptor may be another connection's then. The
// zero Socket is none.
type Socket struct{ fd int }

// Of returns the socket of a connection, none when it is no plain one of TCP.
func Of(conn net.Conn) (s Socket) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return s
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { s.fd = int(fd) })
	}
	return s
}

// Exists reports whether s can be written to.
func (s Socket) Exists() bool { return s.fd > 0 }

// Write writes as much of queue as the socket takes, and returns how many bytes that is.
//
// The system call is not announced to the scheduler, as one that may wait is. It
// returns within microseconds, and there are tens of thousands of them a second.
func (s Socket) Write(queue [][]byte) (written int, err error) {
	for len(queue) > 0 {
		pieces, size := queue[:min(maxPieces, len(queue))], 0
		for _, b := range pieces {
			size += len(b)
		}
		n, errno := s.send(pieces)
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
func (s Socket) send(pieces [][]byte) (int, syscall.Errno) {
	const flags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
	if b := pieces[0]; len(pieces) == 1 {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		return int(n), errno
	}
	var vec [maxPieces]syscall.Iovec
	for i, b := range pieces {
		vec[i].Base = unsafe.SliceData(b)
		vec[i].SetLen(len(b))
	}
	message := syscall.Msghdr{Iov: &vec[0], Iovlen: uint64(len(pieces))}
	n, _, errno := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&message)), flags)
	return int(n), errno
}

// WriteAll writes all of queue, which it changes, to conn, whose socket s is, and waits
// for room under the write deadline. Writev of the net package would keep room for as many pieces.
func (s Socket) WriteAll(conn *net.TCPConn, queue [][]byte) (written int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	wait := raw.Write(func(uintptr) (done bool) {
		var n int
		n, err = s.Write(queue)
		written += n
		if queue, n = after(queue, n); len(queue) > 0 {
			queue[0] = queue[0][n:]
		}
		return err != nil || len(queue) == 0
	})
	return written, cmp.Or(err, wait)
}
