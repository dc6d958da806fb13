package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
)

// live publishes, plays and records in one file each three seconds.
const live = `
  live:
    - use: ingest
      with: {app: live, linger: 2s}
    - use: broadcast
      with: {window: 10s, wait: 20s}
    - use: stream
      with: {app: live}
  archive:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 3s}
    - use: writer-disk
      with: {root: ./recordings}
`

// publish sends a film in real time with ffmpeg, as it is.
func (d *daemon) publish(film, name string) *lab.Program {
	d.t.Helper()
	return lab.Launch(d.t, "ffmpeg", "-hide_banner", "-loglevel", "warning", "-re", "-i", film, "-c", "copy", "-f", "flv", d.URL("live/"+name))
}

// play keeps what a ffmpeg player gets, as it is, in a file.
func (d *daemon) play(path, out string) *lab.Program {
	d.t.Helper()
	return lab.Launch(d.t, "ffmpeg", "-hide_banner", "-loglevel", "warning", "-y", "-i", d.URL(path), "-c", "copy", "-f", "flv", out)
}

// recordings lists the recorded files of a channel in the order of their making.
func (d *daemon) recordings(channel string) []string {
	d.t.Helper()
	files, err := filepath.Glob(d.Path("recordings", channel, "*", "*.flv"))
	if err != nil {
		d.t.Fatal(err)
	}
	return files
}

func TestLivePlayedAndRecordedFrameForFrame(t *testing.T) {
	t.Parallel()
	film := film(t, 12, "flv")
	d := start(t, live)
	early := d.play("live/show", d.Path("early.flv")) // waits for the publisher
	d.plays(1)
	publisher := d.publish(film, "show")
	d.onAir("show")
	late := d.play("live/show", d.Path("late.flv"))
	for _, c := range []*lab.Program{publisher, early, late} {
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", c.Name, err, &c.Out)
		}
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}

	files := d.recordings("show")
	if len(files) < 4 {
		t.Errorf("12 s with a new file each 3 s are in %d files: %v", len(files), files)
	}
	for _, codec := range []string{"video", "audio"} {
		want := packets(t, film, codec)
		if at := expectRun(t, "the early viewer's "+codec, packets(t, d.Path("early.flv"), codec), want, len(want)); at != 0 {
			t.Errorf("the early viewer's %s begins at packet %d", codec, at)
		}
		at := expectRun(t, "the late viewer's "+codec, packets(t, d.Path("late.flv"), codec), want, len(want)/4)
		if codec == "video" && want[at].Flags[0] != 'K' {
			t.Errorf("the late viewer begins at packet %d, which is no keyframe", at)
		}
		var recorded []string
		for _, file := range files {
			recorded = append(recorded, hashes(packets(t, file, codec))...)
		}
		expectSame(t, "all recorded "+codec, recorded, hashes(want))
	}
}

func TestT51_AudioOnlyAndVideoOnly(t *testing.T) {
	t.Parallel()
	source := film(t, 6, "flv")
	d := start(t, live)
	for i, c := range []struct{ codec, drop string }{{"audio", "-vn"}, {"video", "-an"}} {
		player := d.play("live/"+c.codec, d.Path(c.codec+".flv"))
		d.plays(i + 1)
		lab.Run(t, "ffmpeg", "-hide_banner", "-loglevel", "warning", "-re", "-i", source, c.drop, "-c", "copy", "-f", "flv", d.URL("live/"+c.codec))
		if err := player.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", player.Name, err, &player.Out)
		}
		want := packets(t, source, c.codec)
		expectRun(t, "the viewer's "+c.codec, packets(t, d.Path(c.codec+".flv"), c.codec), want, len(want))
	}
}

func TestT52_ViewersStayWhilePublisherComesBack(t *testing.T) {
	t.Parallel()
	film := film(t, 12, "flv")
	d := start(t, strings.Replace(live, "linger: 2s", "linger: 10s", 1)) // on a busy machine ffmpeg takes its time to start
	viewer := d.play("live/show", d.Path("viewer.flv"))
	d.plays(1)
	first := d.publish(film, "show")
	d.onAir("show")
	lab.Await(t, "three seconds are played", func() error { return atLeast(d.metric("mediad_ingest_frames_total"), 200) })
	first.Kill()
	if err := d.publish(film, "show").Wait(); err != nil {
		t.Fatal(err)
	}
	if err := viewer.Wait(); err != nil {
		t.Errorf("the viewer: %v\n%s", err, &viewer.Out)
	}
	got := packets(t, d.Path("viewer.flv"), "video")
	want := packets(t, film, "video")
	again := lastIndex(got, want[0].Hash)
	if again < 50 {
		t.Fatalf("the second publication begins at packet %d of what the viewer got", again)
	}
	expectRun(t, "before", got[:again], want, 50)
	expectRun(t, "after", got[again:], want, len(want))
	for i := 1; i < len(got); i++ {
		if got[i].DTS <= got[i-1].DTS {
			t.Errorf("the viewer's time runs back from %d to %d at packet %d", got[i-1].DTS, got[i].DTS, i)
		}
	}
}

// TestTap looks at a channel with `mediad tap` while a viewer watches.
func TestTap(t *testing.T) {
	t.Parallel()
	film := film(t, 12, "flv")
	d := start(t, live)
	viewer := d.play("live/show", d.Path("viewer.flv"))
	d.plays(1)
	publisher := d.publish(film, "show")
	d.onAir("show")
	tap := lab.Launch(t, binary(), "tap", "live/broadcast", "--name", "show", "--api", "http://"+d.HTTP, "--format", "lines")
	for _, c := range []*lab.Program{publisher, tap, viewer} { // the tap ends with the channel
		if err := c.Wait(); err != nil {
			t.Fatalf("%s: %v\n%s", c.Name, err, &c.Out)
		}
	}
	lines := tap.Out.String()
	if !strings.HasPrefix(lines, "header video=h264:") || strings.Count(lines, "  video") < 50 || strings.Count(lines, "batch join\n  video key") < 2 {
		t.Errorf("the tap printed\n%.500s", lines)
	}
	want := packets(t, film, "video")
	expectRun(t, "the viewer's video", packets(t, d.Path("viewer.flv"), "video"), want, len(want))
}
