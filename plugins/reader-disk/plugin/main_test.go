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
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPlugin runs the conformance checks on the plugin, as those of the package do
// on the reader itself.
func TestPlugin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reader-disk")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kind, err := host.Kind(t.Context(), host.Binary{Path: path}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../../../media")
	if err != nil {
		t.Fatal(err)
	}
	settings, err := kind.Decode(map[string]any{"root": root})
	if err != nil {
		t.Fatal(err)
	}
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn})
	made, err := kind.New(stage.Env{Name: "test/reader-disk", Log: log, Metrics: prometheus.NewRegistry()}, settings)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- made.Serve(ctx) }()
	stagetest.TestReader(t, stagetest.Reader{Reader: made.(media.Reader), Name: "sample.flv", Missing: "none"})
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
