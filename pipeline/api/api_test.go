package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	corestage "github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// channels is a stage like a broadcast.
type channels struct{ corestage.Passive }

func (channels) ListChannels() []broadcast.Channel {
	return []broadcast.Channel{{Name: "demo", Video: "h264", Readers: 3}}
}

// app is a stage like a stream.
type app struct {
	corestage.Passive
	name string
}

func (a app) App() string { return a.name }

func (a app) Explain(_ context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	switch req.Name {
	case "sample", "a/b":
		return []media.Candidate{{Source: "x/cache", Cost: media.Cost{Place: "memory", Base: 1}, Total: 1, Chosen: true}}, nil
	case "broken":
		return nil, errors.New("the origin is gone")
	}
	return nil, fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
}

// testStages are a broadcast fed by an ingest, and what plays it.
func testStages() []pipeline.Status {
	broadcast := &pipeline.Stage{Pipeline: "live", Name: "broadcast", Kind: corestage.Kind{Name: "broadcast"}}
	ingest := &pipeline.Stage{
		Pipeline: "live", Name: "in", Kind: corestage.Kind{Name: "ingest"}, Output: broadcast,
		Given: map[string]any{"app": "live", "key": "hunter2", "apiToken": []string{"hunter2"}, "allow": []string{"::1", "http://joe:hunter2@h/?t=hunter2"}},
	}
	stream := &pipeline.Stage{Pipeline: "vod", Name: "stream", Kind: corestage.Kind{Name: "stream"}, Inputs: []*pipeline.Stage{broadcast}}
	since := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	return []pipeline.Status{
		{Stage: ingest, Made: corestage.Passive{}, State: pipeline.Running, Since: since},
		{Stage: broadcast, Made: channels{}, State: pipeline.Running, Since: since},
		{Stage: stream, Made: app{name: "vod"}, State: pipeline.Running, Since: since},
	}
}

func newTest(change func(*Options)) http.Handler {
	metrics := prometheus.NewRegistry()
	of := func(pipeline, stage string) prometheus.Registerer {
		return prometheus.WrapRegistererWith(prometheus.Labels{"pipeline": pipeline, "stage": stage}, metrics)
	}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mediad_ingest_refused_total"}, []string{"reason"})
	of("live", "in").MustRegister(refused)
	refused.WithLabelValues("key").Add(2)
	readers := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mediad_readers"})
	of("live", "broadcast").MustRegister(readers)
	readers.Set(3)
	metrics.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_of_no_stage_total"}))
	o := Options{Stages: testStages, Metrics: metrics, Log: hclog.NewNullLogger(), Loopback: true}
	if change != nil {
		change(&o)
	}
	return New(o)
}

// get asks h and returns the status code and the body.
func get(h http.Handler, path string, change ...func(*http.Request)) (int, string) {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080"+path, nil)
	r.RemoteAddr = "127.0.0.1:5000"
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestHealth(t *testing.T) {
	if code, body := get(newTest(nil), "/healthz"); code != http.StatusOK || !strings.Contains(body, `"ok"`) {
		t.Error(code, body)
	}
	for _, test := range []struct {
		broadcast, stream pipeline.State
		code              int
		status            string
	}{
		{pipeline.Restarting, pipeline.Running, http.StatusOK, `"degraded"`},
		{pipeline.Failed, pipeline.Running, http.StatusServiceUnavailable, `"failing"`},
		{pipeline.Failed, pipeline.Restarting, http.StatusServiceUnavailable, `"failing"`},
		{pipeline.Restarting, pipeline.Stopping, http.StatusServiceUnavailable, `"failing"`},
	} {
		code, body := get(newTest(func(o *Options) {
			o.Stages = func() []pipeline.Status {
				list := testStages()
				list[1].State, list[1].Err = test.broadcast, errors.New("out of memory")
				list[2].State = test.stream
				return list
			}
		}), "/healthz")
		if code != test.code || !strings.Contains(body, test.status) || !strings.Contains(body, "live/broadcast") || !strings.Contains(body, "out of memory") || strings.Contains(body, "live/in") {
			t.Errorf("%s and %s: %d %s", test.broadcast, test.stream, code, body)
		}
	}
}

func TestMetrics(t *testing.T) {
	code, body := get(newTest(nil), "/metrics")
	if code != http.StatusOK || !strings.Contains(body, `mediad_ingest_refused_total{pipeline="live",reason="key",stage="in"} 2`) {
		t.Error(code, body)
	}
}

func TestChannels(t *testing.T) {
	code, body := get(newTest(nil), "/api/channels")
	var list []map[string]any
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != http.StatusOK || len(list) != 1 {
		t.Fatal(code, err, body)
	}
	if c := list[0]; c["name"] != "demo" || c["stage"] != "live/broadcast" || c["readers"] != 3.0 {
		t.Error(c)
	}
	none := newTest(func(o *Options) { o.Stages = func() []pipeline.Status { return nil } })
	if _, body := get(none, "/api/channels"); strings.TrimSpace(body) != "[]" {
		t.Errorf("no channels: %s", body)
	}
}

func TestPipelines(t *testing.T) {
	code, body := get(newTest(nil), "/api/pipelines")
	if code != http.StatusOK || strings.Contains(body, "hunter2") {
		t.Fatal(code, body)
	}
	var lines []line
	if err := json.Unmarshal([]byte(body), &lines); err != nil {
		t.Fatal(err)
	}
	since := testStages()[0].Since
	want := []line{
		{"live", []stage{
			{
				Name: "in", Kind: "ingest", State: pipeline.Running, Since: since, Output: "live/broadcast",
				Settings: map[string]any{"app": "live", "key": hidden, "apiToken": hidden, "allow": []any{"::1", "http://hidden@h/?hidden"}},
				Metrics:  map[string]float64{`mediad_ingest_refused_total{reason="key"}`: 2},
			},
			{Name: "broadcast", Kind: "broadcast", State: pipeline.Running, Since: since, Metrics: map[string]float64{"mediad_readers": 3}},
		}},
		{"vod", []stage{{Name: "stream", Kind: "stream", State: pipeline.Running, Since: since, Inputs: []string{"live/broadcast"}}}},
	}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("got:\n%+v\nwant:\n%+v", lines, want)
	}
}

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		name string
		code int
		want string
	}{
		{"vod/sample", http.StatusOK, `"x/cache"`},
		{"vod/a/b", http.StatusOK, `"vod/stream"`},
		{"vod/none", http.StatusNotFound, "none: not found"},
		{"vod/broken", http.StatusBadGateway, "the origin is gone"},
		{"live/demo", http.StatusNotFound, "begins with one of vod/"},
		{"vodka/sample", http.StatusNotFound, "begins with one of vod/"},
		{"vod/../x", http.StatusBadRequest, "APP/NAME"},
		{"", http.StatusBadRequest, "APP/NAME"},
	} {
		code, body := get(newTest(nil), "/api/explain?name="+test.name)
		if code != test.code || !strings.Contains(body, test.want) {
			t.Errorf("%s: %d %s", test.name, code, body)
		}
	}
}

func TestPprof(t *testing.T) {
	for _, test := range []struct {
		pprof, loopback bool
		want            int
	}{
		{false, true, http.StatusNotFound},
		{true, false, http.StatusNotFound},
		{true, true, http.StatusOK},
	} {
		h := newTest(func(o *Options) { o.Pprof, o.Loopback = test.pprof, test.loopback })
		if code, _ := get(h, "/debug/pprof/heap"); code != test.want {
			t.Errorf("%+v: %d", test, code)
		}
	}
}

func TestT72_ForeignRequests(t *testing.T) {
	host := func(host string) func(*http.Request) {
		return func(r *http.Request) { r.Host = host }
	}
	origin := func(origin string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Origin", origin) }
	}
	method := func(method string) func(*http.Request) {
		return func(r *http.Request) { r.Method = method }
	}
	from := func(addr string, change func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) {
			r.RemoteAddr = addr
			change(r)
		}
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	query := func(q string) func(*http.Request) {
		return func(r *http.Request) { r.URL.RawQuery = q }
	}
	to := func(addr string) func(*http.Request) {
		return func(r *http.Request) {
			local, _ := net.ResolveTCPAddr("tcp", addr)
			*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
		}
	}
	const away = "192.0.2.1:5000"
	here, everywhere := newTest(nil), newTest(func(o *Options) { o.Loopback, o.Token = false, "right" })
	for _, test := range []struct {
		name   string
		on     http.Handler
		change func(*http.Request)
		want   int
	}{
		{"no origin", here, host("127.0.0.1:8080"), http.StatusOK},
		{"localhost", here, host("localhost:8080"), http.StatusOK},
		{"IPv6", here, host("[::1]:8080"), http.StatusOK},
		{"IPv6 without port", here, host("[::1]"), http.StatusOK},
		{"rebound name", here, host("evil.example:8080"), http.StatusForbidden},
		{"like localhost", here, host("localhost.evil.example"), http.StatusForbidden},
		{"no host", here, host(""), http.StatusForbidden},
		{"a name elsewhere", everywhere, host("media.example"), http.StatusForbidden},
		{"a name elsewhere, with the token", everywhere, func(r *http.Request) { host("media.example")(r); header("Authorization", "Bearer right")(r) }, http.StatusOK},
		{"another machine", everywhere, from(away, host("192.0.2.2:8080")), http.StatusUnauthorized},
		{"another machine, no token set", here, from(away, header("Authorization", "Bearer ")), http.StatusUnauthorized},
		{"another machine, token", everywhere, from(away, header("Authorization", "Bearer right")), http.StatusOK},
		{"another machine, cookie", everywhere, from(away, header("Cookie", "mediad=right")), http.StatusOK},
		{"another machine, wrong token", everywhere, from(away, header("Authorization", "Bearer wrong")), http.StatusUnauthorized},
		{"another machine, wrong cookie", everywhere, from(away, header("Cookie", "mediad=")), http.StatusUnauthorized},
		{"another machine, token in the address", everywhere, from(away, query("token=right")), http.StatusSeeOther},
		{"another machine, token and foreign origin", everywhere, from(away, func(r *http.Request) { query("token=right")(r); origin("http://evil.example")(r) }), http.StatusForbidden},
		{"this machine by its own address", everywhere, from("192.0.2.2:5000", to("192.0.2.2:8080")), http.StatusOK},
		{"this machine by its own address and a name", everywhere, from("192.0.2.2:5000", func(r *http.Request) { to("192.0.2.2:8080")(r); host("evil.example")(r) }), http.StatusForbidden},
		{"own origin", here, origin("http://127.0.0.1:8080"), http.StatusOK},
		{"other port", here, origin("http://127.0.0.1:3000"), http.StatusForbidden},
		{"other origin", everywhere, origin("https://evil.example"), http.StatusForbidden},
		{"null origin", here, origin("null"), http.StatusForbidden},
		{"HEAD", here, method(http.MethodHead), http.StatusOK},
		{"POST", here, method(http.MethodPost), http.StatusMethodNotAllowed},
		{"OPTIONS", here, method(http.MethodOptions), http.StatusMethodNotAllowed},
	} {
		if code, body := get(test.on, "/api/channels", test.change); code != test.want {
			t.Errorf("%s: %d %s", test.name, code, body)
		}
	}
	if code, body := get(here, "/nothing<script>"); code != http.StatusNotFound || strings.Contains(body, "<script>") {
		t.Error(code, body)
	}
}

func TestReload(t *testing.T) {
	problems := pipeline.Problems{{File: "f", Line: 3, Col: 5, Where: "vod/stream", Text: "no"}}
	for name, test := range map[string]struct {
		changes pipeline.Changes
		err     error
		change  func(*http.Request)
		code    int
		want    string
	}{
		"changed":        {changes: pipeline.Changes{File: "f", Kept: []string{"a/b"}}, code: http.StatusOK, want: `"a/b"`},
		"wrong file":     {err: problems, code: http.StatusUnprocessableEntity, want: `"column": 5`},
		"failed":         {err: errors.New("address is taken"), code: http.StatusConflict, want: "address is taken"},
		"stopping":       {err: pipeline.ErrStopping, code: http.StatusServiceUnavailable, want: "stopping"},
		"GET":            {change: func(r *http.Request) { r.Method = http.MethodGet }, code: http.StatusMethodNotAllowed, want: "only POST"},
		"T72 far away":   {change: func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" }, code: http.StatusUnauthorized, want: "192.0.2.1"},
		"T72 far host":   {change: func(r *http.Request) { r.Host = "evil.example" }, code: http.StatusForbidden, want: "evil.example"},
		"T72 far origin": {change: func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, code: http.StatusForbidden, want: "evil.example"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			for _, loopback := range []bool{true, false} {
				h := newTest(func(o *Options) {
					o.Loopback = loopback
					o.Reload = func(context.Context) (pipeline.Changes, error) {
						asked = true
						return test.changes, test.err
					}
				})
				code, body := get(h, "/api/reload", func(r *http.Request) {
					r.Method, r.RemoteAddr = http.MethodPost, "127.0.0.1:5000"
					if test.change != nil {
						test.change(r)
					}
				})
				if code != test.code || !strings.Contains(body, test.want) || asked != (test.change == nil) {
					t.Errorf("loopback %v: %d %s", loopback, code, body)
				}
			}
		})
	}
}

func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- Serve(ctx, l, newTest(nil), hclog.NewNullLogger()) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if _, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK || r.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Error(r.Status, r.Header, err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}

	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, newTest(nil), hclog.NewNullLogger()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener: %v", err)
	}
}

func TestTicket(t *testing.T) {
	h := newTest(func(o *Options) {
		o.Ticket = func(name string, a netip.Addr) (string, error) { return name + " for " + a.String(), nil }
	})
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/api/ticket?name=live/news": {http.StatusOK, `"token": "live/news for 127.0.0.1"`},
		"/api/ticket?name=../x":      {http.StatusBadRequest, "/api/ticket?name=APP/NAME"},
		"/api/ticket":                {http.StatusBadRequest, "/api/ticket?name=APP/NAME"},
	} {
		if code, text := get(h, path); code != want.code || !strings.Contains(text, want.text) {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	if code, _ := get(h, "/api/ticket?name=live/news", func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" }); code != http.StatusUnauthorized {
		t.Errorf("another machine is answered %d", code)
	}
	if code, _ := get(newTest(nil), "/api/ticket?name=live/news"); code != http.StatusNotFound {
		t.Errorf("without tickets there is %d", code)
	}
}
