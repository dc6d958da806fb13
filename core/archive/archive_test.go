// The archiver on channels that a fake broadcast puts on air, into a fake writer.

package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broadcast is channels on air, each with all its batches kept.
type broadcast struct {
	mu       sync.Mutex
	channels map[string]*channel
	changed  chan struct{}
}

type channel struct {
	b       *broadcast
	batches []*media.Batch
	ended   bool
	wake    chan struct{}
	broken  error // what the next Next fails with
	path    []string
	opens   []time.Duration
}

func newBroadcast() *broadcast {
	return &broadcast{channels: map[string]*channel{}, changed: make(chan struct{})}
}

func (b *broadcast) on(name string) *channel {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &channel{b: b, wake: make(chan struct{})}
	b.channels[name] = c
	close(b.changed)
	b.changed = make(chan struct{})
	return c
}

func (b *broadcast) off(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.channels[name]
	delete(b.channels, name)
	close(b.changed)
	b.changed = make(chan struct{})
	c.ended = true
	c.wakeAll()
}

func (c *channel) wakeAll() {
	close(c.wake)
	c.wake = make(chan struct{})
}

func (c *channel) put(batches ...*media.Batch) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.batches = append(c.batches, batches...)
	c.wakeAll()
}

// fail lets all who read fail once.
func (c *channel) fail(err error) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.broken = err
	c.wakeAll()
}

func (b *broadcast) Watch() ([]string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name := range b.channels {
		names = append(names, name)
	}
	return names, b.changed
}

func (b *broadcast) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.channels[req.Name]
	if c == nil {
		return nil, media.ErrNotFound
	}
	c.opens = append(c.opens, req.From)
	s := &source{channel: c}
	for i, batch := range c.batches {
		if batch.Join() && batch.DTS() <= req.From {
			s.next = i
		}
	}
	return s, nil
}

type source struct {
	channel *channel
	next    int
	skips   int
	missed  int64
}

func (s *source) Info() media.Info { return media.Info{Live: true} }
func (s *source) Close() error     { return nil }
func (s *source) Skips() int       { return s.skips }
func (s *source) Missed() int64    { return s.missed }

func (s *source) Path() []string {
	s.channel.b.mu.Lock()
	defer s.channel.b.mu.Unlock()
	return s.channel.path
}

func (s *source) Buffered() int {
	s.channel.b.mu.Lock()
	defer s.channel.b.mu.Unlock()
	return len(s.channel.batches) - s.next
}

func (s *source) Next(ctx context.Context) (*media.Batch, error) {
	for {
		c := s.channel
		c.b.mu.Lock()
		wake := c.wake
		if err := c.broken; err != nil {
			c.broken = nil
			c.b.mu.Unlock()
			return nil, err
		}
		if s.next < len(c.batches) {
			b := c.batches[s.next]
			s.next++
			c.b.mu.Unlock()
			if b == nil { // stands for 10 frames that the channel did not keep
				s.skips++
				s.missed += 10
				continue
			}
			return b, nil
		}
		ended := c.ended
		c.b.mu.Unlock()
		if ended {
			return nil, io.EOF
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// shelf is a writer that keeps files in memory.
type shelf struct {
	mu    sync.Mutex
	files []*file
	full  error         // what Create and Write fail with
	gate  chan struct{} // what Write waits for, if any
	slow  time.Duration // how long Close takes
}

type file struct {
	shelf   *shelf
	name    string
	batches []*media.Batch
	closed  bool
}

func (s *shelf) Create(_ context.Context, req media.CreateRequest) (media.Sink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full != nil {
		return nil, s.full
	}
	f := &file{shelf: s, name: req.Name}
	s.files = append(s.files, f)
	return f, nil
}

func (f *file) Write(ctx context.Context, b *media.Batch) error {
	if f.shelf.gate != nil {
		<-f.shelf.gate
	}
	f.shelf.mu.Lock()
	defer f.shelf.mu.Unlock()
	if f.shelf.full != nil {
		return f.shelf.full
	}
	f.batches = append(f.batches, b)
	return ctx.Err()
}

func (f *file) Close(ctx context.Context) error {
	f.shelf.mu.Lock()
	slow := f.shelf.slow
	f.closed = true
	f.shelf.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (s *shelf) setFull(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = err
}

// names are the files, and whether all but the open ones are closed.
func (s *shelf) names() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, f := range s.files {
		name := f.name
		if !f.closed {
			name += " open"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func (s *shelf) batches() []*media.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*media.Batch
	for _, f := range s.files {
		all = append(all, f.batches...)
	}
	return all
}

// logged is what a test has logged.
type logged struct {
	mu sync.Mutex
	strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

func (l *logged) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.String(), s)
}

// run makes and serves an archiver until stop is called.
func run(t *testing.T, b *broadcast, s *shelf, change func(*Settings)) (a *Archiver, log *logged, stop func()) {
	t.Helper()
	return runInto(t, b, s, change)
}

func runInto(t *testing.T, b *broadcast, s media.Writer, change func(*Settings)) (a *Archiver, log *logged, stop func()) {
	t.Helper()
	settings := Kind().Settings().(*Settings)
	if change != nil {
		change(settings)
	}
	log = new(logged)
	a, err := New(stage.Env{
		Log:     hclog.New(&hclog.LoggerOptions{Output: log}),
		Metrics: prometheus.NewRegistry(),
		Inputs:  []stage.Input{{Name: "live/broadcast", Reader: b}},
		Output:  s,
		Drain:   10 * time.Second,
	}, *settings)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Serve(ctx) }()
	synctest.Wait()
	return a, log, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

var header = &media.Header{Video: media.Format{Codec: "h264", Config: []byte{1}}, Audio: media.Format{Codec: "aac", Config: []byte{2}}}

// at returns the batch of one frame at a time, a keyframe each two seconds.
func at(h *media.Header, dts time.Duration) *media.Batch {
	f := media.Frame{Track: media.Video, DTS: dts, PTS: dts, Key: dts%(2*time.Second) == 0, Body: fmt.Append(nil, dts)}
	return media.NewBatch(h, media.NoClock, f)
}

// play puts a frame on air each step for a time, and returns them.
func play(c *channel, from, d, step time.Duration) []*media.Batch {
	var all []*media.Batch
	for dts := from; dts < from+d; dts += step {
		b := at(header, dts)
		all = append(all, b)
		c.put(b)
		time.Sleep(step)
	}
	synctest.Wait()
	return all
}

// A day in files of an hour: each begins with the first keyframe of its hour, and
// together they have every frame once.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("demo")
		start := time.Now()
		a, _, stop := run(t, b, s, nil)
		time.Sleep(11*time.Minute + 300*time.Millisecond)
		want := play(c, 0, 24*time.Hour, 500*time.Millisecond)
		stop()
		if got := s.batches(); !slices.Equal(got, want) {
			t.Errorf("%d batches in the files, want %d", len(got), len(want))
		}
		if len(s.files) != 25 {
			t.Fatalf("files: %s", s.names())
		}
		for i, f := range s.files {
			if !f.closed || !f.batches[0].Join() {
				t.Errorf("%s: closed %v, begins with a keyframe %v", f.name, f.closed, f.batches[0].Join())
			}
			if first := f.batches[0].DTS(); i > 0 && (first+11*time.Minute)%time.Hour > 2*time.Second {
				t.Errorf("%s begins at %v", f.name, first)
			}
		}
		if name := start.Add(11*time.Minute).Format("demo/2006-01-02/15-04") + "-00.flv"; s.files[0].name != name {
			t.Errorf("the first is called %s, want %s", s.files[0].name, name)
		}
		if n := testutil.ToFloat64(a.metrics.frames); n != float64(len(want)) {
			t.Errorf("%v frames counted", n)
		}
	})
}

func TestChannelsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("news/a")
		first := []*media.Batch{at(header, 0), at(header, time.Second)}
		c.put(first...) // before the archiver: it is in the window
		_, _, stop := run(t, b, s, func(s *Settings) { s.Channels = []string{"news/*"}; s.Path = "{channel}" })
		b.on("other/b").put(at(header, 0))
		b.on("news/c").put(at(header, 0))
		synctest.Wait()
		if got := s.batches(); !slices.Equal(got[:2], first) {
			t.Errorf("what was on air before is not recorded: %s", s.names())
		}
		b.off("news/a")
		b.on("news/a").put(at(header, 0))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := s.names(); got != "news/a, news/c open, news/a open" {
			t.Errorf("files: %s", got)
		}
		b.off("news/c")
		synctest.Wait()
		if got := s.names(); got != "news/a, news/c, news/a open" {
			t.Errorf("files: %s", got)
		}
		stop()
	})
}

// A channel that has moved to another node is recorded there, and here no more.
func TestMovedChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("demo")
		_, log, stop := run(t, b, s, func(s *Settings) { s.Path = "{channel}" })
		c.put(at(header, 0))
		synctest.Wait()
		b.mu.Lock()
		c.path = []string{"other", "here"}
		delete(b.channels, "demo") // from the listing
		b.mu.Unlock()
		c.put(at(header, time.Second))
		time.Sleep(5 * time.Second)
		if got := s.names(); got != "demo" || len(s.batches()) != 1 || log.count("another node's") != 1 {
			t.Errorf("files: %s, %d batches", got, len(s.batches()))
		}
		stop()
	})
}

// What is there when the stage is to stop is still recorded.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), &shelf{gate: make(chan struct{})}
		c := b.on("demo")
		a, _, stop := run(t, b, s, nil)
		for i := range 101 {
			c.put(at(header, time.Duration(i)*time.Second))
		}
		time.Sleep(3 * time.Second)
		if lag := a.lag(); lag != 3*time.Second {
			t.Errorf("the lag is %v", lag)
		}
		time.AfterFunc(time.Second, func() { close(s.gate) })
		stop()
		if n := len(s.batches()); n != 101 || !s.files[0].closed {
			t.Errorf("%d batches of 101 are recorded: %s", n, s.names())
		}
	})
}

func TestDrainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), &shelf{slow: time.Hour}
		b.on("demo").put(at(header, 0))
		a, _, stop := run(t, b, s, nil)
		start := time.Now()
		stop()
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("stopped after %v", d)
		}
		if testutil.ToFloat64(a.metrics.unfinished) != 1 {
			t.Error("the unfinished file is not counted")
		}
	})
}

func TestT50_CodecChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("demo")
		_, _, stop := run(t, b, s, func(s *Settings) { s.Path = "x" })
		video := &media.Header{Video: header.Video}
		meta := &media.Header{Meta: []byte{1}, Video: header.Video, Audio: header.Audio}
		other := &media.Header{Video: header.Video, Audio: media.Format{Codec: "aac", Config: []byte{3}}}
		// A track that comes later and other metadata are no change. A change
		// between keyframes waits for the next.
		for i, h := range []*media.Header{video, header, header, meta, meta, other, other} {
			c.put(at(h, time.Duration(i)*time.Second))
		}
		stop()
		if len(s.files) != 2 || len(s.files[0].batches) != 6 || len(s.files[1].batches) != 1 {
			t.Errorf("files: %s", s.names())
		}
	})
}

// A full disk costs what comes until there is room again, and one line.
func TestT55_DiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("demo")
		a, log, stop := run(t, b, s, nil)
		before := play(c, 0, 20*time.Second, 500*time.Millisecond)
		s.setFull(fmt.Errorf("recording demo: %w", media.ErrFull))
		lost := play(c, 20*time.Second, 20*time.Minute, 500*time.Millisecond)
		s.setFull(nil)
		after := play(c, 20*time.Second+20*time.Minute, time.Minute, 500*time.Millisecond)
		stop()
		got := s.batches()
		more := len(got) - len(before)
		if !slices.Equal(got[:len(before)], before) || more < len(after)/2 || !slices.Equal(got[len(before):], after[len(after)-more:]) {
			t.Errorf("%d batches are recorded, %d before the disk was full", len(got), len(before))
		}
		if n := testutil.ToFloat64(a.metrics.lost.WithLabelValues("full")); n != float64(len(lost)+len(after)-more) {
			t.Errorf("%v frames counted as lost, want %d", n, len(lost)+len(after)-more)
		}
		if log.count("recording has failed") != 1 || log.count("goes well again") != 1 {
			t.Errorf("log:\n%s", log.String())
		}
		if !s.files[1].batches[0].Join() {
			t.Error("it goes on without a keyframe")
		}
	})
}

// An error that comes and goes is one line for as long as it does.
func TestT56_Flapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("demo")
		a, log, stop := run(t, b, s, nil)
		for i := range 60 {
			s.setFull(nil)
			if i%2 == 1 {
				s.setFull(syscall.EIO)
			}
			play(c, time.Duration(i)*4*time.Second, 4*time.Second, 500*time.Millisecond)
		}
		stop()
		if n := log.count("recording has failed"); n != 1 {
			t.Errorf("%d lines:\n%s", n, log.String())
		}
		lost := testutil.ToFloat64(a.metrics.lost.WithLabelValues("writer"))
		if n := float64(len(s.batches())); n+lost != 60*8 || n < 30 {
			t.Errorf("%v frames recorded, %v lost", n, lost)
		}
	})
}

// A source that breaks is opened again, and nothing is recorded twice.
func TestReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("demo")
		_, _, stop := run(t, b, s, nil)
		want := play(c, 0, 11*time.Second, 500*time.Millisecond)
		c.fail(errors.New("link lost"))
		want = append(want, play(c, 11*time.Second, 10*time.Second, 500*time.Millisecond)...)
		stop()
		if got := s.batches(); !slices.Equal(got, want) {
			t.Errorf("%d batches, want %d", len(got), len(want))
		}
		if len(c.opens) != 2 || c.opens[1] != 10500*time.Millisecond || len(s.files) != 1 {
			t.Errorf("opened at %v, files: %s", c.opens, s.names())
		}
	})
}

func TestT56_TooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("demo")
		a, log, stop := run(t, b, s, nil)
		c.put(at(header, 0), nil, at(header, 4*time.Second), nil, at(header, 10*time.Second))
		stop()
		if n := testutil.ToFloat64(a.metrics.lost.WithLabelValues("slow")); n != 20 || log.count("too slow") != 1 {
			t.Errorf("%v frames lost, log:\n%s", n, log.String())
		}
		if len(s.batches()) != 3 {
			t.Errorf("%d batches", len(s.batches()))
		}
	})
}

// The files of one hour that comes twice, and after a clock step.
func TestT58_Boundaries(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return at.In(berlin)
	}
	for _, c := range []struct {
		at     string
		rotate time.Duration
		want   string
	}{
		{"2026-06-01T10:20:30+02:00", time.Hour, "2026-06-01T11:00:00+02:00"},
		{"2026-06-01T10:00:00+02:00", time.Hour, "2026-06-01T11:00:00+02:00"},
		{"2026-06-01T10:20:30+02:00", 15 * time.Minute, "2026-06-01T10:30:00+02:00"},
		{"2026-06-01T10:20:30+02:00", 24 * time.Hour, "2026-06-02T00:00:00+02:00"},
		{"2026-03-29T01:20:00+01:00", time.Hour, "2026-03-29T03:00:00+02:00"}, // forward
		{"2026-03-28T10:00:00+01:00", 24 * time.Hour, "2026-03-29T00:00:00+01:00"},
		{"2026-03-29T00:30:00+01:00", 24 * time.Hour, "2026-03-30T00:00:00+02:00"},
		{"2026-03-29T01:20:00+01:00", 2 * time.Hour, "2026-03-29T03:00:00+02:00"},
		{"2026-10-25T02:20:00+02:00", time.Hour, "2026-10-25T02:00:00+01:00"}, // back
		{"2026-10-25T02:20:00+01:00", time.Hour, "2026-10-25T03:00:00+01:00"},
		{"2026-10-25T00:30:00+02:00", 24 * time.Hour, "2026-10-26T00:00:00+01:00"},
		{"2026-10-25T02:20:00+02:00", 2 * time.Hour, "2026-10-25T04:00:00+01:00"},
	} {
		if got := boundary(parse(c.at), c.rotate).Format(time.RFC3339); got != c.want {
			t.Errorf("%s, each %v: %s, want %s", c.at, c.rotate, got, c.want)
		}
	}
	r := &recorder{sink: new(file), header: header, opened: parse("2026-06-01T10:20:00+02:00"), until: parse("2026-06-01T11:00:00+02:00")}
	for clock, want := range map[string]bool{"2026-06-01T10:20:00+02:00": false, "2026-06-01T10:59:59+02:00": false,
		"2026-06-01T11:00:00+02:00": true, "2026-06-02T00:00:00+02:00": true, "2026-06-01T10:19:59+02:00": true} {
		r.aired = parse(clock)
		if got := r.due(header); got != want {
			t.Errorf("at %s a new file begins: %v", clock, got)
		}
	}
}

func TestTemplate(t *testing.T) {
	when := time.Date(2026, 7, 8, 9, 10, 11, 0, time.UTC)
	for path, want := range map[string]string{
		"{channel}/{2006-01-02}/{15-04-05}.flv": "a/b/2026-07-08/09-10-11.flv",
		"{2006}/{01}/{channel}-{02}":            "2026/07/a/b-08",
		"fixed.flv":                             "fixed.flv",
	} {
		tmpl, err := parseTemplate(path, "")
		if err != nil || tmpl.name("a/b", when) != want {
			t.Errorf("%s: %s, %v", path, tmpl.name("a/b", when), err)
		}
	}
	for path, want := range map[string]string{
		"{channel}/{2006-01-02}/{15-04-05}.flv": "a/b/2026-07-08/09-10-11_west.flv",
		"{node}/{channel}/{15-04-05}.flv":       "west/a/b/09-10-11.flv",
		"{channel}/{2006}":                      "a/b/2026_west",
	} {
		tmpl, err := parseTemplate(path, "west")
		if err != nil || tmpl.name("a/b", when) != want {
			t.Errorf("in a cluster, %s: %s, %v", path, tmpl.name("a/b", when), err)
		}
	}
	for path, says := range map[string]string{
		"":                       "empty",
		"{chanel}.flv":           "neither {channel}",
		"{channel":               "without its }",
		"channel}":               "without its {",
		"/{channel}.flv":         "path element",
		"../{channel}.flv":       "path element",
		"{channel}/{15:04:05}":   "character",
		"{channel}//{2006}":      "path element",
		"{channel}/{}.flv":       "neither",
		"a}{channel}/{2006}.flv": "without its {",
	} {
		s := &Settings{Path: path}
		var wrong *stage.SettingError
		if err := s.Check(); !errors.As(err, &wrong) || wrong.Setting != "path" || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestSettings(t *testing.T) {
	k := Kind()
	if _, err := k.Decode(nil); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for setting, value := range map[string]string{"rotate": "1ms", "channels": "[", "path": "{"} {
		var wrong *stage.SettingError
		if _, err := k.Decode(map[string]any{setting: value}); !errors.As(err, &wrong) || wrong.Setting != setting {
			t.Errorf("%s: %v", setting, err)
		}
	}
	_, err := New(stage.Env{Inputs: []stage.Input{{Name: "vod/broker", Reader: struct{ media.Reader }{}}}}, *k.Settings().(*Settings))
	if err == nil || !strings.Contains(err.Error(), "vod/broker") {
		t.Errorf("a reader without a listing: %v", err)
	}
}
