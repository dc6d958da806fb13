package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/e2e/lab"
)

// wholeRecording is live with a single file per channel.
var wholeRecording = strings.Replace(live, "rotate: 3s", "rotate: 24h", 1)

func TestT57_KilledWhileRecording(t *testing.T) {
	t.Parallel()
	film := film(t, 12, "flv")
	d := start(t, wholeRecording)
	publisher := d.publish(film, "show")
	lab.Await(t, "six seconds are published", func() error { return atLeast(d.metric("mediad_ingest_frames_total"), 400) })
	frames := d.metric("mediad_ingest_frames_total")
	d.Kill()
	publisher.Wait() //nolint:errcheck // its server is gone

	lab.Must(t, d.Start())
	lab.Await(t, "the recording is repaired", func() error { return atLeast(d.metric("mediad_writer_disk_repaired_total"), 1) })
	files := d.recordings("show")
	if len(files) != 1 {
		t.Fatalf("recordings: %v", files)
	}
	video, audio := packets(t, files[0], "video"), packets(t, files[0], "audio")
	for codec, got := range map[string][]packet{"video": video, "audio": audio} {
		if at := expectRun(t, codec, got, packets(t, film, codec), 1); at != 0 {
			t.Errorf("%s begins at packet %d", codec, at)
		}
	}
	// 25 frames of video and 43 of audio are a second; on a busy machine it may be late by another.
	if got := float64(len(video) + len(audio)); got < frames-2*68 {
		t.Errorf("%.0f frames were published before the kill, %.0f are recorded: more than a second is lost", frames, got)
	}
	out := lab.Run(t, "ffprobe", "-v", "error", "-show_entries", "format=duration:format_tags", "-of", "flat", files[0])
	if !strings.Contains(out, "format.duration=\"") || strings.Contains(out, "format.duration=\"0") {
		t.Errorf("the repaired file tells no duration: %s", out)
	}
}

func TestFinishedRecordingCanBeSought(t *testing.T) {
	t.Parallel()
	film := film(t, 8, "flv")
	d := start(t, wholeRecording+`
  recordings:
    - use: reader-disk
      with: {root: ./recordings}
    - use: stream
      with: {app: recorded}
`)
	if err := d.publish(film, "show").Wait(); err != nil {
		t.Fatal(err)
	}
	var file string
	lab.Await(t, "the recording is finished", func() error {
		return atLeast(d.metric("mediad_writer_disk_files_total"), 1)
	})
	file = d.recordings("show")[0]
	name := strings.TrimSuffix(strings.TrimPrefix(file, d.Path("recordings")+"/"), ".flv")

	out := d.Path("played.flv")
	if player := d.play("recorded/"+name, out); player.Wait() != nil {
		t.Fatalf("%s\n%s", player.Name, &player.Out)
	}
	for _, codec := range []string{"video", "audio"} {
		want := packets(t, film, codec)
		expectRun(t, codec, packets(t, out, codec), want, len(want))
	}
	// With an index ffmpeg goes to the keyframe at 5 s, reading nothing before it.
	sought := d.Path("sought.flv")
	lab.Run(t, "ffmpeg", "-hide_banner", "-loglevel", "error", "-ss", "5", "-i", file, "-c", "copy", sought)
	if at := expectRun(t, "from 5 s", packets(t, sought, "video"), packets(t, film, "video"), 50); at < 100 || at > 125 {
		t.Errorf("-ss 5 begins at packet %d, want the keyframe before 5 s", at)
	}
}

// TestT55_DiskFull records onto a disk of 4 MiB.
func TestT55_DiskFull(t *testing.T) {
	t.Parallel()
	d := start(t, strings.Replace(wholeRecording, "root: ./recordings", "root: ./small", 1), func(d *lab.Daemon) { d.MountFor(t, "small", "4m") })
	p := d.publisher("show")
	p.frame(0, 0, 1000)
	d.onAir("show")
	viewer := d.dial("live")
	if err := viewer.Play(t.Context(), "show", stream.StartAny, -1, true); err != nil {
		t.Fatal(err)
	}
	n := 1
	next := func() {
		p.frame(n, uint32(n*40), 40<<10)
		n++
		until(t, viewer, "each frame", func(m rtmp.Message) bool { return coded(m) && number(t, m) == n-1 })
	}
	began := time.Now()
	for n < 200 { // 8 MB
		next()
	}
	lab.Await(t, "the full disk is reported", func() error {
		next()
		return atLeast(d.metric("mediad_writer_disk_errors_total"), 1)
	})
	if got, took := strings.Count(d.Log.String(), "no space left"), time.Since(began); got == 0 || got > 10+int(took.Seconds()) {
		t.Errorf("the log tells of the full disk %d times in %v", got, took)
	}
	files, err := os.ReadDir(d.Path("small", "show"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing was recorded: %v", err)
	}
	if err := os.RemoveAll(d.Path("small", "show")); err != nil {
		t.Fatal(err)
	}
	lab.Await(t, "recording goes on in a new file", func() error {
		next()
		list, err := os.ReadDir(d.Path("small", "show"))
		if err == nil && len(list) == 0 {
			err = os.ErrNotExist
		}
		return err
	})
}
