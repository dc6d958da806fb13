package playout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

var header = &media.Header{Video: media.Format{Codec: "h264"}}

// library is a Reader in which every name but "missing" has two batches of two
// frames, 100 ms apart, that begin at 5 s.
type library struct{}

func (library) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	if req.Name == "missing" {
		return nil, media.ErrNotFound
	}
	return &film{name: req.Name}, nil
}

type film struct {
	name string
	next int
}

func (f *film) Info() media.Info { return media.Info{Name: f.name, Start: 5 * time.Second} }
func (f *film) Close() error     { return nil }
func (f *film) Next(context.Context) (*media.Batch, error) {
	if f.next == 4 {
		return nil, io.EOF
	}
	var frames []media.Frame
	for range 2 {
		at := 5*time.Second + time.Duration(f.next)*100*time.Millisecond
		frames = append(frames, media.Frame{Track: media.Video, Key: f.next%2 == 0, DTS: at, PTS: at, Body: fmt.Appendf(nil, "%s%d", f.name, f.next)})
		f.next++
	}
	return media.NewBatch(header, media.NoClock, frames...), nil
}

// channel is a Writer that notes what is written and when.
type channel struct {
	began time.Time
	busy  int // how often the name is taken
	lines []string
	stop  func()
	until int
}

func (c *channel) Create(_ context.Context, req media.CreateRequest) (media.Sink, error) {
	if c.busy > 0 {
		c.busy--
		return nil, media.ErrBusy
	}
	c.lines = append(c.lines, "create "+req.Name)
	return c, nil
}

func (c *channel) Write(_ context.Context, b *media.Batch) error {
	f := b.Frames()[0]
	c.lines = append(c.lines, fmt.Sprintf("%s at %v, dts %v, key %v, %d frame", f.Body, time.Since(c.began), f.DTS, f.Key, len(b.Frames())))
	if len(c.lines) > c.until {
		c.stop()
	}
	return nil
}

func (c *channel) Close(context.Context) error {
	c.lines = append(c.lines, "close")
	return nil
}

func run(t *testing.T, s Settings, c *channel) string {
	return runLogged(t, s, c, io.Discard)
}

func runLogged(t *testing.T, s Settings, c *channel, log io.Writer) string {
	ctx, cancel := context.WithCancel(t.Context())
	c.began, c.stop = time.Now(), cancel
	p, err := New(stage.Env{
		Log:     hclog.New(&hclog.LoggerOptions{Output: log}),
		Metrics: prometheus.NewRegistry(),
		Inputs:  []stage.Input{{Reader: library{}}},
		Output:  c,
	}, s)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(time.Hour, cancel)
	if err := p.Serve(ctx); err != nil {
		t.Error(err)
	}
	return strings.Join(c.lines, "\n")
}

func TestPlaysInRealTimeAndLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := run(t, Settings{Play: []string{"a", "missing", "b"}, As: "demo", Loop: true}, &channel{until: 9})
		want := `create demo
a0 at 0s, dts 0s, key true, 1 frame
a1 at 100ms, dts 100ms, key false, 1 frame
a2 at 200ms, dts 200ms, key true, 1 frame
a3 at 300ms, dts 300ms, key false, 1 frame
b0 at 400ms, dts 400ms, key true, 1 frame
b1 at 500ms, dts 500ms, key false, 1 frame
b2 at 600ms, dts 600ms, key true, 1 frame
b3 at 700ms, dts 700ms, key false, 1 frame
a0 at 800ms, dts 800ms, key true, 1 frame
close`
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestEndsWithTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := run(t, Settings{Play: []string{"a"}, As: "demo"}, &channel{until: 99})
		if strings.Count(got, "\n") != 5 || !strings.HasSuffix(got, "close") {
			t.Errorf("got\n%s", got)
		}
	})
}

// TestLogsOnce: what fails for an hour is logged once, and counted.
func TestLogsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			name string
			play []string
			c    *channel
			want map[string]int
		}{
			{"nothing is there", []string{"missing"}, &channel{until: 1200}, map[string]int{"skipped": 1, "interrupted": 1}},
			{"one is missing", []string{"a", "missing"}, &channel{until: 1200}, map[string]int{"skipped": 1}},
			{"the name is taken", []string{"a"}, &channel{until: 2, busy: 100}, map[string]int{"interrupted": 1}},
		} {
			var log bytes.Buffer
			runLogged(t, Settings{Play: test.play, As: "demo", Loop: true}, test.c, &log)
			for _, word := range []string{"skipped", "interrupted"} {
				if got := strings.Count(log.String(), word); got != test.want[word] {
					t.Errorf("%s: %q is logged %d times, want %d:\n%s", test.name, word, got, test.want[word], &log)
				}
			}
		}
	})
}

func TestTriesAgainWhileTheNameIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := run(t, Settings{Play: []string{"a"}, As: "demo", Loop: true}, &channel{until: 1, busy: 2})
		if want := "create demo\na0 at 10s, dts 0s, key true, 1 frame\nclose"; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestSettings(t *testing.T) {
	for want, values := range map[string]map[string]any{
		"play": {"play": []string{"../x"}, "as": "demo"},
		"as":   {"play": []string{"x"}, "as": "de?mo"},
	} {
		_, err := Kind().Decode(values)
		var wrong *stage.SettingError
		if !errors.As(err, &wrong) || wrong.Setting != want {
			t.Errorf("%v: %v", values, err)
		}
	}
}
