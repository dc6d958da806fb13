// Package plugintest runs the checks of pipeline/stagetest on a stage kind twice:
// on a stage in the process of the test, and on one in a process of its own, over
// the wire. The test binary is the plugin:
//
//	func TestMain(m *testing.M) { plugintest.Main(m, Kind()) }
//
//	func TestConformance(t *testing.T) {
//		plugintest.Reader(t, Kind(), map[string]any{"root": "testdata"}, "clip.flv", "nope.flv")
//	}
package plugintest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin"
	"github.com/mediad/mediad/pipeline/plugin/host"
	"github.com/mediad/mediad/pipeline/plugin/wire"
	"github.com/mediad/mediad/pipeline/stagetest"
	"go.uber.org/goleak"
)

// Main runs the tests of a package, or is the plugin of one of its kinds.
func Main(m *testing.M, kinds ...stage.Kind) {
	if os.Getenv(wire.Handshake.MagicCookieKey) != wire.Handshake.MagicCookieValue {
		goleak.VerifyTestMain(m)
		return
	}
	for _, k := range kinds {
		if k.Name == os.Args[1] {
			plugin.Serve(k)
			os.Exit(0)
		}
	}
	os.Exit(2)
}

// Reader checks a kind that provides a reader and needs none. name is of recorded
// media with at least three join points, missing of none.
func Reader(t *testing.T, k stage.Kind, settings map[string]any, name, missing string) {
	twice(t, k, func(t *testing.T, k stage.Kind) {
		r := serve(t, k, settings).(media.Reader)
		stagetest.TestReader(t, stagetest.Reader{Reader: r, Name: name, Missing: missing})
	})
}

// Writer checks a kind that provides a writer. prepare is called for each of the
// two stages: it returns the settings, and all of the subject but the writer.
func Writer(t *testing.T, k stage.Kind, prepare func(t *testing.T) (settings map[string]any, subject stagetest.Writer)) {
	twice(t, k, func(t *testing.T, k stage.Kind) {
		settings, subject := prepare(t)
		subject.Writer = serve(t, k, settings).(media.Writer)
		stagetest.TestWriter(t, subject)
	})
}

// Middleware checks a kind that provides a reader and needs one.
func Middleware(t *testing.T, k stage.Kind, settings map[string]any) {
	twice(t, k, func(t *testing.T, k stage.Kind) {
		stagetest.TestMiddleware(t, func(upstream media.Reader) (media.Reader, func() error, error) {
			s, stop, err := start(k, settings, stage.Input{Name: "test/upstream", Reader: upstream})
			if err != nil {
				return nil, nil, err
			}
			return s.(media.Reader), stop, nil
		})
	})
}

// twice runs the test with the kind itself, and with the test binary as a plugin.
func twice(t *testing.T, k stage.Kind, test func(t *testing.T, k stage.Kind)) {
	t.Helper()
	check := func(name string, k stage.Kind) {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
			test(t, k)
		})
	}
	check("in the daemon", k)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	process, err := host.Kind(ctx, host.Binary{Name: k.Name, Path: self, Args: []string{k.Name}}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	check("in a process", process)
}

// serve serves a stage for as long as the test runs.
func serve(t *testing.T, k stage.Kind, settings map[string]any) stage.Stage {
	t.Helper()
	s, stop, err := start(k, settings)
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

func start(k stage.Kind, settings map[string]any, inputs ...stage.Input) (s stage.Stage, stop func() error, err error) {
	return stagetest.Start(k, settings, stage.Env{
		Name:   "test/" + k.Name,
		Log:    hclog.NewNullLogger(),
		Inputs: inputs,
		Drain:  10 * time.Second,
	})
}
