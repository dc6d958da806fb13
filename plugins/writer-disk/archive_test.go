// A publisher's frames through broadcast and archiver into files.

package writerdisk

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/archive"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// What ffmpeg has made, with B-frames, is what the archive holds over all its
// files, packet by packet, and each file can be probed and sought in.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source.flv")
	run(t, "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=9", "-f", "lavfi", "-i", "sine=d=9",
		"-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "aac", source)
	film, err := read(dir, "source.flv")
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "recordings")
	synctest.Test(t, func(t *testing.T) { airAndArchive(t, root, film) })

	files := strings.Fields(tree(t, root))[1:]
	if len(files) != 5 {
		t.Fatalf("files: %v", files)
	}
	var archived, times []string
	for _, name := range files {
		path := filepath.Join(root, name)
		archived = append(archived, packets(t, path)...)
		times = append(times, strings.TrimSpace(run(t, "ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path)))
		run(t, "ffmpeg", "-v", "error", "-xerror", "-ss", "1", "-i", path, "-f", "null", "-")
	}
	if got, want := strings.Join(archived, "\n"), strings.Join(packets(t, source), "\n"); got != want {
		t.Errorf("packets are\n%s\nwant\n%s", got, want)
	}
	for i, s := range times {
		if d, err := time.ParseDuration(s + "s"); err != nil || (d-2*time.Second).Abs() > 1200*time.Millisecond {
			t.Errorf("file %d lasts %s", i, s)
		}
	}
}

// airAndArchive puts a film on air as its times say, and archives it in files of
// two seconds.
func airAndArchive(t *testing.T, root string, film []*media.Batch) {
	env := stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Drain: 10 * time.Second}
	live, err := broadcast.Kind().New(env, broadcast.Kind().Settings())
	if err != nil {
		t.Fatal(err)
	}
	w := New(env, Settings{Root: root, Sync: time.Second})
	env.Inputs = []stage.Input{{Name: "live/broadcast", Reader: live.(media.Reader)}}
	env.Output = w
	a, err := archive.New(env, archive.Settings{Rotate: 2 * time.Second, Path: "{channel}/{15-04-05}"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	for _, s := range []stage.Stage{live, a, w} {
		serving.Go(func() {
			if err := s.Serve(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(1500 * time.Millisecond) // not at the boundary
	sink, err := live.(media.Writer).Create(ctx, media.CreateRequest{Name: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for _, b := range film {
		for _, f := range b.Frames() {
			time.Sleep(time.Until(start.Add(f.DTS)))
			if err := sink.Write(ctx, media.NewBatch(b.Header(), media.NoClock, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := sink.Close(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	serving.Wait()
}

// packets are the hashes of a file's packets, those of each track in order.
func packets(t *testing.T, path string) []string {
	t.Helper()
	out := run(t, "ffprobe", "-v", "error", "-show_packets", "-show_data_hash", "md5", "-show_entries", "packet=stream_index,size,flags,data_hash", "-of", "compact=p=0:nk=1", path)
	return strings.Fields(out)
}

// run runs a program and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.String())
	}
	return string(out)
}
