package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
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

var errDown = fmt.Errorf("no route: %w", media.ErrUnavailable)

// reader is an input with one piece of media, or an error instead.
type reader struct {
	cost    media.Cost
	costErr error
	openErr error
	info    media.Info
	frames  []media.Frame
	gather  int   // frames in a batch, at most
	failAt  int   // the batch that fails, when readErr is set
	readErr error // wrapped by what Next returns
	opened  int
	silent  bool // never tells its cost
}

func (r *reader) Cost(ctx context.Context, _ media.OpenRequest) (media.Cost, error) {
	if r.silent {
		<-ctx.Done()
		return media.Cost{}, ctx.Err()
	}
	return r.cost, r.costErr
}

func (r *reader) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	r.opened++
	if r.openErr != nil {
		return nil, r.openErr
	}
	start := 0
	for i, f := range r.frames {
		if f.Key && f.DTS <= req.From {
			start = i
		}
	}
	return &readerSource{r: r, rest: r.frames[start:]}, nil
}

type readerSource struct {
	r    *reader
	rest []media.Frame
	n    int
}

func (s *readerSource) Info() media.Info { return s.r.info }
func (s *readerSource) Close() error     { return nil }

var avc = &media.Header{Video: media.Format{Codec: "h264"}}

func (s *readerSource) Next(ctx context.Context) (*media.Batch, error) {
	if s.r.readErr != nil && s.n == s.r.failAt {
		return nil, s.r.readErr
	}
	if len(s.rest) == 0 {
		return nil, io.EOF
	}
	n := 1
	for n < len(s.rest) && n < s.r.gather && !s.rest[n].Key {
		n++
	}
	b := media.NewBatch(avc, media.NoClock, s.rest[:n]...)
	s.rest = s.rest[n:]
	s.n++
	return b, nil
}

// film is n frames of 40 ms, with a keyframe every 5.
func film(n int) []media.Frame {
	var list []media.Frame
	for i := range n {
		at := time.Duration(i) * 40 * time.Millisecond
		list = append(list, media.Frame{Track: media.Video, Key: i%5 == 0, DTS: at, PTS: at, Body: make([]byte, 10+i)})
	}
	return list
}

func at(place string, base, load float64) *reader {
	return &reader{
		cost:   media.Cost{Place: place, Base: base, Load: load},
		info:   media.Info{Name: "film", Version: "1", Live: place == "live"},
		frames: film(30), gather: 5,
	}
}

func down(err error) *reader { return &reader{openErr: err} }

func lacks(err error) *reader { return &reader{costErr: err, openErr: err} }

func with(readers ...*reader) *broker {
	var inputs []stage.Input
	for i, r := range readers {
		inputs = append(inputs, stage.Input{Name: fmt.Sprint("in/", i), Reader: r})
	}
	return newBroker(stage.Env{Name: "test/broker", Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Inputs: inputs}, defaults())
}

var request = media.OpenRequest{Name: "film"}

func TestOpenChooses(t *testing.T) {
	redirect := &media.RedirectError{URL: "rtmp://b/vod/film"}
	for _, c := range []struct {
		name    string
		readers []*reader
		req     media.OpenRequest
		want    int // the input that served
		is      error
		not     error
		says    string
	}{
		{name: "the cheapest", readers: []*reader{at("http", 200, 0), at("disk", 10, 0), at("memory", 20, 0)}, want: 1},
		{name: "load counts", readers: []*reader{at("disk", 10, 0.9), at("disk", 30, 0)}, want: 1},
		{name: "the first of equals", readers: []*reader{at("disk", 10, 0), at("disk", 10, 0)}, want: 0},
		{name: "overloaded", readers: []*reader{at("disk", 10, 0.95), at("http", 2000, 0)}, want: 1},
		{name: "all overloaded", readers: []*reader{at("disk", 10, 0.99)}, is: media.ErrUnavailable, says: "overloaded"},
		{name: "the next on error", readers: []*reader{down(errDown), at("http", 200, 0)}, want: 1},
		{name: "live wins", readers: []*reader{at("memory", 1, 0), at("live", 10, 0)}, want: 1},
		{name: "not found by all", readers: []*reader{lacks(media.ErrNotFound), lacks(media.ErrNotFound)}, is: media.ErrNotFound},
		{name: "one is unavailable", readers: []*reader{lacks(media.ErrNotFound), down(errDown)}, is: media.ErrUnavailable, not: media.ErrNotFound, says: "in/1"},
		{name: "denied", readers: []*reader{lacks(media.ErrNotFound), lacks(media.ErrDenied)}, is: media.ErrDenied, not: media.ErrNotFound},
		{name: "redirected", readers: []*reader{lacks(redirect), down(errDown)}, is: redirect},
		{name: "redirect not needed", readers: []*reader{lacks(redirect), at("http", 200, 0)}, want: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := with(c.readers...)
			src, err := b.Open(t.Context(), request)
			if c.is != nil {
				if !errors.Is(err, c.is) || c.not != nil && errors.Is(err, c.not) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("got %v, want %v and %q", err, c.is, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = src.Close()
			if n := testutil.ToFloat64(b.metrics.opens.WithLabelValues(fmt.Sprint("in/", c.want))); n != 1 {
				t.Errorf("it was not input %d that served", c.want)
			}
		})
	}
}

func TestWaitsForLive(t *testing.T) {
	live := at("live", 10, 0)
	live.costErr = media.ErrNotFound // not on air, but its Open waits
	if _, err := with(live).Open(t.Context(), request); err != nil {
		t.Error(err)
	}
	if _, err := with(live).Open(t.Context(), media.OpenRequest{Name: "film", RecordedOnly: true}); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("recorded only: %v", err)
	}
}

func TestT31_SilentInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		src, err := with(&reader{silent: true}, at("http", 200, 0)).Open(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		_ = src.Close()
		if d := time.Since(start); d != askTimeout {
			t.Errorf("took %s, want %s", d, askTimeout)
		}
	})
}

// Where there is no other, an input is opened that has told no cost.
func TestT36_OnlyInputIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		only := at("disk", 10, 0)
		only.silent = true
		src, err := with(only).Open(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		_ = src.Close()
	})
}

func TestT33_BackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := at("disk", 10, 0), at("http", 200, 0)
		bad.openErr = errDown
		b := with(bad, good)
		open := func() {
			t.Helper()
			if _, err := b.Open(t.Context(), request); err != nil {
				t.Fatal(err)
			}
		}
		open()
		open()
		if bad.opened != 1 {
			t.Errorf("opened %d times, want 1 before its rest is over", bad.opened)
		}
		for range 20 {
			time.Sleep(maxRest)
			open()
		}
		if rest := b.inputs[0].backoff.rest; rest != maxRest {
			t.Errorf("rests %s after many failures, want %s", rest, maxRest)
		}
		time.Sleep(maxRest)
		bad.openErr = nil
		open()
		if b.inputs[0].backoff.rest != 0 {
			t.Error("a success does not end the back-off")
		}
	})
}

func TestExplain(t *testing.T) {
	b := with(at("http", 200, 0), at("disk", 10, 0.5), lacks(media.ErrNotFound), at("disk", 10, 0.99))
	list, err := b.Explain(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range list {
		got = append(got, fmt.Sprintf("%s %.0f %v", c.Source, c.Total, c.Chosen))
	}
	want := "[in/1 15 true in/0 200 false in/2 0 false in/3 505 false]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if !strings.Contains(list[2].Note, "not found") || !strings.Contains(list[3].Note, "overloaded") {
		t.Errorf("the notes are %q and %q", list[2].Note, list[3].Note)
	}
	cost, err := b.Cost(t.Context(), request)
	if err != nil || cost.Base != 10 {
		t.Errorf("cost is %+v, %v", cost, err)
	}
}

// TestResume lets inputs that divide the film differently fail at random, and wants each frame once.
func TestResume(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		first, second := at("disk", 10, 0), at("http", 200, 0)
		first.gather, second.gather = 1+r.IntN(6), 1+r.IntN(6)
		first.readErr, first.failAt = errDown, r.IntN(10)
		b := with(first, second)
		from := time.Duration(r.IntN(30)) * 40 * time.Millisecond
		src, err := b.Open(t.Context(), media.OpenRequest{Name: "film", From: from})
		if err != nil {
			t.Fatal(err)
		}
		want := film(30)
		want = want[int(from/(40*time.Millisecond))/5*5:]
		for {
			batch, err := src.Next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for _, f := range batch.Frames() {
				if len(want) == 0 || f.Track != want[0].Track || f.DTS != want[0].DTS || !bytes.Equal(f.Body, want[0].Body) {
					t.Fatalf("seed %d: frame at %s, %d are left", seed, f.DTS, len(want))
				}
				want = want[1:]
			}
		}
		if len(want) > 0 {
			t.Fatalf("seed %d: %d frames are missing", seed, len(want))
		}
		_ = src.Close()
	}
}

func TestResumeRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(first, second *reader)
		is     error
	}{
		{"another version", func(_, second *reader) { second.info.Version = "2" }, media.ErrUnavailable},
		{"other frames", func(_, second *reader) { second.frames[1].Body = nil }, media.ErrUnavailable},
		{"a later start", func(_, second *reader) { second.frames = second.frames[5:] }, media.ErrUnavailable},
		{"a short copy", func(_, second *reader) { second.frames = second.frames[:1] }, media.ErrUnavailable},
		{"changed content", func(first, _ *reader) { first.readErr = media.ErrChanged }, media.ErrChanged},
		{"live", func(first, _ *reader) { first.info.Live = true }, media.ErrUnavailable},
		{"no version", func(first, _ *reader) { first.info.Version = "" }, media.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, second := at("disk", 10, 0), at("http", 200, 0)
			first.gather, first.failAt, first.readErr = 2, 1, errDown
			c.change(first, second)
			src, err := with(first, second).Open(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := src.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := src.Next(t.Context()); !errors.Is(err, c.is) {
				t.Errorf("got %v, want %v", err, c.is)
			}
			_ = src.Close()
			if _, err := src.Next(t.Context()); err == nil {
				t.Error("read after Close")
			}
		})
	}
}

func TestDecisions(t *testing.T) {
	b := with(at("disk", media.CostDisk, 0), at("memory", media.CostMemory, 0))
	for range maxDecisions + 1 {
		src, err := b.Open(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		_ = src.Close()
	}
	list := b.Decisions()
	if len(list) != maxDecisions {
		t.Fatalf("%d decisions are remembered, want %d", len(list), maxDecisions)
	}
	d := list[0]
	if d.Name != request.Name || len(d.Candidates) != 2 || d.Time.Before(list[1].Time) || d.Error != "" {
		t.Fatalf("the newest is %+v", d)
	}
	if first, second := d.Candidates[0], d.Candidates[1]; first.Source != "in/1" || !first.Chosen || first.Total != 1 || second.Chosen {
		t.Errorf("candidates %+v", d.Candidates)
	}
	b = with(down(errDown))
	_, _ = b.Open(t.Context(), request)
	if d := b.Decisions()[0]; d.Error == "" || d.Candidates[0].Chosen {
		t.Errorf("of an open that failed: %+v", d)
	}
}
