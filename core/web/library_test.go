package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// readSample reads the batches of the sample that mediad comes with: 12 s of H.264 and AAC.
var readSample = sync.OnceValues(func() ([]*media.Batch, error) {
	data, err := os.ReadFile("../../media/sample.flv")
	if err != nil {
		return nil, err
	}
	file := memory(data)
	index, err := flv.ReadIndex(context.Background(), file)
	if err != nil {
		return nil, err
	}
	var batches []*media.Batch
	for next := index.Batches(file, 0); ; {
		b, err := next(context.Background())
		if errors.Is(err, io.EOF) {
			return batches, nil
		}
		if err != nil {
			return nil, err
		}
		batches = append(batches, b)
	}
})

func sampleFilm(t testing.TB) []*media.Batch {
	t.Helper()
	batches, err := readSample()
	if err != nil {
		t.Fatal(err)
	}
	return batches
}

type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, off)
}

// A library is a reader of films, and of a channel, by name.
type library struct {
	mu    sync.Mutex
	films map[string][]*media.Batch
	live  bool             // the films are live, and do not end
	err   map[string]error // of Open
	away  error            // of Open, for clients that can follow
	opens int
}

func (l *library) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opens++
	if err := l.err[req.Name]; err != nil {
		return nil, err
	}
	if l.away != nil && req.Redirects {
		return nil, l.away
	}
	film, ok := l.films[req.Name]
	if !ok || req.LiveOnly && !l.live || req.RecordedOnly && l.live {
		return nil, fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
	}
	at := 0
	for i, b := range film {
		if b.Join() && b.DTS() <= req.From {
			at = i
		}
	}
	info := media.Info{Name: req.Name, Live: l.live, Start: film[0].DTS()}
	if !l.live {
		info.Version = fmt.Sprintf("%p", film)
	}
	return &playing{info: info, batches: film[at:], closed: make(chan struct{})}, nil
}

type playing struct {
	info    media.Info
	batches []*media.Batch
	once    sync.Once
	closed  chan struct{}
}

func (p *playing) Info() media.Info { return p.info }
func (p *playing) Buffered() int    { return len(p.batches) }

func (p *playing) Next(ctx context.Context) (*media.Batch, error) {
	if len(p.batches) == 0 {
		if !p.info.Live {
			return nil, io.EOF
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.closed:
			return nil, media.ErrClosed
		}
	}
	b := p.batches[0]
	p.batches = p.batches[1:]
	return b, nil
}

func (p *playing) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// A player does to its viewer what a test wants, in a goroutine of its own.
type player struct {
	viewer stream.Viewer
	script func(v stream.Viewer, r stream.Request)
	done   sync.WaitGroup
}

func (p *player) Play(r stream.Request)     { p.done.Go(func() { p.script(p.viewer, r) }) }
func (p *player) Close()                    { p.done.Wait() }
func (p *player) Pause(bool, time.Duration) {}
func (p *player) Seek(time.Duration)        {}
func (p *player) Buffer(time.Duration)      {}
func (p *player) Receive(media.Track, bool) {}

// playAll writes the film and tells its end.
func playAll(film []*media.Batch) func(stream.Viewer, stream.Request) {
	return func(v stream.Viewer, _ stream.Request) {
		for _, b := range film {
			if v.Write([]*media.Batch{b}) != nil {
				return
			}
		}
		v.Status(stream.Status{Level: "status", Code: "NetStream.Play.Stop"})
	}
}

// serve runs a server with the app "a", and returns its URL.
func serve(t *testing.T, limits Limits, lib *library, script func(stream.Viewer, stream.Request)) (string, *Server, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	s := New(Options{Limits: limits, Metrics: registry})
	w := Watch{Forms: []Form{FLV, HLS, MP4}, NewPlayer: func(v stream.Viewer) stream.Player {
		return &player{viewer: v, script: script}
	}}
	if lib != nil {
		w.Reader = lib
	}
	if _, err := s.HandleWatch("a", w); err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		listener.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return listener.URL, s, registry
}

// get returns the status and the body of a URL.
func get(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v after %d bytes", url, err, len(body))
	}
	return resp, string(body)
}

// gauge returns the sum of the series of a metric.
func gauge(t *testing.T, r *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}
