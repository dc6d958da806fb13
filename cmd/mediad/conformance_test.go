package main

import (
	"context"
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
	"github.com/mediad/mediad/pipeline/stagetest"
	readerdisk "github.com/mediad/mediad/plugins/reader-disk"
	readerhttp "github.com/mediad/mediad/plugins/reader-http"
	writerdisk "github.com/mediad/mediad/plugins/writer-disk"
	"github.com/prometheus/client_golang/prometheus"
)

// serve makes a stage of a kind and serves it until stop.
func serve(k stage.Kind, values map[string]any, inputs ...stage.Input) (s stage.Stage, stop func() error, err error) {
	settings, err := k.Decode(values)
	if err != nil {
		return nil, nil, err
	}
	s, err = k.New(stage.Env{
		Name:    "test/" + k.Name,
		Log:     hclog.NewNullLogger(),
		Metrics: prometheus.NewRegistry(),
		Inputs:  inputs,
	}, settings)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	return s, func() error {
		cancel()
		return <-served
	}, nil
}

// served is serve for as long as the test runs.
func served(t *testing.T, k stage.Kind, values map[string]any) stage.Stage {
	t.Helper()
	s, stop, err := serve(k, values)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestReadersConform checks the readers on FLV and MP4, from disk and over HTTP.
func TestReadersConform(t *testing.T) {
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
	disk := served(t, readerdisk.Kind(), map[string]any{"root": dir})
	web := served(t, readerhttp.Kind(), map[string]any{"url": origin.URL})
	for _, name := range []string{"film.flv", "film.mp4", "fragments.mp4", "sound.flv"} {
		for kind, s := range map[string]stage.Stage{"disk": disk, "http": web} {
			t.Run(kind+" "+name, func(t *testing.T) {
				stagetest.TestReader(t, stagetest.Reader{Reader: s.(media.Reader), Name: name, Missing: "missing"})
			})
		}
	}
}

var sample, _ = filepath.Abs("../../media/sample.flv")

func TestWriterDiskConforms(t *testing.T) {
	dir := t.TempDir()
	w := served(t, writerdisk.Kind(), map[string]any{"root": dir})
	back := served(t, readerdisk.Kind(), map[string]any{"root": dir})
	stagetest.TestWriter(t, stagetest.Writer{Writer: w.(media.Writer), Name: "film", Back: back.(media.Reader)})
}

func TestMiddlewareConforms(t *testing.T) {
	for _, k := range []stage.Kind{cache.Kind(), broker.Kind()} {
		t.Run(k.Name, func(t *testing.T) {
			stagetest.TestMiddleware(t, func(upstream media.Reader) (media.Reader, func() error, error) {
				s, stop, err := serve(k, nil, stage.Input{Name: "test/upstream", Reader: upstream})
				if err != nil {
					return nil, nil, err
				}
				return s.(media.Reader), stop, nil
			})
		})
	}
}
