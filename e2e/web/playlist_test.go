package web

import (
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A list is what hls-parser, in its strict mode, has read.
type list struct {
	Master, Endlist bool
	Segments, Parts int
	Variants        []string
}

// validate has a playlist read by hls-parser.
func validate(t *testing.T, url string) (list, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	cmd := exec.CommandContext(t.Context(), "node", script(t, "validate.mjs"))
	cmd.Stdin = strings.NewReader(string(text))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", url, err, out, text)
	}
	var l list
	if err := json.Unmarshal(out, &l); err != nil {
		t.Fatal(err)
	}
	return l, string(text)
}

// expectBoxes has the segments of a media playlist read by mp4box.js, GPAC's in JavaScript, and checks how
// many samples they have at least on each track, the codecs of which are named.
func expectBoxes(t *testing.T, url string, least int, codecs ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "node", script(t, "boxes.mjs"), url).CombinedOutput()
	var boxes struct {
		Codecs, Problems []string
		Samples          []int
	}
	if err == nil {
		err = json.Unmarshal(out, &boxes)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", url, err, out)
	}
	if len(boxes.Problems) > 0 {
		t.Errorf("%s: %s", url, strings.Join(boxes.Problems, "\n"))
	}
	if len(boxes.Codecs) != len(codecs) {
		t.Fatalf("%s has the codecs %q, want %q", url, boxes.Codecs, codecs)
	}
	for i, codec := range codecs {
		if !strings.HasPrefix(boxes.Codecs[i], codec) || boxes.Samples[i] < least {
			t.Errorf("%s: track %d has %d samples of %s, want %d of %s at least", url, i, boxes.Samples[i], boxes.Codecs[i], least, codec)
		}
	}
}

var playlists = regexp.MustCompile(`[0-9a-f]{12}_[a-z0-9]*_stream\.m3u8`)

func TestPlaylists(t *testing.T) {
	film(t, "bframes.flv", 12, bframes)
	film(t, "hevc.mp4", 12, hevc)
	film(t, "bframes-live.flv", 60, bframes) // so long that nothing here comes after its end
	film(t, "hevc-live.mp4", 60, hevc)
	s := start(t)
	for name, codecs := range map[string][]string{"bframes": {"avc1.", "mp4a.40.2"}, "hevc": {"hvc1.", "Opus"}} {
		l, text := validate(t, s.url+"/vod/"+name+"/index.m3u8")
		if l.Master || !l.Endlist || l.Segments != 3 {
			t.Errorf("recorded: %+v\n%s", l, text)
		}
		expectBoxes(t, s.url+"/vod/"+name+"/index.m3u8", 300, codecs...)
		p := s.publish(name, name+"-live")
		base := s.url + "/live/" + name + "/"
		time.Sleep(time.Until(p.began.Add(4 * time.Second))) // of the channel, whose clock is the wall's
		master, text := validate(t, base+"index.m3u8")
		if !master.Master || len(master.Variants) != 1 {
			t.Errorf("master: %+v\n%s", master, text)
		}
		files := playlists.FindAllString(text, -1)
		if len(files) != 2 {
			t.Fatalf("the tracks are %v", files)
		}
		for _, file := range files {
			codec := codecs[0]
			if strings.Contains(file, "audio") {
				codec = codecs[1]
			}
			expectBoxes(t, base+file, 75, codec)
			if l, text := validate(t, base+file); l.Endlist || l.Parts < 5 || l.Segments < 8 {
				t.Errorf("%s: %+v\n%s", file, l, text)
			}
			if _, text := validate(t, base+file+"?_HLS_msn=9&_HLS_part=1"); !strings.Contains(text, "#EXT-X-PRELOAD-HINT") {
				t.Errorf("%s has no hint:\n%s", file, text)
			}
		}
		p.stop()
		for _, file := range files {
			deadline := time.Now().Add(30 * time.Second)
			for {
				l, text := validate(t, base+file)
				if l.Endlist && l.Parts == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s does not end: %+v\n%s", file, l, text)
				}
			}
		}
	}
}
