// Clients that can follow are sent to a node that serves them better; all others are served where
// they came.

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/pipeline/api"
)

// TestRedirect has a film on a busy node that another one has in its memory.
func TestRedirect(t *testing.T) {
	t.Parallel()
	const frames = 250
	_, nodes := service(t, 3, "- use: broker\n", "- use: broker\n      with: {redirect: {gain: 2.0}}\n")
	busy, idle, host := nodes[0], nodes[1], nodes[2]
	for _, n := range []*node{busy, idle} {
		words := "-v error -f lavfi -i testsrc2=size=320x180:rate=25 -t 10 -c:v libx264 -preset ultrafast -g 25 -f flv"
		if out, err := exec.Command("ffmpeg", append(strings.Fields(words), n.path("media", "film.flv"))...).CombinedOutput(); err != nil {
			t.Fatalf("ffmpeg: %v: %s", err, out)
		}
	}
	probe := func(url string) int {
		out, err := host.command("ffprobe", "-v", "error", "-count_packets", "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0", url).Output()
		var packets int
		if _, scan := fmt.Sscan(strings.Trim(string(out), ", \n"), &packets); err != nil || scan != nil {
			t.Errorf("ffprobe %s: %q, %v", url, out, errors.Join(err, scan))
		}
		return packets
	}
	if n := probe("rtmp://" + idle.address + "/vod/film"); n != frames { // so it comes into the node's memory
		t.Fatalf("ffprobe gets %d packets of the idle node, want %d", n, frames)
	}
	busy.busy(0.93)
	eventually(t, busy.name+" would send clients away", func() error {
		var told api.Explanation
		err := busy.get("/api/explain?name=vod/film", &told)
		for _, c := range told.Candidates {
			if c.Source == "redirect" {
				return err
			}
		}
		return errors.Join(err, fmt.Errorf("the candidates are %+v", told.Candidates))
	})

	// Who is served brings the film into this node's memory, for which nobody is sent away. So those who are not come first.
	film := "http://" + idle.address + ":8080/vod/film.mp4?a=b"
	for _, agent := range []string{"Lavf/59.27.100", "Mozilla/5.0 (X11; Linux) test"} {
		if got, err := busy.location("/vod/film.mp4?a=b", agent); err != nil || got != film {
			t.Errorf("%s is sent to %q, want %q: %v", agent, got, film, err)
		}
	}
	if n := probe("http://" + busy.address + ":8080/vod/film.mp4"); n != frames {
		t.Errorf("ffprobe gets %d packets over HTTP, want %d", n, frames)
	}
	if here, there := busy.metric("mediad_web_bytes_total"), idle.metric("mediad_web_bytes_total"); here != 0 || there == 0 {
		t.Errorf("over HTTP, %s has served %.0f bytes and %s %.0f", busy.name, here, idle.name, there)
	}
	there, err := busy.redirected("film")
	if want := "rtmp://" + idle.address + ":1935/vod"; err != nil || there != want {
		t.Errorf("a client with the reconnect bit is sent to %q, want %q: %v", there, want, err)
	}

	if got, err := busy.location("/vod/film.mp4", "curl/7.88.1"); err != nil || got != "" {
		t.Errorf("curl is sent to %q: %v", got, err)
	}
	before := idle.metric("mediad_stream_plays_total")
	if n := probe("rtmp://" + busy.address + "/vod/film"); n != frames { // ffmpeg knows no ReconnectRequest
		t.Errorf("ffprobe gets %d packets over RTMP, want %d", n, frames)
	}
	if after := idle.metric("mediad_stream_plays_total"); after != before {
		t.Errorf("ffprobe was served by %s over RTMP", idle.name)
	}
}

// redirected plays a film as a client that can reconnect, and returns the URL to which it is asked to
// come. It is served until it goes.
func (n *node) redirected(name string) (there string, err error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	c, err := rtmp.DialMovable(ctx, "rtmp://"+n.public+":1935/vod")
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.Play(ctx, name, 0, -1, true); err != nil {
		return "", err
	}
	for {
		m, err := c.Next(ctx)
		if err != nil {
			return there, err
		}
		if m.Kind == rtmp.KindStatus && m.Status.Code == "NetConnection.Connect.ReconnectRequest" {
			there = m.Elsewhere
		}
		if m.Kind == rtmp.KindMedia && m.Track == media.Video {
			return there, nil
		}
	}
}

// location is where a client over HTTP is sent, "" when it is served.
func (n *node) location(path, agent string) (string, error) {
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodHead, "http://"+n.public+":8080"+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", agent)
	client := http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusFound, http.StatusOK:
		return resp.Header.Get("Location"), nil
	}
	return "", errors.New(resp.Status)
}
