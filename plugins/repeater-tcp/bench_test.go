// What the link costs beside a plain copy over TCP, and how much later frames come.

package repeatertcp

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus"
)

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs f, which moves size bytes b.N times, and reports seconds of CPU for each GB.
func measure(b *testing.B, size int64, f func(n int)) {
	b.Helper()
	b.SetBytes(size)
	b.ReportAllocs()
	before := cpu()
	b.ResetTimer()
	f(b.N)
	b.StopTimer()
	b.ReportMetric((cpu()-before).Seconds()/(float64(size)*float64(b.N)/1e9), "cpu-s/GB")
}

// reel repeats a film for ever.
type reel struct {
	film []*media.Batch
	live bool
}

func (r reel) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	return &reelSource{reel: r, name: req.Name}, nil
}

func (r reel) Cost(context.Context, media.OpenRequest) (media.Cost, error) {
	return media.Cost{Place: "memory", Base: 1}, nil
}

type reelSource struct {
	reel
	name string
	next int
}

func (s *reelSource) Info() media.Info { return media.Info{Name: s.name, Live: s.live} }
func (s *reelSource) Close() error     { return nil }
func (s *reelSource) Next(ctx context.Context) (*media.Batch, error) {
	b := s.film[s.next%len(s.film)]
	s.next++
	return b, ctx.Err()
}

// benchNode is newNode for a benchmark.
func benchNode(b *testing.B, values map[string]any, nodes stage.Nodes, inputs ...stage.Input) *repeater {
	b.Helper()
	s, stop, err := stagetest.Start(Kind(), values, stage.Env{
		Name: "bench", Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Nodes: nodes, Inputs: inputs})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stop() })
	return s.(*repeater)
}

// linked is two repeaters, the second of which reads from the first.
func linked(b *testing.B, in media.Reader, tls bool) *repeater {
	first, second := map[string]any{"plain": "true", "listen": "127.0.0.1:0"}, map[string]any{"plain": "true", "listen": ""}
	if tls {
		a := newAuthority(b)
		for _, values := range []map[string]any{first, second} {
			for k, v := range a.settings(b.TempDir(), "127.0.0.1") {
				values[k] = v
			}
		}
	}
	n := &node{name: "a"}
	benchNode(b, first, n, stage.Input{Name: "in", Reader: in})
	for n.at() == "" {
		time.Sleep(time.Millisecond)
	}
	second["peers"] = n.at()
	return benchNode(b, second, nil)
}

func benchmarkLink(b *testing.B, film []*media.Batch, live, tls bool) {
	r := linked(b, reel{film, live}, tls)
	src, err := r.Open(b.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	size := 0
	for _, batch := range film {
		size += bodies(batch)
	}
	measure(b, int64(size), func(n int) {
		for range n * len(film) {
			if _, err := src.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkGOPs sends a film of 5 Mbit/s in batches of a second, BenchmarkFrames frame by frame.
func BenchmarkGOPs(b *testing.B)    { benchmarkLink(b, stagetest.Film(16, 16000), false, false) }
func BenchmarkGOPsTLS(b *testing.B) { benchmarkLink(b, stagetest.Film(16, 16000), false, true) }
func BenchmarkFrames(b *testing.B)  { benchmarkLink(b, single(stagetest.Film(16, 16000)), true, false) }
func BenchmarkFramesTLS(b *testing.B) {
	benchmarkLink(b, single(stagetest.Film(16, 16000)), true, true)
}

// BenchmarkCopy is the least that it can cost: as many bytes over TCP, in writes of 256 KiB.
func BenchmarkCopy(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	size := 0
	for _, batch := range stagetest.Film(16, 16000) {
		size += bodies(batch)
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	measure(b, int64(size), func(n int) {
		sending.Go(func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			buf := make([]byte, nowait.MaxWrite)
			for left := n * size; left > 0; left -= len(buf) {
				if _, err := c.Write(buf[:min(left, len(buf))]); err != nil {
					return
				}
			}
		})
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		buf := make([]byte, nowait.MaxWrite)
		for left := n * size; left > 0; {
			m, err := io.ReadFull(c, buf[:min(left, len(buf))])
			if err != nil {
				b.Fatal(err)
			}
			left -= m
		}
	})
}

// BenchmarkLatency sends one frame after the other and takes the time until each is there.
func BenchmarkLatency(b *testing.B) {
	frame := single(stagetest.Film(1, 16000))[2]
	in := make(pipe)
	r := linked(b, in, false)
	src, err := r.Open(b.Context(), media.OpenRequest{Name: "show"})
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	var took []time.Duration
	measure(b, int64(bodies(frame)), func(n int) {
		for range n {
			began := time.Now()
			in <- frame
			if _, err := src.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(began))
		}
	})
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// A pipe is a channel that sends what is put into it.
type pipe chan *media.Batch

func (p pipe) Open(context.Context, media.OpenRequest) (media.Source, error) { return p, nil }
func (p pipe) Info() media.Info                                              { return media.Info{Name: "show", Live: true} }
func (p pipe) Close() error                                                  { return nil }
func (p pipe) Next(ctx context.Context) (*media.Batch, error) {
	select {
	case b := <-p:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
