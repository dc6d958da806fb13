package host

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin/internal/film"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func create(t *testing.T, w media.Writer, name string) media.Sink {
	t.Helper()
	sink, err := w.Create(t.Context(), media.CreateRequest{Name: name, Info: media.Info{Name: name}})
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

// writeAll writes batches until one fails.
func writeAll(t *testing.T, sink media.Sink, batches []*media.Batch) (int, error) {
	for i, b := range batches {
		if err := sink.Write(t.Context(), b); err != nil {
			return i, err
		}
	}
	return len(batches), nil
}

func TestWriterOverTheWire(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	batches := film.Batches(5, 100)

	if _, err := s.Create(t.Context(), media.CreateRequest{Name: "taken"}); !errors.Is(err, media.ErrBusy) {
		t.Errorf("taken: %v", err)
	}
	sink := create(t, s, "again")
	if at, ok := sink.(interface {
		Resume() (time.Duration, bool)
	}).Resume(); !ok || at != 42*time.Second {
		t.Errorf("Resume: %v, %v", at, ok)
	}
	if _, err := writeAll(t, sink, batches); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := sink.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
	}

	sink = create(t, s, "full")
	if n, err := writeAll(t, sink, batches); n != 2 || !errors.Is(err, media.ErrUnavailable) || err.Error() != "the disk is full: unavailable" {
		t.Errorf("full: batch %d: %v", n, err)
	}
	if err := sink.Close(t.Context()); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("Close of what failed: %v", err)
	}

	sink = create(t, s, "badend")
	if err := sink.Close(t.Context()); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("badend: %v", err)
	}

	sink = create(t, s, "lost")
	loser := sink.(interface {
		Done() <-chan struct{}
		Err() error
	})
	_, _ = writeAll(t, sink, batches)
	<-loser.Done()
	if err := loser.Err(); !errors.Is(err, media.ErrTakenOver) {
		t.Errorf("lost: %v", err)
	}
	if err := sink.Close(t.Context()); err != nil {
		t.Errorf("Close of what was lost: %v", err)
	}
}

func TestT36_WriterCrashes(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	batches := film.Batches(5, 100)
	sink := create(t, s, "crash") // at each third batch of a process
	if n, err := writeAll(t, sink, batches); err != nil {
		t.Errorf("batch %d: %v", n, err)
	}
	if err := sink.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := testutil.ToFloat64(s.metrics.resumes); n != float64((len(batches)-1)/2) {
		t.Errorf("resumed %v times for %d batches", n, len(batches))
	}
	contains(t, errors.New(s.log.String()), "sink resumed", filmPath, "panic: boom in Write")
}

// What no process can write, or hangs each, is an error, and no other sink's.
func TestT36_WriterCrashesAgainAndAgain(t *testing.T) {
	patient := quick
	patient.failures = 10
	s := run(t, Binary{}, patient, stage.Env{}, nil)
	for name, want := range map[string]string{"doomed": "panic: boom in Write", "hang": "no answer to Write within 2s"} {
		sink := create(t, s, name)
		n, err := writeAll(t, sink, film.Batches(5, 100))
		if n != 2 || !errors.Is(err, media.ErrUnavailable) {
			t.Errorf("%s: batch %d: %v", name, n, err)
		}
		contains(t, err, filmPath, want)
		_ = sink.Close(t.Context())
	}
	sink := create(t, s, "again") // in a new process
	if err := sink.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// recorder is a writer in this process that keeps what is written. While it is
// held it takes nothing.
type recorder struct {
	held chan struct{} // closed when it is not

	mu      sync.Mutex
	name    string
	batches []*media.Batch
	closed  bool
}

func (r *recorder) Create(_ context.Context, req media.CreateRequest) (media.Sink, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name = req.Name
	return r, nil
}

func (r *recorder) Write(ctx context.Context, b *media.Batch) error {
	select {
	case <-r.held:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, b)
	return nil
}

func (r *recorder) Close(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}

func (r *recorder) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// TestNeighbours runs a plugin between a reader and a writer of the daemon.
func TestNeighbours(t *testing.T) {
	settings := film.Kind().Settings()
	input, err := film.Kind().New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, settings)
	if err != nil {
		t.Fatal(err)
	}
	output := &recorder{held: make(chan struct{})}
	close(output.held)
	env := stage.Env{Inputs: []stage.Input{{Name: "a/film", Reader: input.(media.Reader)}}, Output: output}
	s := run(t, Binary{Path: filmPath, Args: []string{"pass"}}, quick, env, nil)
	stagetest.TestReader(t, stagetest.Reader{Reader: s, Name: "film", Missing: "none"})
	eventually(t, "the copy is complete", output.isClosed)
	got, want := frames(output.batches), frames(film.Batches(5, 100))
	if output.name != "copy" || len(got) != len(want) {
		t.Errorf("%d frames of %q were written, want %d of copy", len(got), output.name, len(want))
	}
}

// TestT41_SlowPlugin has a plugin that takes nothing from a channel for a while: the
// publisher does not wait, nothing piles up, and the plugin goes on at a keyframe.
func TestT41_SlowPlugin(t *testing.T) {
	channels, err := broadcast.New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()},
		broadcast.Settings{Window: time.Minute, Memory: 4 << 20, Wait: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	output := &recorder{held: make(chan struct{})}
	env := stage.Env{Inputs: []stage.Input{{Name: "live/broadcast", Reader: channels}}, Output: output}
	s := run(t, Binary{Path: filmPath, Args: []string{"pass"}}, quick, env, map[string]any{"play": "show"})
	sink := create(t, channels, "show")
	eventually(t, "the plugin watches", func() bool { return channels.ListChannels()[0].Readers == 1 })
	published := film.Batches(20, 64<<10) // 25 MiB
	if _, err := writeAll(t, sink, published); err != nil {
		t.Fatal(err)
	}
	close(output.held)
	if err := sink.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the copy ends", output.isClosed)
	got := output.batches
	if len(got) == 0 || len(got) >= len(published) {
		t.Fatalf("%d of %d batches were written", len(got), len(published))
	}
	last := media.None
	for i, b := range got {
		if gap := i > 0 && b.Prev().Max() != last; gap && !b.Join() {
			t.Errorf("batch %d comes after a gap and is no join point", i)
		}
		fs := b.Frames()
		last = fs[len(fs)-1].DTS
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}
