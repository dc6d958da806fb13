package web

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// VLC plays every form, and writes what it plays into a file: without a gap, and as
// fast as it comes.
func TestVLC(t *testing.T) {
	film(t, "simple.flv", 12, simple) // FLV with B-frames VLC writes with wrong times, be it a file on the disk
	s := start(t)
	s.publish("news", "simple", "simple", "simple", "simple", "simple")
	for _, path := range []string{
		"/live/news/index.m3u8", "/live/news.flv", "/live/news.mp4",
		"/vod/simple/index.m3u8", "/vod/simple.flv", "/vod/simple.mp4",
	} {
		t.Run(strings.ReplaceAll(path[1:], "/", " "), func(t *testing.T) {
			t.Parallel()
			file := vlc(t, s.url+path)
			for _, kind := range []string{"video", "audio"} {
				got := packets(t, file, kind)
				if len(got) < 75 {
					t.Fatalf("%d packets of %s", len(got), kind)
				}
				for i, p := range got[1:] {
					if d := seconds(t, p.PTS) - seconds(t, got[i].PTS); d > 0.1 {
						t.Errorf("%f s without %s, from %s s on", d, kind, got[i].PTS)
					}
				}
			}
		})
	}
}

// vlc has VLC play for some seconds, and returns the file that it has made of it. It refuses to run
// as root.
func vlc(t *testing.T, url string) string {
	t.Helper()
	home, err := os.MkdirTemp("/tmp", "mediad-vlc-") // where nobody may go, which is not so wherever TMPDIR is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if err := os.Chmod(home, 0o777); err != nil { //nolint:gosec // it is nobody who writes
		t.Fatal(err)
	}
	file := filepath.Join(home, "seen.ts")
	command := []string{"env", "HOME=" + home, "cvlc", "-q", "--run-time=5", "--play-and-exit", url,
		"--sout", "#std{access=file,mux=ts,dst=" + file + "}", "vlc://quit"}
	if os.Geteuid() == 0 {
		command = append([]string{"runuser", "-u", "nobody", "--"}, command...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("VLC: %v\n%s", err, out)
	}
	return file
}
