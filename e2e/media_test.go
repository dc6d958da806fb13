package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
)

// film makes a file with ffmpeg's test sources, once for each length and
// format: H.264 with two B-frames and a keyframe each second, and AAC.
func film(t *testing.T, seconds int, extension string) string {
	t.Helper()
	films.Lock()
	defer films.Unlock()
	path := filepath.Join(built, fmt.Sprintf("film%d.%s", seconds, extension))
	if slices.Contains(films.made, path) {
		return path
	}
	lab.Run(t, "ffmpeg", "-hide_banner", "-loglevel", "error", "-y",
		"-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25",
		"-f", "lavfi", "-i", "sine=frequency=330:sample_rate=44100",
		"-t", strconv.Itoa(seconds), "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p",
		"-g", "25", "-keyint_min", "25", "-sc_threshold", "0", "-bf", "2", "-c:a", "aac", "-b:a", "64k", path)
	films.made = append(films.made, path)
	return path
}

var films struct {
	sync.Mutex
	made []string
}

// packet is one packet as ffprobe sees it.
type packet struct {
	Codec string `json:"codec_type"`
	PTS   int64  `json:"pts"` // in the units of the file, milliseconds in FLV
	DTS   int64  `json:"dts"`
	Flags string `json:"flags"`
	Hash  string `json:"data_hash"`
}

// packets lists the packets of one type, "video" or "audio".
func packets(t *testing.T, path, codec string) []packet {
	t.Helper()
	out, err := exec.Command("ffprobe", "-v", "error", "-show_packets", "-show_data_hash", "md5",
		"-select_streams", codec[:1], "-of", "json", path).Output()
	if err != nil {
		t.Fatalf("ffprobe %s: %v", path, err)
	}
	var list struct{ Packets []packet }
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	return list.Packets
}

func hashes(list []packet) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.Hash)
	}
	return out
}

// expectRun checks that got is an unbroken run of the frames of want, of at
// least a number, with the same distances in time, and returns where it begins.
func expectRun(t *testing.T, what string, got, want []packet, least int) (at int) {
	t.Helper()
	if len(got) < least {
		t.Fatalf("%s: %d packets, want at least %d", what, len(got), least)
	}
	at = slices.Index(hashes(want), got[0].Hash)
	if at < 0 {
		t.Fatalf("%s: the first packet is none of those published", what)
	}
	if at+len(got) > len(want) {
		t.Fatalf("%s: %d packets from %d on, but only %d were published", what, len(got), at, len(want))
	}
	for i, p := range got {
		w := want[at+i]
		if p.Hash != w.Hash {
			t.Fatalf("%s: packet %d is not the one published", what, i)
		}
		if p.DTS-got[0].DTS != w.DTS-want[at].DTS || p.PTS-p.DTS != w.PTS-w.DTS {
			t.Fatalf("%s: packet %d: dts %d pts %d after %d, published with %d %d after %d", what, i, p.DTS, p.PTS, got[0].DTS, w.DTS, w.PTS, want[at].DTS)
		}
	}
	return at
}

// expectSame tells where two lists of hashes begin to differ.
func expectSame(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("%s: packet %d of %d is another one", what, i, len(want))
			return
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d packets, want %d", what, len(got), len(want))
	}
}

func lastIndex(list []packet, hash string) int {
	for i, p := range slices.Backward(list) {
		if p.Hash == hash {
			return i
		}
	}
	return -1
}

func atLeast(got, want float64) error {
	if got < want {
		return fmt.Errorf("%v, want at least %v", got, want)
	}
	return nil
}

func fileSize(t *testing.T, path string) float64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return float64(info.Size())
}

func readFull(t *testing.T, r io.Reader, p []byte) {
	t.Helper()
	if _, err := io.ReadFull(r, p); err != nil {
		t.Fatal(err)
	}
}

// chunks divides an RTMP message on chunk stream 3: all but the first chunk have
// a header of type 3.
func chunks(message []byte, size int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := 0; i < len(message); i += size {
			chunk := slices.Clone(message[i:min(i+size, len(message))])
			if i > 0 {
				chunk = append([]byte{0xc3}, chunk...)
			}
			if !yield(chunk) {
				return
			}
		}
	}
}
