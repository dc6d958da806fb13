// Package e2e runs the real daemon against the clients that people have: ffmpeg,
// ffprobe, rtmpdump, and a bare RTMP client where these cannot do what is needed.
package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
)

// built is the folder of the daemon, built once with the race detector.
var built string

func TestMain(m *testing.M) {
	if built = os.Getenv(apartEnv); built != "" {
		os.Exit(m.Run())
	}
	os.Exit(lab.Main(m, true, &built))
}

func binary() string { return filepath.Join(built, "mediad") }

// daemon is a running mediad, for a test.
type daemon struct {
	*lab.Daemon
	t *testing.T
}

// start runs mediad with the pipelines, the text below `pipelines:`. Its folder is made
// ready by prepare.
func start(t *testing.T, pipelines string, prepare ...func(*lab.Daemon)) *daemon {
	t.Helper()
	return &daemon{lab.Start(t, binary(), "pipelines:\n"+pipelines, prepare...), t}
}

// edited has the daemon start with another text in its configuration.
func edited(t *testing.T, old, text string) func(*lab.Daemon) {
	return func(d *lab.Daemon) {
		t.Helper()
		file, err := os.ReadFile(d.Path("pipelines.yaml"))
		lab.Must(t, err)
		if !bytes.Contains(file, []byte(old)) {
			t.Fatalf("%q is not in the configuration", old)
		}
		lab.Must(t, os.WriteFile(d.Path("pipelines.yaml"), bytes.ReplaceAll(file, []byte(old), []byte(text)), 0o644))
	}
}

// metric returns the sum of all series of a metric, or of those with some labels, as lab.Metrics.Sum does.
func (d *daemon) metric(series string) float64 {
	d.t.Helper()
	m, err := d.Metrics()
	if name, _, _ := strings.Cut(series, "{"); err == nil && !m.Has(name) {
		err = fmt.Errorf("there is no metric %s", name)
	}
	lab.Must(d.t, err)
	return m.Sum(series)
}

// plugins are the processes that the daemon has started.
func (d *daemon) plugins() []int {
	d.t.Helper()
	pids, err := d.Plugins()
	lab.Must(d.t, err)
	return pids
}

// channel is what the tests read of /api/channels.
type channel struct {
	Name       string
	Publishing bool
	Video      string
	Readers    int
}

// onAir waits until the channel has a publisher and frames.
func (d *daemon) onAir(name string) {
	d.t.Helper()
	lab.Await(d.t, name+" is on air", func() error {
		body, err := d.Get("/api/channels")
		if err != nil {
			return err
		}
		var list []channel
		if err := json.Unmarshal(body, &list); err != nil {
			return err
		}
		for _, c := range list {
			if c.Name == name && c.Publishing && c.Video != "" {
				return nil
			}
		}
		return fmt.Errorf("channels: %s", body)
	})
}

// plays waits until a number of viewers have asked for something to play.
func (d *daemon) plays(n int) {
	d.t.Helper()
	lab.Await(d.t, "the viewers have come", func() error { return atLeast(d.metric("mediad_stream_plays_total"), float64(n)) })
}
