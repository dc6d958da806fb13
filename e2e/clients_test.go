package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
	"github.com/mediad/mediad/pipeline/api"
)

// clients returns those of /api/clients that a query is about, once they are so many.
func (d *daemon) clients(query string, many int) (list []api.Client) {
	d.t.Helper()
	lab.Await(d.t, fmt.Sprintf("there are %d clients %s", many, query), func() error {
		body, err := d.Get("/api/clients" + query)
		if err != nil {
			return err
		}
		list = nil
		if err := json.Unmarshal(body, &list); err != nil {
			return err
		}
		if len(list) != many {
			return fmt.Errorf("there are %+v", list)
		}
		return nil
	})
	return list
}

// Who runs the daemon sees who is there, and throws out one viewer, those of one address, and the
// publisher; the others stay.
func TestKick(t *testing.T) {
	t.Parallel()
	d := start(t, live)
	publisher := d.onAirForever("show")
	out := d.play("live/show", d.Path("out.flv"))
	first := d.clients("?action=play", 1)[0]
	stays := d.play("live/show", d.Path("stays.flv"))
	flv := d.watch("flv", "127.0.0.2", "live", "")
	d.watch("hls", "127.0.0.2", "live", "")
	d.clients("?name=live/show", 5)

	listed, code := d.Command("clients", "--name", "live/show")
	for _, want := range []string{"play rtmp live/show 127.0.0.1", "publish rtmp live/show 127.0.0.1", "play flv live/show 127.0.0.2", "play hls live/show 127.0.0.2"} {
		if !strings.Contains(strings.Join(strings.Fields(listed), " "), want) || code != 0 {
			t.Errorf("mediad clients leaves out %q:\n%s", want, listed)
		}
	}
	kick := func(want string, args ...string) {
		t.Helper()
		if text, code := d.Command(append([]string{"kick"}, args...)...); code != 0 || !strings.HasPrefix(text, want) {
			t.Errorf("mediad kick %q: exit code %d\n%swant\n%s", args, code, text, want)
		}
	}
	kick("1 thrown out\n", first.ID)
	_ = out.Wait() // ffmpeg may see the end as an error
	if got := packets(t, d.Path("out.flv"), "video"); len(got) == 0 {
		t.Error("who was thrown out was played nothing before")
	}
	kick("2 thrown out\n", "--name", "live/show", "--action", "play", "--address", "127.0.0.2")
	if flv.read() == 0 {
		t.Error("the viewer of FLV was played nothing before")
	}
	left := d.clients("?name=live/show&address=127.0.0.1", 2)
	if slices.ContainsFunc(left, func(c api.Client) bool { return c.ID == first.ID }) {
		t.Errorf("left are %+v", left)
	}
	if text, code := d.Command("kick", first.ID); code == 0 || !strings.Contains(text, "no such client") {
		t.Errorf("who has left is thrown out again: exit code %d, %s", code, text)
	}
	if text, code := d.Command("kick"); code == 0 || !strings.Contains(text, "whom?") {
		t.Errorf("nobody is named: exit code %d, %s", code, text)
	}

	kick("1 thrown out\n", "--name", "live/show", "--action", "publish")
	if err := publisher.Wait(); err == nil {
		t.Error("the publisher takes its end for a good one")
	}
	if err := stays.Wait(); err != nil { // the channel has gone off the air
		t.Errorf("the viewer who stays: %v\n%s", err, &stays.Out)
	}
	d.clients("?address=127.0.0.1", 0)
	for series, want := range map[string]float64{
		`mediad_stream_ends_total{cause="kicked"}`: 2, `mediad_rtmp_closed_total{cause="kicked"}`: 1, `mediad_rtmp_closed_total{cause="over"}`: 1,
	} {
		if got := d.metric(series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
}
