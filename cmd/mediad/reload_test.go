package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
)

const twoPipelines = `drain: 1s
pipelines:
  files: [{use: reader-disk, with: {root: ./media}}]
  demo:
    - from: files
    - use: playout
      with: {play: [sample.flv], as: demo, loop: true}
    - use: broadcast
    - use: stream
      with: {app: live}
  vod:
    - from: files
    - use: cache
      with: {memory: 16MiB}
    - use: stream
      with: {app: vod}
`

// reload runs mediad reload for a daemon, after its file has become text.
func reload(t *testing.T, r *lab.Daemon, text string) (code int, out string) {
	t.Helper()
	lab.Must(t, r.Configure(text))
	cmd := mediad(t.Context(), "reload", "--api", "http://"+r.HTTP)
	b, _ := cmd.CombinedOutput()
	return cmd.ProcessState.ExitCode(), string(b)
}

func TestReload(t *testing.T) {
	r := start(t, twoPipelines)
	for _, test := range []struct {
		from, to string
		code     int
		want     string
	}{
		{"", "", 0, "6 stages kept\n"},
		{"16MiB", "32MiB", 0, "5 stages kept\nreplaced: vod/cache\n"},
		{"use: cache", "use: cahce", exitWrong, `:16:12: vod/cahce: there is no kind of stage called "cahce" (did you mean "cache"?)`},
		{"./media", "./nowhere", exitWrong, ":6:43: files/reader-disk: root: "},
		{"app: vod", "app: live", exitFailed, `vod/stream: serve app "live": `},
		{"drain: 1s", "drain: 2s", 0, "replaced: vod/cache\nchanged, which takes a restart: drain\n"},
		{"  vod:", "  film:", 0, "4 stages kept\nadded: film/cache, film/stream\nremoved: vod/cache, vod/stream\n"},
	} {
		code, out := reload(t, r, strings.Replace(twoPipelines, test.from, test.to, 1))
		if code != test.code || !strings.Contains(out, test.want) {
			t.Errorf("%s: exit code %d, want %d with %q:\n%s", test.to, code, test.code, test.want, out)
		}
	}
	if code, out := reload(t, r, twoPipelines); code != 0 {
		t.Errorf("%d %s", code, out)
	}
	r.Signal(syscall.SIGHUP)
	if line := r.Says(t, "reloaded: kept=6"); strings.Contains(line, "ERROR") {
		t.Error(line)
	}
	lab.Must(t, os.WriteFile(r.Path("pipelines.yaml"), nil, 0o600))
	r.Signal(syscall.SIGHUP)
	r.Says(t, "the file is empty")
	r.Signal(syscall.SIGTERM)
	r.Says(t, "stopped")
	if err := r.Wait(); err != nil {
		t.Error(err)
	}
}

// A real player sees all frames of a channel while another pipeline is replaced,
// removed and added, and wrong files are refused.
func TestT70_ViewerNoticesNothing(t *testing.T) {
	r := start(t, twoPipelines)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errs bytes.Buffer
	player := exec.CommandContext(ctx, "ffmpeg", "-v", "error", "-i", r.URL("live/demo"), "-map", "0:v", "-c", "copy", "-f", "framecrc", "-flush_packets", "1", "-")
	player.Stderr = &errs
	out, err := player.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := player.Start(); err != nil {
		t.Fatal(err)
	}
	var times []int // DTS in ms
	frames := bufio.NewScanner(out)
	see := func(n int) {
		for n += len(times); len(times) < n && frames.Scan(); {
			if line := strings.Split(frames.Text(), ","); len(line) > 2 {
				dts, err := strconv.Atoi(strings.TrimSpace(line[1]))
				if err != nil {
					t.Fatal(frames.Text())
				}
				times = append(times, dts)
			}
		}
	}
	see(25)
	gone, _, _ := strings.Cut(twoPipelines, "  vod:")
	for _, text := range []string{
		strings.Replace(twoPipelines, "16MiB", "32MiB", 1),
		gone,
		twoPipelines,
		strings.Replace(twoPipelines, "app: vod", "app: live", 1), // refused
		"nonsense",
	} {
		if code, out := reload(t, r, text); code == exitFailed && !strings.Contains(out, "runs on") {
			t.Error(code, out)
		}
		see(5)
	}
	see(25)
	cancel()
	_ = player.Wait()
	if len(times) < 75 || errs.Len() > 0 {
		t.Fatalf("%d frames: %s", len(times), &errs)
	}
	step := times[1] - times[0]
	for i := range times[1:] {
		if d := times[i+1] - times[i]; d < step/2 || d > step*3/2 {
			t.Errorf("frame %d comes %d ms after the one before, not about %d", i+1, d, step)
		}
	}
}

func TestReload_NobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	cmd := mediad(t.Context(), "reload", "--api", "http://"+l.Addr().String())
	if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(out), "is mediad running") {
		t.Errorf("%s", out)
	}
}
