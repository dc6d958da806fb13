// What systemd is told of the daemon (sd_notify(3)): that it is ready, alive, or stopping.

package main

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"
)

// notify sends a state to systemd, when it has started the daemon and wants to know.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if path[0] == '@' { // a name in the abstract namespace
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // a datagram has been sent or has not
	_, err = conn.Write([]byte(state))
	return err
}

// watchdog tells systemd twice in each of its intervals that the daemon is alive, as long
// as alive returns, until ctx ends. systemd kills a daemon that it does not hear of.
func watchdog(ctx context.Context, alive func()) {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return
	}
	tick := time.NewTicker(max(time.Duration(usec)*time.Microsecond/2, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			alive()
			_ = notify("WATCHDOG=1") // the next one may get through
		case <-ctx.Done():
			return
		}
	}
}
