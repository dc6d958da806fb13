package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/lab"
)

func TestGarbagePercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 100}, {100 << 20, 100}, {256 << 20, 50}, {512 << 20, 25}, {8 << 30, 25}} {
		if got := garbagePercent(c.live); got != c.want {
			t.Errorf("with %d bytes in use it is %d, want %d", c.live, got, c.want)
		}
	}
}

func TestBoundGarbage(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	becomes := func(want int) {
		t.Helper()
		runtime.GC()
		lab.Await(t, fmt.Sprintf("garbage is to be %d percent", want), func() error {
			now := []metrics.Sample{{Name: "/gc/gogc:percent"}}
			metrics.Read(now)
			if got := int(now[0].Value.Uint64()); got < want-15 || got > want {
				return fmt.Errorf("it is %d", got)
			}
			return nil
		})
	}
	t.Setenv("GOGC", "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		boundGarbage(ctx, time.Millisecond)
	}()
	kept := make([]byte, 256<<20)
	becomes(50)
	runtime.KeepAlive(kept)
	becomes(100)
	cancel()
	<-done
	t.Setenv("GOGC", "100")
	boundGarbage(t.Context(), time.Hour) // leaves what was set
}
