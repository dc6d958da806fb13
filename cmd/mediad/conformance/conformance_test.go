// Package conformance checks all kinds of stages that the daemon has against the
// contracts of core/media, in the daemon and out of it.
package conformance

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broker"
	"github.com/mediad/mediad/core/cache"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugintest"
	"github.com/mediad/mediad/pipeline/stagetest"
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

// TestWriterDisk writes onto a disk of 96 MiB, which a large file fills.
func TestWriterDisk(t *testing.T) {
	plugintest.Writer(t, writerdisk.Kind(), func(t *testing.T) (map[string]any, stagetest.Writer) {
		dir := t.TempDir()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", dir).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
				t.Errorf("umount: %v: %s", err, out)
			}
		})
		settings, err := readerdisk.Kind().Decode(map[string]any{"root": dir})
		if err != nil {
			t.Fatal(err)
		}
		back, err := readerdisk.Kind().New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, settings)
		if err != nil {
			t.Fatal(err)
		}
		full := filepath.Join(dir, ".full")
		return map[string]any{"root": dir}, stagetest.Writer{
			Name: "film",
			Back: back.(media.Reader),
			Fail: func() (func() error, error) {
				err := os.WriteFile(full, make([]byte, 96<<20), 0o600)
				if !errors.Is(err, syscall.ENOSPC) {
					return nil, fmt.Errorf("the disk was to be filled: %w", err)
				}
				return func() error { return os.Remove(full) }, nil
			},
		}
	})
}

func TestCache(t *testing.T)  { plugintest.Middleware(t, cache.Kind(), nil) }
func TestBroker(t *testing.T) { plugintest.Middleware(t, broker.Kind(), nil) }
