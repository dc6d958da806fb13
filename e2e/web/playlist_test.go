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

var playlists = regexp.MustCompile(`[0-9a-f]{12}_[a-z0-9]*_stream\.m3u8`)

func TestPlaylists(t *testing.T) {
	film(t, "bframes.flv", 12, bframes)
	film(t, "hevc.mp4", 12, hevc)
	s := start(t)
	for _, name := range []string{"bframes", "hevc"} {
		l, text := validate(t, s.url+"/vod/"+name+"/index.m3u8")
		if l.Master || !l.Endlist || l.Segments != 3 {
			t.Errorf("recorded: %+v\n%s", l, text)
		}
		p := s.publish(name, name)
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
