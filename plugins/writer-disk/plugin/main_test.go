package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin/host"
	readerdisk "github.com/mediad/mediad/plugins/reader-disk"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reader returns a reader of the folder root in this process.
func reader(t *testing.T, root string) media.Reader {
	t.Helper()
	made, err := readerdisk.Kind().New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, &readerdisk.Settings{Root: root, Index: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return made.(media.Reader)
}

// frames reads a file to its end.
func frames(t *testing.T, r media.Reader, name string, each func(*media.Batch)) (n, bytes int) {
	t.Helper()
	src, err := r.Open(t.Context(), media.OpenRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	count := sinkFunc(func(b *media.Batch) {
		n += len(b.Frames())
		bytes += len(b.Slab())
		each(b)
	})
	if err := media.Copy(t.Context(), count, src); err != nil {
		t.Fatal(err)
	}
	return n, bytes
}

type sinkFunc func(*media.Batch)

func (f sinkFunc) Write(_ context.Context, b *media.Batch) error { f(b); return nil }
func (f sinkFunc) Close(context.Context) error                   { return nil }

// TestPlugin records the sample through the plugin and finds the same frames in it.
func TestPlugin(t *testing.T) {
	path, root := filepath.Join(t.TempDir(), "writer-disk"), t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kind, err := host.Kind(t.Context(), host.Binary{Path: path}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	settings, err := kind.Decode(map[string]any{"root": root})
	if err != nil {
		t.Fatal(err)
	}
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn})
	made, err := kind.New(stage.Env{Name: "test/writer-disk", Log: log, Metrics: prometheus.NewRegistry()}, settings)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- made.Serve(ctx) }()

	sink, err := made.(media.Writer).Create(t.Context(), media.CreateRequest{Name: "copy.flv"})
	if err != nil {
		t.Fatal(err)
	}
	n, bytes := frames(t, reader(t, "../../../media"), "sample.flv", func(b *media.Batch) {
		if err := sink.Write(t.Context(), b); err != nil {
			t.Error(err)
		}
	})
	if err := sink.Close(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if gotN, gotBytes := frames(t, reader(t, root), "copy", func(*media.Batch) {}); gotN != n || gotBytes != bytes {
		t.Errorf("%d frames in %d bytes were recorded, want %d in %d", gotN, gotBytes, n, bytes)
	}
}
