package film

import (
	"os"
	"syscall"
)

// stop stops the process as a debugger would: nothing in it runs any more.
func (f *Film) stop() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }
