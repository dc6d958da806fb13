//go:build !linux

package rtmp

import (
	"errors"
	"net"
)

// A prompt exists on Linux only. Elsewhere each viewer is written to by its own
// goroutine.
type prompt struct{}

func newPrompt(net.Conn) *prompt { return nil }

func (*prompt) write([][]byte) (int, error) { return 0, errors.ErrUnsupported }
