// MP4 files made by ffmpeg give the frames that ffmpeg itself makes of them.

package mp4

import (
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

// A memory is a file in memory, and counts what is read of it.
type memory struct {
	p     []byte
	size  int64 // -1: not told
	reads int
}

func newMemory(p []byte) *memory { return &memory{p: p, size: int64(len(p))} }

func (m *memory) Size() int64 { return m.size }

func (m *memory) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	m.reads++
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off >= int64(len(m.p)) {
		return 0, io.EOF
	}
	n := copy(p, m.p[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// film is two keyframe distances of H.264 with B-frames, and AAC.
var film = sync.OnceValues(func() ([]byte, error) {
	return encode("-c:v", "libx264", "-g", "50", "-bf", "3", "-preset", "veryfast", "-c:a", "aac", "-ac", "2")
})

// encode encodes 6 s of test pictures and sound.
func encode(args ...string) ([]byte, error) {
	return output(nil, append([]string{
		"-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=6",
		"-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:d=6",
	}, args...), "mp4")
}

// output runs ffmpeg and returns what it writes. What is in input is its in.mp4.
func output(input []byte, args []string, format string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "mp4")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "in.mp4"), input, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("ffmpeg", slices.Concat([]string{"-v", "error"}, args, []string{"-f", format, "out"})...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ffmpeg %q: %w: %s", args, err, out)
	}
	return os.ReadFile(filepath.Join(dir, "out"))
}

// A packet is a frame as ffprobe sees it.
type packet struct {
	video, key bool
	pts, dts   int64 // ms
	hash       string
}

// probe returns the packets of one sort in a file.
func probe(t *testing.T, file []byte, stream string) []packet {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ffprobe", "-v", "error", "-select_streams", stream, "-show_data_hash", "md5",
		"-show_entries", "packet=codec_type,pts_time,dts_time,flags,data_hash", "-of", "json", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var probed struct {
		Packets []struct {
			Type  string  `json:"codec_type"`
			PTS   float64 `json:"pts_time,string"`
			DTS   float64 `json:"dts_time,string"`
			Flags string  `json:"flags"`
			Hash  string  `json:"data_hash"`
		} `json:"packets"`
	}
	if err := json.Unmarshal(out, &probed); err != nil {
		t.Fatal(err)
	}
	ms := func(seconds float64) int64 { return int64(math.Round(math.Round(seconds*1e6) / 1000)) } // of whole microseconds
	var packets []packet
	for _, p := range probed.Packets {
		video := p.Type == "video"
		packets = append(packets, packet{video, video && p.Flags[0] == 'K', ms(p.PTS), ms(p.DTS), strings.TrimPrefix(p.Hash, "MD5:")})
	}
	return packets
}

// play reads all batches from a position, and checks what holds for every batch.
func play(t *testing.T, index media.Index, f media.File, from time.Duration) []*media.Batch {
	t.Helper()
	next := index.Batches(f, from)
	var batches []*media.Batch
	for {
		b, err := next(t.Context())
		if err == io.EOF {
			return batches
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range b.Frames() {
			if f.Key && i > 0 {
				t.Fatalf("batch at %v has a keyframe at %d", b.DTS(), i)
			}
		}
		batches = append(batches, b)
	}
}

// packets are the frames of batches as ffprobe would see them in an FLV file.
func packets(batches []*media.Batch, video bool) []packet {
	var list []packet
	for _, b := range batches {
		for _, f := range b.Frames() {
			if f.Track == media.Video != video {
				continue
			}
			codec := b.Header().Audio.Codec
			if video {
				codec = b.Header().Video.Codec
			}
			head := map[string]int{"h264": 5, "hevc": 8, "av1": 5, "aac": 2, "mp3": 1, "opus": 5}[codec]
			list = append(list, packet{video, f.Key, f.PTS.Milliseconds(), f.DTS.Milliseconds(),
				fmt.Sprintf("%x", md5.Sum(f.Body[head:]))})
		}
	}
	return list
}

func TestFramesAreThoseOfFFmpeg(t *testing.T) {
	remux := func(args ...string) func() ([]byte, error) {
		return func() ([]byte, error) {
			b, err := film()
			if err != nil {
				return nil, err
			}
			return output(b, slices.Concat([]string{"-i", "in.mp4"}, args), "mp4")
		}
	}
	for _, test := range []struct {
		name string
		make func() ([]byte, error)
	}{
		{"moov last", film},
		{"moov first", remux("-c", "copy", "-movflags", "+faststart")},
		{"fragments", remux("-c", "copy", "-movflags", "frag_keyframe+empty_moov")},
		{"fragments with edit list", remux("-c", "copy", "-movflags", "frag_keyframe+default_base_moof+delay_moov")},
		{"fragments of each track", remux("-c", "copy", "-movflags", "separate_moof+frag_keyframe+empty_moov")},
		{"cut by an edit list", remux("-ss", "2.5", "-c", "copy")},
		{"audio later", remux("-itsoffset", "1.5", "-i", "in.mp4", "-map", "0:v", "-map", "1:a", "-c", "copy")},
		{"video only", remux("-c", "copy", "-an")},
		{"audio only", remux("-c", "copy", "-vn")},
		{"two of each", remux("-map", "0:v", "-map", "0:v", "-map", "0:a", "-map", "0:a", "-c", "copy")},
		{"no B-frames", func() ([]byte, error) {
			return encode("-c:v", "libx264", "-tune", "zerolatency", "-g", "25", "-c:a", "aac")
		}},
		{"negative composition offsets", func() ([]byte, error) {
			return encode("-c:v", "libx264", "-bf", "2", "-c:a", "aac", "-movflags", "negative_cts_offsets")
		}},
		{"30000/1001 and 48 kHz", func() ([]byte, error) {
			return encode("-r", "30000/1001", "-c:v", "libx264", "-bf", "2", "-ar", "48000", "-c:a", "aac")
		}},
		{"MP3", func() ([]byte, error) {
			return encode("-c:v", "libx264", "-bf", "2", "-c:a", "libmp3lame")
		}},
		{"QuickTime", func() ([]byte, error) {
			b, err := film()
			if err != nil {
				return nil, err
			}
			return output(b, []string{"-i", "in.mp4", "-c", "copy"}, "mov")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b, err := test.make()
			if err != nil {
				t.Fatal(err)
			}
			flv, err := output(b, []string{"-copyts", "-i", "in.mp4", "-c", "copy", "-map", "0:v:0?", "-map", "0:a:0?"}, "flv")
			if err != nil {
				t.Fatal(err)
			}
			f := newMemory(b)
			index, err := ReadIndex(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			batches := play(t, index, f, 0)
			for _, video := range []bool{true, false} {
				stream := "a"
				if video {
					stream = "v"
				}
				compare(t, packets(batches, video), probe(t, flv, stream))
			}
		})
	}
}

func compare(t *testing.T, got, want []packet) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("packet %d is %+v, ffmpeg has %+v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d packets, ffmpeg has %d", len(got), len(want))
	}
}

// FFmpeg 5 does not know these codecs in FLV, so its packets in the MP4 itself are
// compared.
func TestEnhancedCodecs(t *testing.T) {
	for _, test := range []struct {
		video, audio string
		config       [2]string // how the configurations begin
		args         []string
	}{
		{"hevc", "aac", [2]string{"\x90hvc1\x01", "\xaf\x00\x12"},
			[]string{"-c:v", "libx265", "-x265-params", "log-level=error:keyint=50", "-tag:v", "hvc1", "-c:a", "aac"}},
		{"av1", "opus", [2]string{"\x90av01\x81", "\x90OpusOpusHead\x01\x01"},
			[]string{"-c:v", "libsvtav1", "-preset", "12", "-g", "50", "-c:a", "libopus"}},
	} {
		t.Run(test.video, func(t *testing.T) {
			b, err := encode(test.args...)
			if err != nil {
				t.Fatal(err)
			}
			f := newMemory(b)
			index, err := ReadIndex(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			batches := play(t, index, f, 0)
			h := batches[0].Header()
			for i, format := range []media.Format{h.Video, h.Audio} {
				if format.Codec != []string{test.video, test.audio}[i] || !strings.HasPrefix(string(format.Config), test.config[i]) {
					t.Errorf("the header has %q %x", format.Codec, format.Config)
				}
			}
			video, audio := probe(t, b, "v"), probe(t, b, "a")
			shift := -min(video[0].dts, audio[0].dts, 0)
			for _, list := range [][]packet{video, audio} {
				for i := range list {
					list[i].dts += shift
					list[i].pts += shift
				}
			}
			compare(t, packets(batches, true), video)
			compare(t, packets(batches, false), audio)
		})
	}
}

func TestHeader(t *testing.T) {
	b, err := film()
	if err != nil {
		t.Fatal(err)
	}
	index, err := ReadIndex(t.Context(), newMemory(b))
	if err != nil {
		t.Fatal(err)
	}
	batches := play(t, index, newMemory(b), 0)
	h := batches[0].Header()
	for _, b := range batches {
		if b.Header() != h {
			t.Fatal("a batch has a header of its own")
		}
	}
	if h.Video.Codec != "h264" || string(h.Video.Config[:6]) != "\x17\x00\x00\x00\x00\x01" {
		t.Errorf("video is %q %x", h.Video.Codec, h.Video.Config)
	}
	if h.Audio.Codec != "aac" || string(h.Audio.Config[:4]) != "\xaf\x00\x12\x10" {
		t.Errorf("audio is %q %x", h.Audio.Codec, h.Audio.Config)
	}
	values, err := amf.Decode(h.Meta)
	if err != nil || len(values) != 2 || values[0] != "onMetaData" {
		t.Fatalf("metadata %v, %v", values, err)
	}
	meta := values[1].(amf.ECMAArray)
	for key, want := range map[string]any{
		"width": 320.0, "height": 180.0, "videocodecid": 7.0, "framerate": 25.0,
		"audiocodecid": 10.0, "audiosamplerate": 44100.0, "stereo": true,
	} {
		if got := meta.Get(key); got != want {
			t.Errorf("%s is %v, not %v", key, got, want)
		}
	}
	if d := meta.Get("duration").(float64); d < 5.9 || d > 6.2 {
		t.Errorf("duration is %v", d)
	}
}

func TestSeek(t *testing.T) {
	b, err := film()
	if err != nil {
		t.Fatal(err)
	}
	f := newMemory(b)
	index, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	all := play(t, index, f, 0)
	if len(all) != 3 {
		t.Fatalf("%d batches, not 3", len(all))
	}
	for _, test := range []struct {
		from time.Duration
		want int // batch
	}{
		{media.Newest, 0}, {0, 0}, {all[1].DTS() - time.Millisecond, 0}, {all[1].DTS(), 1},
		{all[2].DTS() + time.Second, 2}, {time.Hour, 2},
	} {
		f.reads = 0
		got := play(t, index, f, test.from)
		if len(got) != 3-test.want || got[0].DTS() != all[test.want].DTS() || !got[0].Join() {
			t.Errorf("from %v: %d batches from %v", test.from, len(got), got[0].DTS())
		}
		if f.reads != len(got) {
			t.Errorf("from %v: %d reads for %d batches", test.from, f.reads, len(got))
		}
	}
}

func TestAudioOnlyBatches(t *testing.T) {
	b, err := film()
	if err == nil {
		b, err = output(b, []string{"-i", "in.mp4", "-c", "copy", "-vn"}, "mp4")
	}
	if err != nil {
		t.Fatal(err)
	}
	f := newMemory(b)
	index, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range play(t, index, f, 0) {
		frames := b.Frames()
		if span := frames[len(frames)-1].DTS - b.DTS(); !b.Join() || span >= media.MaxAudioSpan {
			t.Errorf("batch at %v spans %v, join %v", b.DTS(), span, b.Join())
		}
	}
}

// After a context has ended the batch that was being read comes again.
func TestContext(t *testing.T) {
	b, err := film()
	if err != nil {
		t.Fatal(err)
	}
	f := newMemory(b)
	index, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	next := index.Batches(f, 0)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := next(ended); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	first, err := next(t.Context())
	if err != nil || first.DTS() != 0 {
		t.Fatalf("then %v", err)
	}
}

// A fast start file plays from an origin that does not tell its size.
func TestUnknownSize(t *testing.T) {
	b, err := film()
	if err == nil {
		b, err = output(b, []string{"-i", "in.mp4", "-c", "copy", "-movflags", "+faststart"}, "mp4")
	}
	if err != nil {
		t.Fatal(err)
	}
	f := newMemory(b)
	want, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	f.size = -1
	got, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, packets(play(t, got, f, 0), true), packets(play(t, want, f, 0), true))
}
