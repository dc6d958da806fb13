// Peers whose machine is gone.

package repeatertcp

import "syscall"

// userTimeout is TCP_USER_TIMEOUT (tcp(7)), which package syscall has not for all processors.
const userTimeout = 0x12

// limitSilence ends a connection when what was sent is not acknowledged in time, or
// not taken. Without it a peer whose machine is gone is noticed after a quarter of an hour.
func limitSilence(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(silence.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}
