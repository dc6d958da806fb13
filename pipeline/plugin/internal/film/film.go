// Package film is a stage kind for the tests of plugins: a reader of made-up media that
// can do all that a plugin should not.
package film

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// Settings of the kind.
type Settings struct {
	GOPs    int           `set:"gops" doc:"length of the media"`
	Size    stage.Size    `set:"size" doc:"bytes of each frame"`
	Tick    time.Duration `set:"tick" doc:"time between live frames"`
	Once    string        `set:"once" doc:"a file: what is bad is done only if it cannot be found, and leaves it"`
	Refuse  string        `set:"refuse" doc:"what is wrong with the settings"`
	Tags    []string      `set:"tags" doc:"does nothing"`
	Noise   int           `set:"noise" doc:"MiB of garbage on standard output after the start"`
	Version string        `set:"version" doc:"of the media; pid: that of the process"`
}

// Kind describes it.
func Kind() stage.Kind {
	return stage.Kind{
		Name:    "film",
		Summary: "Plays made-up media.",
		Settings: func() any {
			return &Settings{GOPs: 5, Size: 100, Tick: 5 * time.Millisecond, Tags: []string{"a", "b"}, Version: "1"}
		},
		Ports: stage.Ports{ProvidesReader: true, ProvidesWriter: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			s := settings.(*Settings)
			if s.Refuse != "" {
				return nil, stage.Wrong("refuse", "%s", s.Refuse)
			}
			opens := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mediad_film_opens_total", Help: "Opens."}, []string{"name"})
			if err := env.Metrics.Register(opens); err != nil {
				return nil, err
			}
			return &Film{Settings: *s, env: env, opens: opens, sinks: map[string]*Sink{}}, nil
		},
	}
}

// Film is the stage.
type Film struct {
	Settings
	env   stage.Env
	opens *prometheus.CounterVec

	mu    sync.Mutex
	sinks map[string]*Sink
	hog   [][]byte
}

// Serve waits for ctx to end.
func (f *Film) Serve(ctx context.Context) error {
	f.env.Log.Info("film is served", "pid", os.Getpid())
	if f.Noise > 0 {
		out := os.NewFile(1, "stdout")
		line := []byte(strings.Repeat("garbage ", 1<<17))
		for range f.Noise {
			_, _ = out.Write(line)
		}
	}
	<-ctx.Done()
	return nil
}

// once reports whether what is bad is to be done.
func (f *Film) once() bool {
	if f.Once == "" {
		return true
	}
	file, err := os.OpenFile(f.Once, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false
	}
	_ = file.Close()
	return true
}

// Batches are those of the media: gops GOPs of a second, every other one in two batches.
func Batches(gops, size int) []*media.Batch {
	h := &media.Header{
		Meta:  []byte("meta"),
		Video: media.Format{Codec: "h264", Config: []byte("avcC")},
		Audio: media.Format{Codec: "aac", Config: []byte("asc")},
	}
	b := media.NewBuilder(media.NoClock)
	var list []*media.Batch
	n := 0
	add := func(track media.Track, key bool, dts time.Duration) {
		n++
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(n + i)
		}
		b.Copy(media.Frame{Track: track, Key: key, DTS: dts, PTS: dts + 40*time.Millisecond, Body: body})
	}
	for gop := range gops {
		at := time.Duration(gop) * time.Second
		for i := range 10 {
			at := at + time.Duration(i)*100*time.Millisecond
			add(media.Video, i == 0, at)
			add(media.Audio, false, at)
			if i == 4 && gop%2 == 1 {
				list = append(list, b.Batch(h))
			}
		}
		list = append(list, b.Batch(h))
	}
	return list
}

// Open opens "film", "live", or media that are some trouble.
func (f *Film) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	f.opens.WithLabelValues(req.Name).Inc()
	r := &reel{film: f, name: req.Name, info: media.Info{Name: req.Name, Version: f.Version}, closed: make(chan struct{})}
	if f.Version == "pid" {
		r.info.Version = strconv.Itoa(os.Getpid())
	}
	switch req.Name {
	case "film", "crash", "hang", "slow":
		r.batches = Batches(f.GOPs, int(f.Size))
		at := 0
		for i, b := range r.batches {
			if b.Join() && b.DTS() <= req.From {
				at = i
			}
		}
		r.batches = r.batches[at:]
	case "live":
		r.info.Live = true
	case "hang-open":
		select {}
	case "panic":
		panic("boom in Open")
	case "exit":
		fmt.Fprintln(os.Stderr, "[WARN] about to leave")
		os.Exit(7)
	case "stuck":
		f.stop()
		select {}
	case "hog":
		if f.once() {
			for range 64 {
				b := make([]byte, 4<<20)
				for i := range b {
					b[i] = byte(i)
				}
				f.hog = append(f.hog, b)
			}
		}
		return nil, fmt.Errorf("hog: %w", media.ErrNotFound)
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case "denied":
		return nil, fmt.Errorf("no: %w", media.ErrDenied)
	case "unavailable":
		return nil, fmt.Errorf("no: %w", media.ErrUnavailable)
	case "elsewhere":
		return nil, &media.RedirectError{URL: "rtmp://other/vod/film"}
	default:
		return nil, fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
	}
	return r, nil
}

// Cost implements media.Coster.
func (f *Film) Cost(_ context.Context, req media.OpenRequest) (media.Cost, error) {
	if req.Name != "film" {
		return media.Cost{}, fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
	}
	return media.Cost{Place: "disk", Base: media.CostDisk, Load: 0.5}, nil
}

// Watch is a listing of one.
func (f *Film) Watch() ([]string, <-chan struct{}) { return []string{"live"}, nil }

type reel struct {
	film    *Film
	name    string
	info    media.Info
	batches []*media.Batch
	read    int
	live    *media.Builder

	once   sync.Once
	closed chan struct{}
}

func (r *reel) Info() media.Info { return r.info }

func (r *reel) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

func (r *reel) Next(ctx context.Context) (*media.Batch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.read++; r.read == 4 && r.film.once() {
		switch r.name {
		case "crash":
			for _, err := os.Stat(r.film.Once + ".go"); err != nil; _, err = os.Stat(r.film.Once + ".go") {
				time.Sleep(time.Millisecond)
			}
			panic("boom in Next")
		case "slow":
			<-ctx.Done()
			return nil, ctx.Err()
		case "hang":
			select {}
		}
	}
	if r.info.Live {
		return r.tick(ctx)
	}
	if len(r.batches) == 0 {
		return nil, io.EOF
	}
	b := r.batches[0]
	r.batches = r.batches[1:]
	return b, nil
}

// tick makes a live frame that carries the time at which it was made.
func (r *reel) tick(ctx context.Context) (*media.Batch, error) {
	timer := time.NewTimer(r.film.Tick)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.closed:
		return nil, media.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.live == nil {
		r.live = media.NewBuilder(media.NoClock)
	}
	now := time.Now()
	dts := time.Duration(now.UnixNano())
	r.live.Copy(media.Frame{Track: media.Audio, DTS: dts, PTS: dts, Body: make([]byte, max(1, int(r.film.Size)))})
	return r.live.Batch(liveHeader), nil
}

var liveHeader = &media.Header{Audio: media.Format{Codec: "aac"}}

// Create keeps what is written in memory. "full" fails at the third batch, "lost" is taken
// over at it, "crash" panics at it, "doomed" too and then again and again, "taken" is busy.
func (f *Film) Create(_ context.Context, req media.CreateRequest) (media.Sink, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.Name == "taken" {
		return nil, fmt.Errorf("taken: %w", media.ErrBusy)
	}
	s := &Sink{name: req.Name, done: make(chan struct{})}
	if req.Append && req.Name == "doomed" {
		s.batches = 2
	}
	f.sinks[req.Name] = s
	return s, nil
}

// Sink takes and counts.
type Sink struct {
	name    string
	batches int
	once    sync.Once
	done    chan struct{}
}

// Write implements media.Sink.
func (s *Sink) Write(_ context.Context, _ *media.Batch) error {
	if s.batches++; s.batches < 3 {
		return nil
	}
	switch s.name {
	case "full":
		return fmt.Errorf("the disk is full: %w", media.ErrUnavailable)
	case "lost":
		s.once.Do(func() { close(s.done) })
	case "crash", "doomed":
		panic("boom in Write")
	case "hang":
		select {}
	}
	return nil
}

// Close implements media.Sink.
func (s *Sink) Close(context.Context) error {
	if s.name == "badend" {
		return fmt.Errorf("cannot be committed: %w", media.ErrUnavailable)
	}
	return nil
}

// Resume implements what ingest asks for.
func (s *Sink) Resume() (time.Duration, bool) { return 42 * time.Second, s.name == "again" }

// Done is closed when the sink is lost.
func (s *Sink) Done() <-chan struct{} { return s.done }

// Err says why.
func (s *Sink) Err() error { return fmt.Errorf("lost: %w", media.ErrTakenOver) }
