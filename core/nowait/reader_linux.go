// Reading by system calls of our own, when the net package says that there is something.

package nowait

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// A reader does not announce its system calls to the scheduler: none of them waits, and one
// that is announced wakes the runtime's watchdog (sysmon), which then looks at the processors
// each 20 us for a while. With a read for each frame of a publisher that was a fifteenth of all
// CPU time.
type reader struct {
	raw syscall.RawConn
	try func(fd uintptr) (done bool) // a field, so that a Read allocates nothing

	p     []byte
	n     int
	errno syscall.Errno
}

// Reader returns what reads from conn as conn itself does, deadlines and all, at less cost
// where that is a plain socket of TCP. It is for one goroutine.
func Reader(conn net.Conn) io.Reader {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	r := &reader{raw: raw}
	r.try = r.once
	return r
}

func (r *reader) Read(p []byte) (int, error) {
	r.p = p
	err := r.raw.Read(r.try)
	r.p = nil
	switch {
	case err != nil:
		return 0, err
	case r.errno != 0:
		return 0, os.NewSyscallError("read", r.errno)
	case r.n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return r.n, nil
}

func (r *reader) once(fd uintptr) (done bool) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(r.p))), uintptr(len(r.p)))
		if errno == syscall.EINTR {
			continue
		}
		r.n, r.errno = int(n), errno
		return errno != syscall.EAGAIN
	}
}
