package stagetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/mediad/mediad/core/media"
)

// through is a middleware that does nothing but what its fault says.
type through struct {
	media.Reader
	fault string
	mu    sync.Mutex
	err   error // remembered, with a fault
}

func (f *through) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	src, err := f.Reader.Open(ctx, req)
	if err != nil && f.fault == "hides the reason" {
		return nil, errors.New("no")
	}
	if err != nil {
		return nil, err
	}
	return &throughSource{src, f}, nil
}

type throughSource struct {
	media.Source
	through *through
}

func (s *throughSource) Next(ctx context.Context) (*media.Batch, error) {
	if s.through.fault == "waits for ever" {
		ctx = context.WithoutCancel(ctx)
	}
	b, err := s.Source.Next(ctx)
	if s.through.fault == "remembers failures" {
		s.through.mu.Lock()
		defer s.through.mu.Unlock()
		if err != nil && err.Error() == "the disk is on fire" {
			s.through.err = err
		}
		err = errors.Join(err, s.through.err)
	}
	return b, err
}

func middleware(fault string) Middleware {
	return func(upstream media.Reader) (media.Reader, func() error, error) {
		return &through{Reader: upstream, fault: fault}, func() error { return nil }, nil
	}
}

func TestAMiddlewareThatDoesNothing(t *testing.T) { TestMiddleware(t, middleware("")) }

func TestMiddlewareChecksCanFail(t *testing.T) {
	for fault, check := range map[string]string{
		"hides the reason":   "an upstream that refuses",
		"remembers failures": "an upstream that fails midway, then heals",
	} {
		var failed []string
		_ = CheckMiddleware(t.Context(), middleware(fault), func(name string, err error) {
			if err != nil {
				failed = append(failed, name)
			}
		})
		if !slices.Contains(failed, check) {
			t.Errorf("%s: failed are %q, want %q among them", fault, failed, check)
		}
	}
}

// memory is a writer into a library.
type memory struct {
	Library
	mu      sync.Mutex
	fault   string
	failing bool
}

func (m *memory) fail() (func() error, error) {
	m.failing = true
	return func() error { m.failing = false; return nil }, nil
}

func (m *memory) Create(_ context.Context, req media.CreateRequest) (media.Sink, error) {
	if err := media.CheckName(req.Name); err != nil && m.fault != "any name" {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.Library[req.Name]; ok && m.fault != "overwrites" {
		return nil, media.ErrBusy
	}
	return &memorySink{memory: m, name: req.Name}, nil
}

func (m *memory) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Library.Open(ctx, req)
}

type memorySink struct {
	memory *memory
	name   string
	film   []*media.Batch
	closed bool
}

func (s *memorySink) Write(_ context.Context, b *media.Batch) error {
	switch {
	case s.closed && s.memory.fault != "writes on":
		return media.ErrClosed
	case s.memory.fault == "keeps the first header" && len(s.film) > 0:
		b = media.NewBatch(s.film[0].Header(), b.Prev(), b.Frames()...)
	case s.memory.fault == "changes batches":
		b.Frames()[0].Body[10]++
	case s.memory.fault == "refuses large" && len(b.Slab()) > 1<<20:
		return errors.New("too large")
	}
	if s.memory.failing && s.memory.fault == "hides that it failed" {
		return nil
	}
	if s.memory.failing {
		return errors.New("the storage is full")
	}
	s.film = append(s.film, b)
	return nil
}

func (s *memorySink) Close(ctx context.Context) error {
	if ctx.Err() != nil && s.memory.fault == "breaks when aborted" {
		s.film = append(s.film, s.film[len(s.film)-1])
	}
	if s.closed && s.memory.fault == "closes once" {
		return media.ErrClosed
	}
	s.closed = true
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	if s.memory.fault == "loses the end" && len(s.film) > 1 {
		s.film = s.film[:len(s.film)-1]
	}
	s.memory.Library[s.name] = s.film
	return nil
}

func writer(fault string) Writer {
	m := &memory{Library: Library{}, fault: fault}
	return Writer{m, "film", m, m.fail}
}

func TestAWriterThatKeepsTheContract(t *testing.T) { TestWriter(t, writer("")) }

func TestWriterChecksCanFail(t *testing.T) {
	for fault, check := range map[string]string{
		"loses the end":          "what is written can be read",
		"refuses large":          "huge frames",
		"keeps the first header": "a header that changes",
		"overwrites":             "a name twice",
		"any name":               "names that lead elsewhere",
		"closes once":            "Close twice",
		"writes on":              "Close twice",
		"changes batches":        "batches are left as they are",
		"breaks when aborted":    "a Close that may not wait",
		"hides that it failed":   "a storage that fails",
	} {
		var failed []string
		_ = CheckWriter(t.Context(), writer(fault), func(name string, err error) {
			if err != nil {
				failed = append(failed, name)
			}
		})
		if !slices.Contains(failed, check) {
			t.Errorf("%s: failed are %q, want %q among them", fault, failed, check)
		}
	}
}
