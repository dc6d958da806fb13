package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// front is a Front whose publishers are the test itself.
type front struct{ handlers map[string]Publisher }

func (f *front) HandlePublish(app string, p Publisher) (func(), error) {
	if f.handlers[app] != nil {
		return nil, fmt.Errorf("app %s is taken", app)
	}
	f.handlers[app] = p
	return func() { delete(f.handlers, app) }, nil
}

func env(name string) stage.Env {
	return stage.Env{Name: name, Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}
}

// wire returns an ingest in front of a broadcast.
func wire(t *testing.T, s Settings) (*Ingest, *broadcast.Broadcast) {
	t.Helper()
	b, err := broadcast.New(env("live/broadcast"), broadcast.Settings{Window: time.Minute, Memory: 1 << 20, Wait: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	e := env("live/ingest")
	e.Output = b
	in, err := New(e, s, &front{map[string]Publisher{}})
	if err != nil {
		t.Fatal(err)
	}
	return in, b
}

var local = netip.MustParseAddr("127.0.0.1")

func publish(t *testing.T, in *Ingest) Publication {
	t.Helper()
	p, err := in.Publish(t.Context(), Request{App: "live", Name: "show", Remote: local})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func message(body string) []byte { return append(make([]byte, media.Headroom), body...) }

const (
	avcConfig = "\x17\x00\x00\x00\x00sps"
	avcKey    = "\x17\x01\x00\x00\x50key"
	avcInter  = "\x27\x01\x00\x00\x00inter"
	aacConfig = "\xaf\x00\x12\x10"
	aacFrame  = "\xaf\x01frame"
)

func TestFramesReachTheWriter(t *testing.T) {
	in, b := wire(t, Settings{App: "live"})
	p := publish(t, in)
	meta := string(amf.Append(nil, "onMetaData", amf.Object{{Key: "width", Value: 640.0}}))
	for _, m := range []struct {
		track     media.Track
		timestamp uint32
		body      string
	}{
		{media.Data, 0, meta},
		{media.Video, 0, avcKey}, // T49: undecodable, held back
		{media.Video, 1000, avcConfig},
		{media.Audio, 1000, aacConfig},
		{media.Video, 1000, "\x17"}, // cut short
		{media.Video, 1000, avcKey},
		{media.Audio, 1010, aacFrame},
		{media.Video, 1040, avcConfig}, // the same again
		{media.Video, 1040, avcInter},
	} {
		if err := p.Write(t.Context(), m.track, m.timestamp, message(m.body)); err != nil {
			t.Fatal(err)
		}
	}
	src, err := b.Open(t.Context(), media.OpenRequest{Name: "show"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var header *media.Header
	for i, want := range []media.Frame{
		{Track: media.Video, Key: true, DTS: 0, PTS: 80 * time.Millisecond, Body: []byte(avcKey)},
		{Track: media.Audio, DTS: 10 * time.Millisecond, PTS: 10 * time.Millisecond, Body: []byte(aacFrame)},
		{Track: media.Video, DTS: 40 * time.Millisecond, PTS: 40 * time.Millisecond, Body: []byte(avcInter)},
	} {
		batch, err := src.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%+v", batch.Frames()); got != fmt.Sprintf("%+v", []media.Frame{want}) {
			t.Errorf("batch %d: %s, want %+v", i, got, want)
		}
		if i > 0 && batch.Header() != header {
			t.Errorf("batch %d has another header", i)
		}
		header = batch.Header()
	}
	if string(header.Video.Config) != avcConfig || string(header.Audio.Config) != aacConfig || string(header.Meta) != meta {
		t.Errorf("the header is %q", *header)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAdmission(t *testing.T) {
	networks := func(s ...string) (list []netip.Prefix) {
		for _, p := range s {
			list = append(list, netip.MustParsePrefix(p))
		}
		return list
	}
	for _, c := range []struct {
		name     string
		settings Settings
		remote   string
		key      string
		ok       bool
	}{
		{"this machine", Settings{}, "127.0.0.1", "", true},
		{"this machine, IPv6", Settings{}, "::1", "", true},
		{"this machine, mapped", Settings{}, "::ffff:127.0.0.1", "", true},
		{"another machine", Settings{}, "10.0.0.1", "", false},
		{"another machine with the key", Settings{Key: "k"}, "10.0.0.1", "k", true},
		{"wrong key", Settings{Key: "k"}, "127.0.0.1", "x", false},
		{"no key", Settings{Key: "k"}, "127.0.0.1", "", false},
		{"allowed network", Settings{Allow: networks("10.0.0.0/8")}, "10.0.0.1", "", true},
		{"not this machine", Settings{Allow: networks("10.0.0.0/8")}, "127.0.0.1", "", false},
		{"allowed network, no key", Settings{Allow: networks("10.0.0.0/8"), Key: "k"}, "10.0.0.1", "", false},
		{"key, but another network", Settings{Allow: networks("10.0.0.0/8"), Key: "k"}, "11.0.0.1", "k", false},
	} {
		in, _ := wire(t, c.settings)
		p, err := in.Publish(t.Context(), Request{
			Name: "show", Remote: netip.MustParseAddr(c.remote), Params: url.Values{"key": {c.key}},
		})
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, media.ErrDenied) {
			t.Errorf("%s: %v", c.name, err)
		}
		if p != nil {
			p.Close(t.Context())
		}
	}
}

func TestT53_TakeoverTellsTheLoser(t *testing.T) {
	in, _ := wire(t, Settings{Takeover: false})
	first := publish(t, in)
	if _, err := in.Publish(t.Context(), Request{Name: "show", Remote: local}); !errors.Is(err, media.ErrBusy) {
		t.Errorf("a second publisher: %v, want ErrBusy", err)
	}
	in.Takeover = true
	second := publish(t, in)
	<-first.Done()
	if err := first.Err(); !errors.Is(err, media.ErrTakenOver) {
		t.Errorf("the loser is told %v", err)
	}
	first.Close(t.Context())
	second.Close(t.Context())
}

func TestServeEndsPublications(t *testing.T) {
	in, _ := wire(t, Settings{App: "live"})
	ctx, cancel := context.WithCancel(t.Context())
	p := publish(t, in)
	served := make(chan error)
	go func() { served <- in.Serve(ctx) }()
	cancel()
	<-p.Done()
	p.Close(t.Context())
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := in.Publish(t.Context(), Request{Name: "late", Remote: local}); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("a late publisher: %v, want ErrUnavailable", err)
	}
}

func TestServeRefusesAnAppThatIsTaken(t *testing.T) {
	in, _ := wire(t, Settings{App: "live"})
	in.front.(*front).handlers["live"] = in
	if err := in.Serve(t.Context()); err == nil {
		t.Error("two ingests serve one app")
	}
}

// T16, for whom a callback decides about: strangers may publish when it grants, and
// it is told of the end with what was published.
func TestT16_AccessCallback(t *testing.T) {
	var mu sync.Mutex
	var told []map[string]any
	callback := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m map[string]any
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, m)
		if m["action"] == "publish" && m["name"] != "show" {
			http.Error(w, "only show", http.StatusForbidden)
		}
	}))
	defer callback.Close()
	a := access.Defaults()
	a.Callback = callback.URL
	in, _ := wire(t, Settings{App: "live", Access: a})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- in.Serve(ctx) }()

	stranger := netip.MustParseAddr("203.0.113.5")
	_, err := in.Publish(t.Context(), Request{App: "live", Name: "other", Remote: stranger})
	if !errors.Is(err, media.ErrDenied) || !strings.Contains(err.Error(), "only show") {
		t.Errorf("refused by the callback: %v", err)
	}
	p, err := in.Publish(t.Context(), Request{App: "live", Name: "show", Remote: stranger, Params: url.Values{"u": {"me"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{avcConfig, avcKey} {
		if err := p.Write(t.Context(), media.Video, 0, message(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	last := told[len(told)-1]
	if last["action"] != "done" || last["was"] != "publish" || last["bytes"] != float64(len(avcKey)) || last["address"] != stranger.String() {
		t.Errorf("told of the end: %v", last)
	}
}
