// Package conformance checks all kinds of stages that the daemon has against the
// contracts of core/media, in the daemon and out of it.
package conformance

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broker"
	"github.com/mediad/mediad/core/cache"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugintest"
	readerdisk "github.com/mediad/mediad/plugins/reader-disk"
	readerhttp "github.com/mediad/mediad/plugins/reader-http"
	writerdisk "github.com/mediad/mediad/plugins/writer-disk"
	"github.com/prometheus/client_golang/prometheus"
)

func TestMain(m *testing.M) {
	plugintest.Main(m, readerdisk.Kind(), readerhttp.Kind(), writerdisk.Kind(), cache.Kind(), broker.Kind())
}

// TestReaders checks the readers on FLV and MP4, from disk and over HTTP.
func TestReaders(t *testing.T) {
	sample, err := filepath.Abs("../../../media/sample.flv")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, args := range []string{"-c copy film.flv", "-c copy film.mp4", "-c copy -movflags +faststart+frag_keyframe fragments.mp4", "-vn -c copy sound.flv"} {
		ffmpeg := exec.Command("ffmpeg", append([]string{"-v", "error", "-i", sample}, strings.Fields(args)...)...)
		ffmpeg.Dir = dir
		if out, err := ffmpeg.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	origin := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer origin.Close()
	for _, name := range []string{"film.flv", "film.mp4", "fragments.mp4", "sound.flv"} {
		t.Run("disk "+name, func(t *testing.T) {
			plugintest.Reader(t, readerdisk.Kind(), map[string]any{"root": dir}, name, "missing")
		})
		t.Run("http "+name, func(t *testing.T) {
			plugintest.Reader(t, readerhttp.Kind(), map[string]any{"url": origin.URL}, name, "missing")
		})
	}
}

func TestWriterDisk(t *testing.T) {
	plugintest.Writer(t, writerdisk.Kind(), func(t *testing.T) (map[string]any, media.Reader) {
		dir := t.TempDir()
		settings, err := readerdisk.Kind().Decode(map[string]any{"root": dir})
		if err != nil {
			t.Fatal(err)
		}
		back, err := readerdisk.Kind().New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, settings)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]any{"root": dir}, back.(media.Reader)
	}, "film")
}

func TestCache(t *testing.T)  { plugintest.Middleware(t, cache.Kind(), nil) }
func TestBroker(t *testing.T) { plugintest.Middleware(t, broker.Kind(), nil) }
