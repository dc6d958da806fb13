package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// systemd stands in for the manager: it returns what it is told, in order.
func systemd(t *testing.T) (next func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		p := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(p)
		if err != nil {
			t.Fatalf("systemd was told nothing: %v", err)
		}
		return string(p[:n])
	}
}

func TestNotify(t *testing.T) {
	next := systemd(t)
	if err := notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "READY=1" {
		t.Errorf("told %q", got)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if err := notify("READY=1"); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("no manager there: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notify("READY=1"); err != nil {
		t.Errorf("nobody wants to know: %v", err)
	}
}

func TestWatchdog(t *testing.T) {
	next := systemd(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	ctx, stop := context.WithCancel(t.Context())
	looked := make(chan struct{}, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watchdog(ctx, func() { looked <- struct{}{} })
	}()
	for range 3 {
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
		<-looked
	}
	stop()
	<-ended
	t.Setenv("WATCHDOG_USEC", "")
	watchdog(t.Context(), nil) // returns, as nobody watches
}
