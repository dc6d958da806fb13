// Command bench measures what it costs that a reader runs in a process of its own,
// beside the same reader in this process and beside plain protobuf.
//
//	go run ./pipeline/plugin/bench [-gb 4]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin"
	"github.com/mediad/mediad/pipeline/plugin/host"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "serve":
		plugin.Serve(kind())
		return
	case len(os.Args) > 2 && os.Args[1] == "plain":
		check(servePlain(os.Args[2]))
		return
	}
	gb := flag.Float64("gb", 4, "how much to read, in GB")
	flag.Parse()
	bytes := int64(*gb * 1e9)

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "batches of\tGB/s\tCPU s per GB, both sides")
	for _, shape := range shapes {
		name := shape.name
		row(w, name+", in this process, one copy", bytes, copying{(&reader{}).open(name)}, nil)
		r, stop, err := startPlugin()
		check(err)
		src, err := r.Open(context.Background(), media.OpenRequest{Name: name})
		check(err)
		row(w, name+", in a plugin", bytes, src, stop)
		src, stop, err = startPlain(name)
		check(err)
		row(w, name+", plain protobuf", bytes, src, stop)
	}
	check(w.Flush())

	fmt.Fprintln(w, "\nlive, a frame each ms\tp50\tp99\tlargest")
	latency(w, "in this process", (&reader{}).open("live"))
	r, stop, err := startPlugin()
	check(err)
	src, err := r.Open(context.Background(), media.OpenRequest{Name: "live"})
	check(err)
	latency(w, "in a plugin", src)
	stop()
	check(w.Flush())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// shapes of batches.
var shapes = []struct {
	name        string
	frames      int
	least, most int // bytes of a frame
}{
	{"64 frames of 4 to 16 KB", 64, 4 << 10, 16 << 10},
	{"100 frames of 0.2 to 40 KB", 100, 200, 40 << 10},
	{"1 frame of 4 KB", 1, 4 << 10, 4 << 10},
}

// kind is a reader of made-up media without an end.
func kind() stage.Kind {
	return stage.Kind{
		Name:    "bench",
		Summary: "Reads made-up media.",
		Ports:   stage.Ports{ProvidesReader: true},
		New:     func(stage.Env, any) (stage.Stage, error) { return &reader{}, nil },
	}
}

type reader struct{ stage.Passive }

func (r *reader) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	return r.open(req.Name), ctx.Err()
}

func (*reader) open(name string) media.Source {
	if name == "live" {
		return &live{tick: time.NewTicker(time.Millisecond), builder: media.NewBuilder(media.NoClock)}
	}
	var s endless
	for _, shape := range shapes {
		if shape.name == name {
			for range 16 {
				s.batches = append(s.batches, batch(shape.frames, shape.least, shape.most))
			}
		}
	}
	return &s
}

var header = &media.Header{Video: media.Format{Codec: "h264", Config: make([]byte, 50)}}

func batch(frames, least, most int) *media.Batch {
	b := media.NewBuilder(media.NoClock)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range frames {
		at := time.Duration(i) * 40 * time.Millisecond
		body := make([]byte, least+rng.IntN(most-least+1))
		b.Copy(media.Frame{Track: media.Video, Key: i == 0, DTS: at, PTS: at, Body: body})
	}
	return b.Batch(header)
}

// endless gives the same batches over and over.
type endless struct {
	batches []*media.Batch
	next    int
}

func (*endless) Info() media.Info { return media.Info{} }
func (*endless) Close() error     { return nil }
func (s *endless) Next(ctx context.Context) (*media.Batch, error) {
	s.next = (s.next + 1) % len(s.batches)
	return s.batches[s.next], ctx.Err()
}

// copying makes each batch anew, as a reader does that reads them from somewhere.
type copying struct{ media.Source }

func (c copying) Next(ctx context.Context) (*media.Batch, error) {
	b, err := c.Source.Next(ctx)
	if err != nil {
		return nil, err
	}
	return media.NewBatch(b.Header(), b.Prev(), b.Frames()...), nil
}

// live gives a frame each millisecond, whose DTS is the time of day.
type live struct {
	tick    *time.Ticker
	builder *media.Builder
}

func (*live) Info() media.Info { return media.Info{Live: true} }
func (s *live) Close() error   { s.tick.Stop(); return nil }
func (s *live) Next(ctx context.Context) (*media.Batch, error) {
	select {
	case <-s.tick.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.builder.Copy(media.Frame{Track: media.Audio, DTS: time.Duration(time.Now().UnixNano()), Body: make([]byte, 4096)})
	return s.builder.Batch(header), nil
}

func startPlugin() (media.Reader, func(), error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn})
	k, err := host.Kind(context.Background(), host.Binary{Name: "bench", Path: self, Args: []string{"serve"}}, log)
	if err != nil {
		return nil, nil, err
	}
	made, err := k.New(stage.Env{Name: "bench", Log: log, Metrics: prometheus.NewRegistry()}, nil)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- made.Serve(ctx) }()
	return made.(media.Reader), func() {
		cancel()
		check(<-served)
	}, nil
}

// row reads bytes from src and prints how that went. The process that src comes
// from, if any, is ended by stop, and its CPU time counted.
func row(w io.Writer, name string, bytes int64, src media.Source, stop func()) {
	ctx := context.Background()
	self, children := used(syscall.RUSAGE_SELF), used(syscall.RUSAGE_CHILDREN)
	began := time.Now()
	var n int64
	var kept [][]*media.Batch // the last 64 MB, as a cache would
	for n < bytes {
		var some []*media.Batch
		for size := 0; size < 4e6; {
			b, err := src.Next(ctx)
			check(err)
			some = append(some, b)
			size += b.Size()
			for _, f := range b.Frames() {
				n += int64(len(f.Body))
			}
		}
		if kept = append(kept, some); len(kept) > 16 {
			kept = kept[1:]
		}
	}
	took := time.Since(began)
	cpu := used(syscall.RUSAGE_SELF) - self
	check(src.Close())
	if stop != nil {
		stop()
		cpu += used(syscall.RUSAGE_CHILDREN) - children
	}
	gb := float64(n) / 1e9
	fmt.Fprintf(w, "%s\t%.2f\t%.2f\n", name, gb/took.Seconds(), cpu.Seconds()/gb)
}

// used is the CPU time of this process or of the children that have ended.
func used(who int) time.Duration {
	var u syscall.Rusage
	check(syscall.Getrusage(who, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// latency prints how long frames take to come.
func latency(w io.Writer, name string, src media.Source) {
	var took []time.Duration
	for range 5000 {
		b, err := src.Next(context.Background())
		check(err)
		took = append(took, time.Duration(time.Now().UnixNano())-b.DTS())
	}
	check(src.Close())
	slices.Sort(took)
	n := len(took)
	fmt.Fprintf(w, "%s\t%v\t%v\t%v\n", name, took[n/2], took[n*99/100], took[n-1])
}

var errPlain = errors.New("the plain server sent something that is no batch")
