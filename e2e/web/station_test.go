// Package web runs the HTTP front against the players that people have: ffmpeg,
// hls.js and mpegts.js in Chromium, and Chromium's own.
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/cache"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/core/web"
	"github.com/mediad/mediad/pipeline/stagetest"
	readerdisk "github.com/mediad/mediad/plugins/reader-disk"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

// dir has the films and the pages' scripts.
var dir string

func TestMain(m *testing.M) {
	var err error
	if dir, err = os.MkdirTemp("", "mediad-web-"); err != nil {
		panic(err)
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// A station is a web.Server with two apps: live, of a broadcast, and vod, of the films.
type station struct {
	t       *testing.T
	url     string
	secure  string       // the same over HTTPS with HTTP/2
	second  atomic.Int64 // requests over HTTP/2
	server  *web.Server
	metrics *prometheus.Registry
	live    media.Writer
	vod     media.Reader
}

func start(t *testing.T) *station {
	t.Helper()
	s := &station{t: t, metrics: prometheus.NewRegistry()}
	s.server = web.New(web.Options{Metrics: s.metrics, Log: hclog.New(&hclog.LoggerOptions{Output: logWriter{t}, Level: hclog.Debug})})
	listener := httptest.NewServer(s.server.Handler())
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			s.second.Add(1)
		}
		s.server.Handler().ServeHTTP(w, r)
	}))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	s.url, s.secure = listener.URL, secure.URL

	live := s.stage(broadcast.Kind(), map[string]any{"window": "30s", "wait": "1s"})
	s.live = live.(media.Writer)
	disk := s.stage(readerdisk.Kind(), map[string]any{"root": dir})
	s.vod = s.stage(cache.Kind(), map[string]any{"memory": "256MiB"}, disk.(media.Reader)).(media.Reader)
	forms := []string{"flv", "hls", "mp4"}
	s.stage(stream.Kind(nil, s.server), map[string]any{"app": "live", "serve": forms}, live.(media.Reader))
	s.stage(stream.Kind(nil, s.server), map[string]any{"app": "vod", "serve": forms}, s.vod)
	t.Cleanup(func() {
		if err := s.server.Close(); err != nil {
			t.Error(err)
		}
		for _, l := range []*httptest.Server{listener, secure} {
			l.CloseClientConnections()
			l.Close()
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

func (s *station) stage(k stage.Kind, settings map[string]any, inputs ...media.Reader) stage.Stage {
	s.t.Helper()
	env := stage.Env{Name: "test/" + k.Name, Log: hclog.NewNullLogger(), Drain: time.Second}
	for _, in := range inputs {
		env.Inputs = append(env.Inputs, stage.Input{Name: "test/input", Reader: in})
	}
	made, stop, err := stagetest.Start(k, settings, env)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := stop(); err != nil {
			s.t.Error(err)
		}
	})
	return made
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

// A publication is films that go out live, one after another, each frame at its time.
type publication struct {
	began time.Time // when the frame with the time 0 went out
	stop  func()
	ended chan struct{} // closed when all was sent
}

// publish sends films of the folder to a channel, until stop or their end.
func (s *station) publish(name string, films ...string) *publication {
	s.t.Helper()
	sink, err := s.live.Create(s.t.Context(), media.CreateRequest{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &publication{began: time.Now(), ended: make(chan struct{})}
	p.stop = func() {
		cancel()
		<-p.ended
	}
	s.t.Cleanup(p.stop)
	go func() {
		defer close(p.ended)
		var at time.Duration
		for _, film := range films {
			source, err := s.vod.Open(ctx, media.OpenRequest{Name: film})
			if err == nil {
				err = p.send(ctx, source, sink, &at)
				source.Close()
			}
			if err != nil && ctx.Err() == nil {
				s.t.Error(err)
			}
		}
		if err := sink.Close(context.WithoutCancel(ctx)); err != nil {
			s.t.Error(err)
		}
	}()
	return p
}

// send writes one frame a batch, as ingest does. The film begins at a time, which
// is then that of its end.
func (p *publication) send(ctx context.Context, source media.Source, sink media.Sink, at *time.Duration) error {
	builder, begin := media.NewBuilder(media.NoClock), *at
	for {
		b, err := source.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, f := range b.Frames() {
			f.DTS += begin
			f.PTS += begin
			*at = max(*at, f.DTS+40*time.Millisecond)
			select {
			case <-time.After(time.Until(p.began.Add(f.DTS))):
			case <-ctx.Done():
				return ctx.Err()
			}
			builder.Copy(f)
			if err := sink.Write(ctx, builder.Batch(b.Header())); err != nil {
				return err
			}
		}
	}
}

// How films are coded. Chromium does not begin to play live MP4 before it has some ten
// kilobytes, so there is filler for those that browsers play.
var (
	simple = []string{"-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-b:v", "800k", "-minrate", "800k", "-maxrate", "800k",
		"-bufsize", "800k", "-x264-params", "nal-hrd=cbr", "-c:a", "aac"}
	bframes = []string{"-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-c:a", "aac"}
	hevc    = []string{"-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error", "-tag:v", "hvc1", "-c:a", "libopus"}
	sound   = []string{"-vn", "-c:a", "aac"}
	av1     = []string{"-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-c:a", "aac"}
)

// film makes a film with ffmpeg, once for each name: the pictures are numbered by
// stripes (see number in player.html), with a keyframe each second.
func film(t *testing.T, name string, seconds int, codec []string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return
	}
	const stripes = "geq=lum='if(mod(floor(N/pow(2\\,floor(X/20)))\\,2)\\,220\\,40)':cb=128:cr=128"
	args := []string{"-hide_banner", "-loglevel", "error", "-y",
		"-f", "lavfi", "-i", "color=size=320x180:rate=25," + stripes,
		"-f", "lavfi", "-i", "sine=frequency=330:sample_rate=44100", "-t", fmt.Sprint(seconds)}
	args = append(append(args, codec...), "-ar", "48000", "-pix_fmt", "yuv420p", "-g", "25", "-keyint_min", "25", "-sc_threshold", "0", path)
	if out, err := exec.CommandContext(t.Context(), "ffmpeg", args...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg: %v\n%s", err, out)
	}
}
