// Live: the fan-out of one stream, to those who take it, to those who do not, and
// to those who come all at once.

package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

func atFloor(gather int) func(context.Context, string) (*server, error) {
	return func(ctx context.Context, dir string) (*server, error) { return startFloor(ctx, dir, gather) }
}

func mediad(settings string, env ...string) func(context.Context, string) (*server, error) {
	return func(ctx context.Context, dir string) (*server, error) {
		return startMediad(ctx, dir, settings, env...)
	}
}

// overHTTP is the contender whose viewers do not come by RTMP.
const overHTTP = "mediad HTTP-FLV"

var liveContenders = []contender{
	{"floor, a write per message", "", atFloor(0)},
	{"floor, gathered 100 ms", "", atFloor(100)},
	{"floor, gathered 350 ms", "", atFloor(350)},
	{"nginx-rtmp", "floor, a write per message", startNginx},
	{"mediad", "floor, a write per message", mediad("")},
	{"mediad latency 0", "floor, a write per message", mediad("latency: 0s")},
	{"mediad latency 100ms", "floor, gathered 100 ms", mediad("latency: 100ms")},
	{"mediad latency 350ms", "floor, gathered 350 ms", mediad("latency: 350ms")},
	{overHTTP, "floor, a write per message", mediad("")},
	{"mediad GOMEMLIMIT 256MiB", "floor, a write per message", mediad("", "GOMEMLIMIT=256MiB")},
}

// live measures the fan-out of one live stream to n viewers.
func (b *bench) live(ctx context.Context, n int) error {
	fmt.Printf("\nLive, %d viewers of 2.1 Mbit/s\n\n", n)
	fmt.Println("| server | CPU s/GB | of nginx-rtmp's | of the floor's | missing | p50 ms | p99 ms | max ms | resident MB | join p50 ms | join p95 ms | GB |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	lines := map[string]line{}
	for _, c := range liveContenders {
		if !b.wanted(c.name) {
			continue
		}
		j := job{Address: rtmpAddress, App: "live", Publishers: 1, Viewers: n, Joiners: b.joiners, Warm: 3 * time.Second, Time: b.time}
		if j.Floor = c.floor == ""; j.Floor {
			j.Joiners, j.Publishers = 0, 0 // it keeps nothing for them, and sends what it makes
		}
		if c.name == overHTTP {
			j.FLV = httpAddress
		}
		l, err := b.measure(ctx, c, look{}, j)
		if err != nil {
			return err
		}
		lines[c.name] = l
		fmt.Printf("| %s | %.3f | %s | %s | %d | %.1f | %.1f | %.1f | %.0f | %.0f | %.0f | %.2f |\n", c.name, l.cpu,
			ratio(l, lines["nginx-rtmp"]), ratio(l, lines[c.floor]), l.Missing+int64(l.Lost), l.P50, l.P99, l.Max,
			l.resident, l.JoinP50, l.JoinP95, l.gigabytes())
	}
	return nil
}

var bothLive = []contender{
	{"nginx-rtmp", "", startNginx},
	{"mediad", "", mediad("")},
}

// stuck measures what the kernel holds for 100 viewers who read slowly and then
// not at all, among 100 who do. mediad keeps 5 s here, so that there is time for both.
func (b *bench) stuck(ctx context.Context) error {
	const slow, stuck = 14 * time.Second, 14 * time.Second
	fmt.Printf("\nStuck viewers: 100 of 200 read 60 kB/s for %v and then nothing for %v\n\n", slow, stuck)
	fmt.Println("| server | CPU s/GB | missing | p99 ms of the others | skips | ended as slow | resets seen | kernel MB for all 200, most | after that |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, c := range bothLive {
		if !b.wanted(c.name) {
			continue
		}
		for range 600 { // of the server before
			if kernelMemory(ctx) == 0 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		var most, last, skips, ended float64
		l, err := b.measure(ctx, c, look{often: true, at: func(s *server) {
			last = kernelMemory(ctx)
			most = max(most, last)
			skips, ended = s.metric(ctx, "mediad_stream_skips_total"), s.metric(ctx, `mediad_rtmp_closed_total{cause="slow"}`)
		}}, job{Address: rtmpAddress, App: "live", Publishers: 1, Viewers: 100, Stuck: 100, Warm: 2 * time.Second, Time: slow + stuck})
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %.3f | %d | %.1f | %.0f | %.0f, %d in the log | %d | %.1f | %.1f |\n", c.name, l.cpu, l.Missing+int64(l.Lost), l.P99,
			skips, ended, strings.Count(l.server.log.String(), "cause=slow"), l.Resets, most/1e6, last/1e6)
	}
	return nil
}

// storm measures what 1000 joiners in a second do to 1000 who watch.
func (b *bench) storm(ctx context.Context) error {
	fmt.Print("\nJoin storm: 1000 join within a second while 1000 watch; of these\n\n")
	fmt.Println("| server | missing | skips | p50 ms | p99 ms | max ms | join p50 ms | join p95 ms |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, c := range bothLive {
		if !b.wanted(c.name) {
			continue
		}
		var skips float64
		l, err := b.measure(ctx, c, look{at: func(s *server) { skips = s.metric(ctx, "mediad_stream_skips_total") }},
			job{Address: rtmpAddress, App: "live", Publishers: 1, Viewers: 1000, Storm: 1000, Warm: 3 * time.Second, Time: 2 * time.Second})
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %d | %.0f | %.1f | %.1f | %.1f | %.0f | %.0f |\n", c.name, l.Missing+int64(l.Lost), skips,
			l.P50, l.P99, l.Max, l.JoinP50, l.JoinP95)
	}
	return nil
}
