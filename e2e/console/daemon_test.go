// Package console opens the daemon's page in Debian's Chromium, and looks at what
// the daemon's metrics and `mediad top` show.
package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// built has the daemon and a film, which each test takes links of.
var built string

func TestMain(m *testing.M) {
	var err error
	if built, err = os.MkdirTemp("", "mediad-console-"); err != nil {
		panic(err)
	}
	code := 1
	if out, err := exec.Command("go", "build", "-o", filepath.Join(built, "mediad"), "../../cmd/mediad").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the daemon: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(built)
	os.Exit(code)
}

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

// A daemon is a running mediad in a folder of its own, from a binary of its own, with
// the film as media/film.flv.
type daemon struct {
	t          *testing.T
	dir        string
	rtmp, http string
	cmd        *exec.Cmd
	log        bytes.Buffer
}

func start(t *testing.T, file string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: t.TempDir(), rtmp: freeAddress(t), http: freeAddress(t)}
	path, err := film()
	if err != nil {
		t.Fatal(err)
	}
	file = fmt.Sprintf("version: 1\nlisten: {rtmp: %q, http: %q}\n%s", d.rtmp, d.http, file)
	for _, err := range []error{
		os.Link(filepath.Join(built, "mediad"), d.binary()),
		os.Mkdir(filepath.Join(d.dir, "media"), 0o755),
		os.Mkdir(filepath.Join(d.dir, "recordings"), 0o755),
		os.Link(path, filepath.Join(d.dir, "media", "film.flv")),
		os.WriteFile(filepath.Join(d.dir, "pipelines.yaml"), []byte(file), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		if err := d.cmd.Wait(); err != nil {
			t.Errorf("mediad: %v", err)
		}
		if t.Failed() {
			t.Logf("log of mediad:\n%s", &d.log)
		}
	})
	d.run()
	return d
}

func (d *daemon) binary() string { return filepath.Join(d.dir, "mediad") }

// run starts the process and waits until it is healthy.
func (d *daemon) run() {
	d.t.Helper()
	d.cmd = exec.Command(d.binary(), "run")
	d.cmd.Dir = d.dir
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	eventually(d.t, "mediad is healthy", func() error {
		_, err := d.get("/healthz")
		return err
	})
}

// kill ends it as a power cut would.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

func (d *daemon) url(path string) string { return "http://" + d.http + path }

func (d *daemon) get(path string) (string, error) {
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get(d.url(path))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// publish sends the film to a channel of the app live, over and over, until stop or the
// end of the test.
func (d *daemon) publish(name string) (stop func()) {
	d.t.Helper()
	return d.launch("ffmpeg", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", filepath.Join(d.dir, "media", "film.flv"),
		"-c", "copy", "-f", "flv", "rtmp://"+d.rtmp+"/live/"+name)
}

func (d *daemon) launch(name string, args ...string) (stop func()) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := cmd.Wait(); d.t.Failed() {
			d.t.Logf("%s: %v: %s", name, err, &out)
		}
	})
	d.t.Cleanup(stop)
	return stop
}

// processes are those of stages.
func (d *daemon) processes() []int {
	out, _ := exec.Command("pgrep", "-P", fmt.Sprint(d.cmd.Process.Pid)).Output()
	var pids []int
	for _, field := range strings.Fields(string(out)) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually polls until check is content; half a minute is a failure.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	err := errors.New("not asked")
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within 30 s: %v", what, err)
}
