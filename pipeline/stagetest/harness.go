// A harness around one stage: batches are pushed into it and pulled out of it one
// by one. In a bubble of testing/synctest its clock is a fake one.

package stagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/dump"
)

// A Harness has one stage between the test and the test. What the stage reads or
// is written is pushed; what it can be read from or writes is pulled.
type Harness struct {
	Stage stage.Stage

	t      *testing.T
	ports  stage.Ports
	name   string
	feed   *feed        // what the stage reads
	sink   media.Sink   // where the stage is written, from the first Push on
	source media.Source // where the stage is read, from the first Pull on
	tray   chan *media.Batch
	began  time.Time
	text   bytes.Buffer // what was pulled
	lines  *dump.Printer
}

// NewHarness makes and serves a stage of the kind. All media are called name. It
// is stopped when the test ends.
func NewHarness(t *testing.T, k stage.Kind, settings map[string]any, name string) *Harness {
	t.Helper()
	h := &Harness{
		t:     t,
		ports: k.Ports,
		name:  name,
		feed:  &feed{name: name, more: make(chan struct{})},
		tray:  make(chan *media.Batch, 1024),
		began: time.Now(),
	}
	h.lines = dump.NewPrinter(&h.text)
	env := stage.Env{Name: "test/" + k.Name, Log: hclog.NewNullLogger()}
	if k.NeedsReader != stage.None {
		env.Inputs = []stage.Input{{Name: "test/harness", Reader: h.feed}}
	}
	if k.NeedsWriter {
		env.Output = h
	}
	made, stop, err := Start(k, settings, env)
	if err != nil {
		t.Fatal(err)
	}
	h.Stage = made
	t.Cleanup(func() {
		if h.source != nil {
			h.source.Close()
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// Push gives the stage a batch: to its sink, or to the media that it reads.
func (h *Harness) Push(b *media.Batch) {
	h.t.Helper()
	if !h.ports.ProvidesWriter {
		h.feed.push(b)
		return
	}
	if h.sink == nil {
		sink, err := h.Stage.(media.Writer).Create(h.t.Context(), media.CreateRequest{Name: h.name})
		if err != nil {
			h.t.Fatal(err)
		}
		h.sink = sink
	}
	if err := h.sink.Write(h.t.Context(), b); err != nil {
		h.t.Fatal(err)
	}
}

// End ends what is pushed.
func (h *Harness) End() {
	h.t.Helper()
	h.feed.end()
	if h.sink != nil {
		if err := h.sink.Close(h.t.Context()); err != nil {
			h.t.Error(err)
		}
	}
}

// Pull waits for the next batch that the stage gives, from the start of the media, or writes.
// It returns nil at the end.
func (h *Harness) Pull() *media.Batch {
	h.t.Helper()
	b, err := h.pull()
	if errors.Is(err, io.EOF) {
		fmt.Fprintf(&h.text, "+%v end\n", time.Since(h.began))
		return nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	fmt.Fprintf(&h.text, "+%v\n", time.Since(h.began))
	if err := h.lines.Print(b); err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *Harness) pull() (*media.Batch, error) {
	if h.ports.NeedsWriter {
		select {
		case b, ok := <-h.tray:
			if !ok {
				return nil, io.EOF
			}
			return b, nil
		case <-h.t.Context().Done():
			return nil, h.t.Context().Err()
		}
	}
	if h.source == nil {
		source, err := h.Stage.(media.Reader).Open(h.t.Context(), media.OpenRequest{Name: h.name})
		if err != nil {
			return nil, err
		}
		h.source = source
	}
	return h.source.Next(h.t.Context())
}

// Golden compares all that was pulled, with the times at which it came, with a
// file of testdata; UPDATE_GOLDEN=1 in the environment writes it anew.
func (h *Harness) Golden(path string) {
	h.t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, h.text.Bytes(), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	if !bytes.Equal(h.text.Bytes(), want) {
		h.t.Errorf("not as in %s (UPDATE_GOLDEN=1 writes it anew):\n%s", path, h.text.String())
	}
}

// Create implements media.Writer for a stage that writes.
func (h *Harness) Create(context.Context, media.CreateRequest) (media.Sink, error) { return h, nil }

// Write implements media.Sink.
func (h *Harness) Write(ctx context.Context, b *media.Batch) error {
	select {
	case h.tray <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close implements media.Sink.
func (h *Harness) Close(context.Context) error {
	close(h.tray)
	return nil
}

// A feed is a reader of media that are being pushed: recorded media that take
// their time.
type feed struct {
	name string

	mu      sync.Mutex
	batches []*media.Batch
	ended   bool
	more    chan struct{} // closed and replaced by push and end
}

func (f *feed) push(b *media.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches = append(f.batches, b)
	close(f.more)
	f.more = make(chan struct{})
}

func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	close(f.more)
	f.more = make(chan struct{})
}

// Open implements media.Reader, from the start.
func (f *feed) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	if req.Name != f.name || req.LiveOnly {
		return nil, fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
	}
	return &feedSource{feed: f, closed: make(chan struct{})}, nil
}

type feedSource struct {
	feed   *feed
	next   int
	once   sync.Once
	closed chan struct{}
}

func (s *feedSource) Info() media.Info { return media.Info{Name: s.feed.name, Version: "1"} }

func (s *feedSource) Next(ctx context.Context) (*media.Batch, error) {
	for {
		s.feed.mu.Lock()
		more, ended := s.feed.more, s.feed.ended
		if s.next < len(s.feed.batches) {
			b := s.feed.batches[s.next]
			s.next++
			s.feed.mu.Unlock()
			return b, nil
		}
		s.feed.mu.Unlock()
		if ended {
			return nil, io.EOF
		}
		select {
		case <-more:
		case <-s.closed:
			return nil, media.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *feedSource) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}
