// How much garbage may lie about before it is collected.

package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Go by itself collects when there is as much garbage as there is in use: a daemon that keeps 4 GB of
// media would take 8. But media are large pieces without pointers, which cost a collection next to
// nothing, so that it may come sooner the more there is: beyond spareGarbage garbage is at most
// leastPercent of what is in use.
const (
	spareGarbage = 128 << 20 // bytes
	leastPercent = 25
)

// garbagePercent is what GOGC is to be when so many bytes are in use.
func garbagePercent(live uint64) int {
	if live <= spareGarbage {
		return 100
	}
	return max(leastPercent, int(100*spareGarbage/live))
}

// boundGarbage sets that at each interval until ctx ends. Whoever has set GOGC is left alone.
func boundGarbage(ctx context.Context, interval time.Duration) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}} // at the end of the last collection
	for percent := 100; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(live)
		if next := garbagePercent(live[0].Value.Uint64()); max(next-percent, percent-next) >= 5 {
			percent = next
			debug.SetGCPercent(percent) // stops the world for some microseconds
		}
	}
}
