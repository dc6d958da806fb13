// Package console opens the daemon's page in Debian's Chromium, and looks at what
// the daemon's metrics and `mediad top` show.
package console

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
)

// built has the daemon and a film, which each test takes links of.
var built string

func TestMain(m *testing.M) { os.Exit(lab.Main(m, false, &built)) }

// film makes a film of 40 s. Chromium begins to play when it has some ten kilobytes, so
// there is filler.
var film = sync.OnceValues(func() (string, error) {
	path := filepath.Join(built, "film.flv")
	out, err := exec.Command("ffmpeg", "-hide_banner", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25",
		"-f", "lavfi", "-i", "sine=frequency=330:sample_rate=44100", "-t", "40", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p",
		"-b:v", "800k", "-minrate", "800k", "-maxrate", "800k", "-bufsize", "800k", "-x264-params", "nal-hrd=cbr",
		"-g", "25", "-bf", "0", "-c:a", "aac", path).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("ffmpeg: %w: %s", err, out)
	}
	return path, err
})

// A daemon is a running mediad, from a binary of its own, with the film as media/film.flv.
type daemon struct {
	*lab.Daemon
	t      *testing.T
	binary string
}

func start(t *testing.T, pipelines string) *daemon {
	t.Helper()
	path, err := film()
	lab.Must(t, err)
	binary := filepath.Join(t.TempDir(), "mediad")
	lab.Must(t, os.Link(filepath.Join(built, "mediad"), binary))
	return &daemon{t: t, binary: binary, Daemon: lab.Start(t, binary, pipelines, func(d *lab.Daemon) {
		lab.Must(t, os.Link(path, d.Path("media", "film.flv")))
	})}
}

func (d *daemon) url(path string) string { return "http://" + d.HTTP + path }

func (d *daemon) get(path string) (string, error) {
	body, err := d.Get(path)
	return string(body), err
}

// publish sends the film to a channel of the app live, over and over, until the end of the
// test.
func (d *daemon) publish(name string) {
	d.t.Helper()
	lab.Launch(d.t, "ffmpeg", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", d.Path("media", "film.flv"),
		"-c", "copy", "-f", "flv", d.URL("live/"+name))
}

// processes are those of stages.
func (d *daemon) processes() []int {
	d.t.Helper()
	pids, err := d.Plugins()
	lab.Must(d.t, err)
	return pids
}
