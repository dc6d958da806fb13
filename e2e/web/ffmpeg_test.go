package web

import (
	"encoding/json"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A packet is one packet as ffprobe sees it, its times in seconds.
type packet struct {
	Kind string `json:"codec_type"`
	PTS  string `json:"pts_time"`
	DTS  string `json:"dts_time"`
	Hash string `json:"data_hash"`
}

// packets lists the packets of one kind in the order of their presentation.
func packets(t *testing.T, url, kind string, args ...string) []packet {
	t.Helper()
	args = append(args, "-v", "error", "-show_packets", "-show_data_hash", "md5", "-select_streams", kind[:1], "-of", "json", url)
	out, err := exec.CommandContext(t.Context(), "ffprobe", args...).CombinedOutput()
	var list struct{ Packets []packet }
	if err == nil {
		err = json.Unmarshal(out, &list)
	}
	if err != nil {
		t.Fatalf("ffprobe %s: %v\n%s", url, err, out)
	}
	slices.SortStableFunc(list.Packets, func(a, b packet) int {
		return int(math.Copysign(1, seconds(t, a.PTS)-seconds(t, b.PTS)))
	})
	return list.Packets
}

func seconds(t *testing.T, s string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatalf("time %q of a packet", s)
	}
	return f
}

// expectRun checks that got is an unbroken run of want, each packet at the same distance from the
// first one to a millisecond and a half, and returns where it begins.
func expectRun(t *testing.T, what string, got, want []packet, least int) int {
	t.Helper()
	if len(got) < least {
		t.Fatalf("%s: %d packets, want at least %d", what, len(got), least)
	}
	at := slices.IndexFunc(want, func(p packet) bool { return p.Hash == got[0].Hash })
	if at < 0 || at+len(got) > len(want) {
		t.Fatalf("%s: %d packets begin with number %d of %d", what, len(got), at, len(want))
	}
	for i, p := range got {
		w := want[at+i]
		if p.Hash != w.Hash {
			t.Fatalf("%s: packet %d is not number %d of the film", what, i, at+i)
		}
		shift := (seconds(t, p.PTS) - seconds(t, got[0].PTS)) - (seconds(t, w.PTS) - seconds(t, want[at].PTS))
		if math.Abs(shift) > 0.0015 {
			t.Fatalf("%s: packet %d is shifted by %f s", what, i, shift)
		}
	}
	return at
}

func TestFFmpegRecorded(t *testing.T) {
	s := start(t)
	for _, c := range []struct {
		name, ext string
		codec     []string
		forms     []string
	}{
		{"simple", "flv", simple, []string{".flv", ".mp4", "/index.m3u8"}},
		{"bframes", "flv", bframes, []string{".flv", ".mp4", "/index.m3u8"}},
		{"bframes4", "mp4", bframes, []string{".flv", ".mp4", "/index.m3u8"}},
		// This ffmpeg cannot read what FLV has for these.
		{"hevc", "mp4", hevc, []string{".mp4", "/index.m3u8"}},
		{"av1", "mp4", av1, []string{".mp4", "/index.m3u8"}},
		{"sound", "mp4", sound, []string{".mp4", "/index.m3u8", ".flv"}},
	} {
		film(t, c.name+"."+c.ext, 12, c.codec)
		file := filepath.Join(dir, c.name+"."+c.ext)
		for _, form := range c.forms {
			var starts []float64
			for _, kind := range []string{"video", "audio"} {
				if kind == "video" && c.name == "sound" {
					continue
				}
				want := packets(t, file, kind)
				got := packets(t, s.url+"/vod/"+c.name+form, kind)
				what := c.name + form + " " + kind
				if expectRun(t, what, got, want, len(want)); len(got) != len(want) {
					t.Errorf("%s: %d packets, want %d", what, len(got), len(want))
				}
				starts = append(starts, seconds(t, got[0].PTS)-seconds(t, want[0].PTS))
			}
			if len(starts) == 2 && math.Abs(starts[0]-starts[1]) > 0.0015 {
				t.Errorf("%s%s: sound and picture are shifted by %f s", c.name, form, starts[0]-starts[1])
			}
		}
	}
}

func TestFFmpegStart(t *testing.T) {
	film(t, "bframes.flv", 12, bframes)
	s := start(t)
	want := packets(t, filepath.Join(dir, "bframes.flv"), "video")
	got := packets(t, s.url+"/vod/bframes.flv?start=5.5", "video")
	// From the keyframe at or before it.
	if at := expectRun(t, "start", got, want, 150); at != 125 || at+len(got) != len(want) {
		t.Errorf("%d packets from %d on, want all from 125 on", len(got), at)
	}
}

func TestFFmpegLive(t *testing.T) {
	film(t, "simple.flv", 12, simple)
	film(t, "bframes.flv", 12, bframes)
	film(t, "hevc.mp4", 12, hevc)
	film(t, "av1.mp4", 12, av1)
	film(t, "sound.mp4", 12, sound)
	s := start(t)
	for _, c := range []struct {
		film, ext string
		forms     []string
	}{
		{"simple", "flv", []string{".flv", ".mp4", "/index.m3u8"}},
		{"bframes", "flv", []string{".flv", ".mp4", "/index.m3u8"}},
		{"hevc", "mp4", []string{".mp4", "/index.m3u8"}},
		{"av1", "mp4", []string{".mp4", "/index.m3u8"}},
		{"sound", "mp4", []string{".mp4", "/index.m3u8"}},
	} {
		for i, form := range c.forms {
			t.Run(c.film+strings.ReplaceAll(form, "/", " "), func(t *testing.T) {
				t.Parallel()
				for _, kind := range []string{"video", "audio"} {
					if kind == "video" && c.film == "sound" {
						continue
					}
					name := c.film + strconv.Itoa(i) + kind // each has all of its 12 s to come
					s.publish(name, c.film)
					want := packets(t, filepath.Join(dir, c.film+"."+c.ext), kind)
					got := packets(t, s.url+"/live/"+name+form, kind, "-read_intervals", "%+3")
					if len(got) > 0 && kind == "video" && got[0].Hash != want[0].Hash && strings.HasSuffix(form, "m3u8") {
						got = got[1:] // it has the parameter sets in front
					}
					expectRun(t, name+form+" "+kind, got, want, 60)
				}
			})
		}
	}
}
