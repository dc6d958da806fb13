package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/e2e/lab"
)

// The limits and the callback of `access`, for viewers of each protocol alike.

const jwtSecret = "0123456789abcdef0123456789abcdef"

// limited plays one channel in three apps, of which each has a limit of one viewer, and in one that asks a callback.
const limited = `
  live:
    - use: ingest
      with: {app: live, access: {callback: %[1]q}}
    - use: broadcast
      with: {window: 10s}
  by-name:
    - from: live/broadcast
    - use: stream
      with: {app: name, access: {per-name: 1}}
  by-address:
    - from: live/broadcast
    - use: stream
      with: {app: address, access: {per-address: 1}}
  by-token:
    - from: live/broadcast
    - use: stream
      with: {app: token, access: {secret: ` + jwtSecret + `}}
  asked:
    - from: live/broadcast
    - use: stream
      with: {app: asked, access: {callback: %[1]q}}
`

// onAirForever publishes a film over and over until the test ends.
func (d *daemon) onAirForever(name string) *lab.Program {
	d.t.Helper()
	c := lab.Launch(d.t, "ffmpeg", "-hide_banner", "-loglevel", "warning", "-re", "-stream_loop", "-1", "-i", film(d.t, 12, "flv"), "-c", "copy", "-f", "flv", d.URL("live/"+name))
	d.onAir(name)
	return c
}

// A guest is who has been let in to watch.
type guest struct {
	leave func()
	read  func() int64 // reads for two seconds, and returns how many bytes it has been sent
}

// suffixes are what is behind a name, by protocol.
var suffixes = map[string]string{"flv": ".flv", "mp4": ".mp4", "hls": "/index.m3u8"}

// watch comes to watch by a protocol from an address of this machine, nil when it is refused.
func (d *daemon) watch(protocol, from, app, query string) *guest {
	d.t.Helper()
	if protocol == "rtmp" {
		return d.watchRTMP(app, query)
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
	ctx, cancel := context.WithCancel(d.t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.HTTP+"/"+app+"/show"+suffixes[protocol]+query, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		d.t.Fatal(err)
	}
	leave := func() {
		cancel()
		resp.Body.Close()
	}
	d.t.Cleanup(leave)
	switch resp.StatusCode {
	case http.StatusOK:
		return &guest{leave, func() int64 {
			defer time.AfterFunc(2*time.Second, cancel).Stop()
			n, _ := io.Copy(io.Discard, resp.Body) // until it leaves
			return n
		}}
	case http.StatusForbidden:
		leave()
		return nil
	}
	d.t.Fatalf("%s is answered %s", r.URL, resp.Status)
	return nil
}

func (d *daemon) watchRTMP(app, query string) *guest {
	d.t.Helper()
	c := d.dial(app)
	if err := c.Play(d.t.Context(), "show"+query, stream.StartAny, -1, true); err != nil {
		d.t.Fatal(err)
	}
	m := until(d.t, c, "an answer", func(m rtmp.Message) bool { return m.Kind == rtmp.KindStatus && m.Status.Code != "NetStream.Play.Reset" })
	if m.Status.Level == "error" {
		c.Close()
		return nil
	}
	return &guest{func() { c.Close() }, func() (n int64) {
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			n += int64(len(until(d.t, c, "a frame", coded).Body))
		}
		return n
	}}
}

// let comes to watch until it is let in: who was there before may not have been missed yet.
func (d *daemon) let(protocol, app, query string) (g *guest) {
	d.t.Helper()
	lab.Await(d.t, protocol+" is let in to "+app, func() error {
		if g = d.watch(protocol, "127.0.0.1", app, query); g == nil {
			return fmt.Errorf("it is refused")
		}
		return nil
	})
	return g
}

func TestLimitsOfViewers(t *testing.T) {
	t.Parallel()
	callback := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(callback.Close)
	d := start(t, fmt.Sprintf(limited, callback.URL))
	d.onAirForever("show")
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"name": "token/show", "viewers": 1, "exp": time.Now().Add(time.Hour).Unix()}).
		SignedString([]byte(jwtSecret))
	if err != nil {
		t.Fatal(err)
	}
	protocols := []string{"rtmp", "flv", "mp4", "hls"} // HLS last: its viewers are missed after half a minute
	for app, query := range map[string]string{"name": "", "address": "", "token": "?token=" + token} {
		for _, first := range protocols {
			g := d.let(first, app, query)
			for _, second := range protocols {
				if first == "hls" && second == "hls" {
					continue // they are the same viewer
				}
				if d.watch(second, "127.0.0.1", app, query) != nil {
					t.Errorf("%s: beside a viewer by %s there is another by %s", app, first, second)
				}
			}
			if other := d.watch("flv", "127.0.0.2", app, query); (other != nil) != (app == "address") {
				t.Errorf("%s: beside a viewer by %s one from another address: %v", app, first, other != nil)
			} else if other != nil {
				other.leave()
			}
			g.leave()
		}
	}
	if d.watch("flv", "127.0.0.1", "token", "") != nil || d.watch("rtmp", "127.0.0.1", "token", "?token=x") != nil {
		t.Error("without a right token one is let in")
	}
	lab.Await(t, "all are counted", func() error { return atLeast(d.metric("mediad_access_refused_total"), 3*15) })
}

// told is what a callback has been told.
type told struct {
	Action, Was, Protocol, App, Name, Address string
	Bytes                                     int64
	Seconds                                   float64
}

func TestCallbackIsToldOfTheEnd(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var all []told
	callback := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m told
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, m)
	}))
	t.Cleanup(callback.Close)
	find := func(action, was, protocol string) (told, error) {
		mu.Lock()
		defer mu.Unlock()
		i := slices.IndexFunc(all, func(m told) bool { return m.Action == action && m.Was == was && m.Protocol == protocol })
		if i < 0 {
			return told{}, fmt.Errorf("the callback was told %+v", all)
		}
		return all[i], nil
	}
	d := start(t, fmt.Sprintf(limited, callback.URL))
	publisher := d.onAirForever("show")
	if m, err := find("publish", "", "rtmp"); err != nil || m.App != "live" || m.Name != "show" || m.Address != "127.0.0.1" {
		t.Errorf("%v, %+v", err, m)
	}
	sum := int64(0)
	for _, protocol := range []string{"rtmp", "flv", "mp4", "hls"} {
		g := d.let(protocol, "asked", "")
		read := g.read()
		g.leave()
		sum += read
		if m, err := find("play", "", protocol); err != nil || m.App != "asked" || m.Name != "show" {
			t.Errorf("%s: %v, %+v", protocol, err, m)
		}
		if protocol == "hls" { // whose viewers leave with the daemon here
			publisher.Kill()
			if err := d.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		var m told
		lab.Await(t, "the end by "+protocol, func() (err error) {
			m, err = find("done", "play", protocol)
			return err
		})
		if m.App != "asked" || m.Name != "show" || m.Address != "127.0.0.1" || m.Bytes < read/2 || m.Bytes > 2*read+1<<20 || protocol != "hls" && m.Seconds < 1.5 {
			t.Errorf("%s: %d bytes were read, and told is %+v", protocol, read, m)
		}
	}
	lab.Await(t, "the publisher's end", func() error {
		m, err := find("done", "publish", "rtmp")
		if err == nil && (m.App != "live" || m.Bytes < sum/4 || m.Seconds < 5) {
			err = fmt.Errorf("told is %+v", m)
		}
		return err
	})
}

// listen.connections bounds those of RTMP, and as many viewers over HTTP.
func TestConnections(t *testing.T) {
	t.Parallel()
	d := start(t, live, edited(t, "listen: {", "listen: {connections: 2, "))
	p, err := d.Publish(lab.Publication{Path: "live/show"})
	lab.Must(t, err)
	defer p.Close()
	v, err := d.Watch("live/show")
	lab.Must(t, err)
	defer v.Close()
	conn, err := net.Dial("tcp", d.RTMP)
	lab.Must(t, err)
	defer conn.Close()
	lab.Must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third connection is taken: %v", err)
	}
	for i, want := range []int{200, 200, 503} {
		resp, err := http.Get("http://" + d.HTTP + "/live/show.flv")
		lab.Must(t, err)
		defer resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("viewer %d over HTTP is answered %d, want %d", i+1, resp.StatusCode, want)
		}
	}
	if n := d.metric(`mediad_rtmp_closed_total{cause="limit"}`); n != 1 {
		t.Errorf("%v connections are counted as too many", n)
	}
}
