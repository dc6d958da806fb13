// Real clients against the server: ffmpeg, ffprobe and rtmpdump.

package rtmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
)

// run runs a program to its end, and returns what it prints to either output.
func run(t *testing.T, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func mustRun(t *testing.T, name string, args ...string) (stdout string) {
	t.Helper()
	stdout, stderr, err := run(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr)
	}
	return stdout
}

// sample makes an FLV file with H.264 with B-frames, and AAC.
func sample(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sample.flv")
	mustRun(t, "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=4",
		"-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=4",
		"-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "25", "-b:v", "400k",
		"-c:a", "aac", "-b:a", "64k", file)
	return file
}

// packets are the codec configurations and the hashes of all packets, with their
// times from that of the first.
func packets(t *testing.T, url string) (list []string) {
	t.Helper()
	out := mustRun(t, "ffmpeg", "-v", "error", "-copyts", "-i", url, "-map", "0:v", "-map", "0:a", "-c", "copy", "-f", "framemd5", "-")
	var zero int64
	for line := range strings.Lines(out) {
		var track, dts, pts int64 // then come duration, size and hash
		if n, _ := fmt.Sscanf(line, "%d, %d, %d,", &track, &dts, &pts); n == 3 {
			if strings.HasPrefix(list[len(list)-1], "#") {
				zero = dts
			}
			line = fmt.Sprint(track, dts-zero, pts-zero, strings.SplitN(line, ",", 4)[3])
		}
		list = append(list, line)
	}
	return list
}

// samePackets checks that two results of packets are the same.
func samePackets(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%d lines are not the %d that were published, from line %d:\n got %q\nwant %q",
				len(got), len(want), i, got[min(i, len(got)):min(i+3, len(got))], want[min(i, len(want)):min(i+3, len(want))])
			return
		}
	}
}

func player(list func(stream.Request) []*media.Batch) func(stream.Viewer) stream.Player {
	return func(v stream.Viewer) stream.Player { return &listPlayer{v: v, list: list} }
}

func TestRealFFmpeg(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{}, r, player(func(stream.Request) []*media.Batch { return r.recorded() }))
	file := sample(t)
	url := s.url + "/a/b?key=1"
	mustRun(t, "ffmpeg", "-v", "error", "-i", file, "-c", "copy", "-f", "flv", url)
	<-r.closed
	if req := r.request(); req.App != "live" || req.Name != "a/b" || req.Params.Get("key") != "1" {
		t.Errorf("the request is %+v", req)
	}
	samePackets(t, packets(t, url), packets(t, file))
}

func TestRealRTMPDump(t *testing.T) {
	r := newRecorder()
	var asked []stream.Request
	s := serve(t, Options{}, r, player(func(req stream.Request) []*media.Batch {
		asked = append(asked, req)
		return r.recorded()
	}))
	file := sample(t)
	mustRun(t, "ffmpeg", "-v", "error", "-i", file, "-c", "copy", "-f", "flv", s.url+"/x")
	<-r.closed
	dump := filepath.Join(t.TempDir(), "dump.flv")
	_, log, err := run(t, "rtmpdump", "-r", s.url+"/x", "-o", dump, "--start", "2")
	if err != nil || !strings.Contains(log, "Download complete") || strings.Contains(log, "WARNING") {
		t.Errorf("rtmpdump: %v\n%s", err, log)
	}
	s.stop()
	if len(asked) != 1 || asked[0].Start != 2*time.Second || asked[0].Length != -1 {
		t.Errorf("rtmpdump asked for %+v", asked)
	}
	samePackets(t, packets(t, dump), packets(t, file))
}

func TestRealFFprobe(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{}, r, player(func(stream.Request) []*media.Batch { return r.recorded() }))
	mustRun(t, "ffmpeg", "-v", "error", "-i", sample(t), "-c", "copy", "-f", "flv", s.url+"/x")
	<-r.closed
	got := mustRun(t, "ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width", "-of", "csv=p=0", s.url+"/x")
	if got != "h264,320\naac\n" {
		t.Errorf("ffprobe sees %q", got)
	}
}

// TestRealRefusals checks that ffmpeg shows why it is refused.
func TestRealRefusals(t *testing.T) {
	r := newRecorder()
	r.refuse = errors.New("the key is wrong")
	s := serve(t, Options{}, r, player(func(stream.Request) []*media.Batch { return nil }))
	for _, c := range []struct {
		url, want string
		args      []string
	}{
		{s.url + "/x", "the key is wrong", []string{"-f", "lavfi", "-i", "testsrc2=duration=1", "-c:v", "flv1", "-f", "flv"}},
		{s.url + "/x", "no x", []string{"-f", "null", "-", "-i"}},
		{"rtmp://" + s.addr + "/other/x", `there is no app "other" here`, []string{"-f", "null", "-", "-i"}},
	} {
		_, log, err := run(t, "ffmpeg", append(append([]string{"-v", "error"}, c.args...), c.url)...)
		if err == nil || !strings.Contains(log, c.want) {
			t.Errorf("ffmpeg %v says %q, %v", c.args, log, err)
		}
	}
}

// TestT48_RealLongStream publishes past 0xffffff ms, and plays it from 0 and at
// the times it was published with. (ffmpeg itself wraps at 2^31 ms.)
func TestT48_RealLongStream(t *testing.T) {
	r := newRecorder()
	zeros := make(chan time.Duration, 2)
	s := serve(t, Options{}, r, func(v stream.Viewer) stream.Player {
		return &listPlayer{v: v, zero: <-zeros, list: func(stream.Request) []*media.Batch { return r.recorded() }}
	})
	file := sample(t)
	mustRun(t, "ffmpeg", "-v", "error", "-i", file, "-c", "copy", "-output_ts_offset", "16775", "-f", "flv", s.url+"/x")
	<-r.closed
	want := packets(t, file)
	for _, zero := range []time.Duration{0, r.recorded()[0].DTS()} {
		zeros <- zero
		samePackets(t, packets(t, s.url+"/x"), want)
	}
}
