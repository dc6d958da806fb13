// Package e2e runs the real daemon against the clients that people have: ffmpeg,
// ffprobe, rtmpdump, and a bare RTMP client where these cannot do what is needed.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/machine"
)

// binary is the daemon, built once with the race detector.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mediad-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "mediad")
	build := exec.Command("go", "build", "-race", "-o", binary, "../cmd/mediad")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the daemon: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// daemon is a running mediad in a folder of its own.
type daemon struct {
	t          *testing.T
	dir        string
	rtmp, http string // addresses
	cmd        *exec.Cmd
	log        *machine.Output
	exited     chan error
}

// start runs mediad with the pipelines, the text below `pipelines:`, and waits
// until it is healthy. It is stopped, and must exit with 0, when the test ends.
// Its folder is made ready by prepare.
func start(t *testing.T, pipelines string, prepare ...func(*daemon)) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: t.TempDir(), rtmp: freeAddress(t), http: freeAddress(t)}
	for _, folder := range []string{"media", "recordings"} {
		if err := os.Mkdir(filepath.Join(d.dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf("version: 1\nlisten: {rtmp: %q, http: %q}\npipelines:\n%s", d.rtmp, d.http, pipelines)
	if err := os.WriteFile(filepath.Join(d.dir, "pipelines.yaml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(d)
	}
	d.run()
	t.Cleanup(func() {
		if err := d.stop(); err != nil {
			t.Errorf("mediad: %v", err)
		}
		if t.Failed() {
			t.Logf("log of mediad:\n%s", d.log)
		}
	})
	return d
}

// run starts the process; after stop or kill it may be called again.
func (d *daemon) run() {
	d.t.Helper()
	d.log = &machine.Output{}
	d.cmd = exec.Command(binary, "run")
	d.cmd.Dir = d.dir
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.exited = make(chan error, 1)
	go func() { d.exited <- d.cmd.Wait() }()
	eventually(d.t, "mediad is healthy", func() error {
		select {
		case err := <-d.exited:
			d.exited <- err
			d.t.Fatalf("mediad ended at start: %v\n%s", err, d.log)
		default:
		}
		_, err := d.get("/healthz")
		return err
	})
}

// stop ends the daemon as an operator would and returns how it exited.
func (d *daemon) stop() error {
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.exited:
		d.exited <- err
		return err
	case <-time.After(time.Minute):
		d.cmd.Process.Signal(syscall.SIGQUIT) // the goroutines go to the log
		<-d.exited
		return errors.New("did not end within a minute of SIGTERM")
	}
}

// kill ends it as a power cut would.
func (d *daemon) kill() {
	d.cmd.Process.Kill()
	<-d.exited
}

func (d *daemon) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

func (d *daemon) url(path string) string { return "rtmp://" + d.rtmp + "/" + path }

func (d *daemon) get(path string) ([]byte, error) {
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + d.http + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

// metric returns the sum of all series of a metric.
func (d *daemon) metric(name string) float64 {
	d.t.Helper()
	text, err := d.get("/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	sum, found := 0.0, false
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		series, rest, _ := strings.Cut(lines.Text(), " ")
		series, _, _ = strings.Cut(series, "{")
		if series != name {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(rest[strings.LastIndex(rest, " ")+1:], &v); err != nil {
			d.t.Fatalf("%s: %v", lines.Text(), err)
		}
		sum, found = sum+v, true
	}
	if !found {
		d.t.Fatalf("there is no metric %s", name)
	}
	return sum
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
	eventually(d.t, name+" is on air", func() error {
		body, err := d.get("/api/channels")
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

// eventually polls until check is content; half a minute is a failure.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
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

// command is a client that runs beside the daemon.
type command struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	out  *machine.Output
	done chan error
}

// launch starts a client; it is killed when the test ends.
func launch(t *testing.T, name string, args ...string) *command {
	t.Helper()
	c := &command{t: t, name: name + " " + strings.Join(args, " "), out: &machine.Output{}, done: make(chan error, 1)}
	c.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.done <- c.cmd.Wait() }()
	t.Cleanup(c.kill)
	return c
}

func (c *command) kill() {
	c.cmd.Process.Kill()
	err := <-c.done
	c.done <- err
}

// wait waits for the client's own end.
func (c *command) wait() error {
	c.t.Helper()
	select {
	case err := <-c.done:
		c.done <- err
		return err
	case <-time.After(90 * time.Second):
		c.t.Fatalf("%s: has not ended after 90 s\n%s", c.name, c.out)
		return nil
	}
}

// must runs a client to its end and fails the test unless it exits with 0.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	c := launch(t, name, args...)
	if err := c.wait(); err != nil {
		t.Fatalf("%s: %v\n%s", c.name, err, c.out)
	}
	return c.out.String()
}

// plays waits until a number of viewers have asked for something to play.
func (d *daemon) plays(n int) {
	d.t.Helper()
	eventually(d.t, "the viewers have come", func() error { return atLeast(d.metric("mediad_stream_plays_total"), float64(n)) })
}
