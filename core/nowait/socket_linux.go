// Package nowait writes to sockets without waiting for them. The net package cannot: its
// Write returns when all is written.
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
		var pieces [64]syscall.Iovec
		count, size := 0, 0
		for count < min(len(pieces), len(queue)) {
			b := queue[count]
			pieces[count].Base = unsafe.SliceData(b)
			pieces[count].SetLen(len(b))
			size += len(b)
			count++
		}
		message := syscall.Msghdr{Iov: &pieces[0], Iovlen: uint64(count)}
		n, _, errno := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&message)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return written, nil
		case errno != 0:
			return written, errno
		}
		written += int(n)
		if int(n) < size { // the socket is full
			return written, nil
		}
		queue = queue[count:]
	}
	return written, nil
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
		if queue, n = After(queue, n); len(queue) > 0 {
			queue[0] = queue[0][n:]
		}
		return err != nil || len(queue) == 0
	})
	return written, cmp.Or(err, wait)
}
