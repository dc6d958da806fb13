// Ports that are a daemon's for as long as its test goes on, whether it listens or not.

package lab

import (
	"fmt"
	"os"
	"syscall"
)

// A Port is one of this machine's that nobody is given who asks for any. A daemon, which
// says that it does not mind (SO_REUSEADDR), may listen there, and again after its end.
type Port struct {
	Address string
	socket  int // bound, and not listening
}

// Reserve takes a free port until Release.
func Reserve() (Port, error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return Port{}, os.NewSyscallError("socket", err)
	}
	p := Port{socket: socket}
	err = syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	var name syscall.Sockaddr
	if err == nil {
		name, err = syscall.Getsockname(socket)
	}
	if err != nil {
		p.Release()
		return Port{}, fmt.Errorf("no port: %w", err)
	}
	p.Address = fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	return p, nil
}

// Release gives it back.
func (p Port) Release() { _ = syscall.Close(p.socket) }
