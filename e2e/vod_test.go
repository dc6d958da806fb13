package e2e

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
)

const onDemand = `
  on-demand:
    - use: reader-disk
      with: {root: ./media}
    - use: cache
    - use: broker
    - use: stream
      with: {app: vod}
`

// shelve puts a film among the media.
func (d *daemon) shelve(film, name string) {
	d.t.Helper()
	content, err := os.ReadFile(film)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.Path("media", name), content, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func TestRecordedPlayedFrameForFrame(t *testing.T) {
	t.Parallel()
	d := start(t, onDemand)
	for _, c := range []struct{ extension, url string }{
		{"flv", "vod/film0"}, {"flv", "vod/film0.flv"}, {"mp4", "vod/film1"}, {"mp4", "vod/mp4:film1.mp4"},
	} {
		source := film(t, 8, c.extension)
		d.shelve(source, map[string]string{"flv": "film0.flv", "mp4": "film1.mp4"}[c.extension])
		out := d.Path(filepath.Base(c.url) + "." + c.extension + ".flv")
		player := d.play(c.url, out)
		if err := player.Wait(); err != nil {
			t.Fatalf("%s: %v\n%s", c.url, err, &player.Out)
		}
		// MP4 counts in finer units: what ffmpeg makes of it in FLV is what is right.
		want := d.Path("want.flv")
		lab.Run(t, "ffmpeg", "-hide_banner", "-loglevel", "error", "-y", "-i", source, "-c", "copy", want)
		for _, codec := range []string{"video", "audio"} {
			all := packets(t, want, codec)
			if at := expectRun(t, c.url+" "+codec, packets(t, out, codec), all, len(all)); at != 0 {
				t.Errorf("%s: %s begins at packet %d", c.url, codec, at)
			}
		}
	}
}

func TestRtmpdumpDownloadsAndResumes(t *testing.T) {
	t.Parallel()
	d := start(t, onDemand)
	source := film(t, 30, "flv") // of a shorter one rtmpdump thinks that its last frame is missing
	d.shelve(source, "film.flv")
	out := d.Path("dump.flv")
	lab.Run(t, "rtmpdump", "-q", "-r", d.URL("vod/film"), "-o", out)
	for _, codec := range []string{"video", "audio"} {
		want := packets(t, source, codec)
		expectRun(t, codec, packets(t, out, codec), want, len(want))
	}

	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	half := lab.Launch(t, "rtmpdump", "-q", "--stop", "15", "-r", d.URL("vod/film"), "-o", out)
	var exit *exec.ExitError
	if err := half.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 2 { // incomplete, as it was told
		t.Fatalf("%s: %v\n%s", half.Name, err, &half.Out)
	}
	lab.Run(t, "rtmpdump", "-q", "--resume", "-r", d.URL("vod/film"), "-o", out)
	for _, codec := range []string{"video", "audio"} {
		want := packets(t, source, codec)
		expectSame(t, "resumed "+codec, hashes(packets(t, out, codec)), hashes(want))
	}

	part := d.Path("part.flv")
	lab.Run(t, "rtmpdump", "-q", "--start", "4", "-r", d.URL("vod/film"), "-o", part)
	want := packets(t, source, "video")
	if at := expectRun(t, "from 4 s", packets(t, part, "video"), want, 600); at != 100 {
		t.Errorf("from 4 s: begins at packet %d, want 100", at)
	}
}

// TestPlaylistOfAFileWithTables checks that media are not read to be listed.
func TestPlaylistOfAFileWithTables(t *testing.T) {
	t.Parallel()
	d := start(t, onDemand)
	source := film(t, 30, "mp4")
	d.shelve(source, "film.mp4")
	info, err := os.Stat(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/vod/film/index.m3u8", "/vod/film.mp4"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.HTTP+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Range", "bytes=0-99")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode/100 != 2 || len(body) < 100 {
			t.Errorf("%s: %s, %d bytes, %v", path, resp.Status, len(body), err)
		}
	}
	if read := d.metric("mediad_reader_disk_read_bytes_total"); read > float64(info.Size())/4 {
		t.Errorf("%.0f bytes were read of %d", read, info.Size())
	}
	want := packets(t, source, "video")
	expectSame(t, "HLS", hashes(packets(t, "http://"+d.HTTP+"/vod/film/index.m3u8", "video")), hashes(want))
	expectSame(t, "MP4", hashes(packets(t, "http://"+d.HTTP+"/vod/film.mp4", "video")), hashes(want))
}
