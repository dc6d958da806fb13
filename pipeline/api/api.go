// Package api is the daemon's HTTP listener: health, metrics, and lists for
// consoles and for commands such as `mediad explain`. Nothing can be changed through it,
// but that the daemon can be made to read its own file again, to leave, and to throw clients out.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options are what the API shows.
type Options struct {
	// Stages are the stages as they are now, in the order of the file.
	Stages func() []pipeline.Status
	// Metrics has those of the stages, and gets the API's own.
	Metrics interface {
		prometheus.Registerer
		prometheus.Gatherer
	}
	Log hclog.Logger
	// Token lets other machines in; "": none.
	Token string
	// Loopback says that only this machine can reach the listener. Pprof is served there alone.
	Loopback bool
	Pprof    bool
	// Console serves the paths / and below /console/, and what these ask for; nil: there is none.
	Console http.Handler
	// Media serves every path that is none of the daemon's own, and knows itself who
	// may have it; nil: there are none.
	Media http.Handler
	// Ticket makes a token with which who is at an address may watch a name, as APP/NAME, over HTTP
	// whatever the access of its stage says; nil: there are none.
	Ticket func(name string, a netip.Addr) (string, error)
	// Cluster is nil when the daemon is alone. Host then is what it is called.
	Cluster Cluster
	Host    string
	// Reload reads the daemon's file again. A wrong file is pipeline.Problems.
	Reload func(ctx context.Context) (pipeline.Changes, error)
	// Drain empties the daemon, which then stops. It takes no longer than within, or
	// than the daemon's file says when that is 0, and returns how many clients were left.
	Drain func(within time.Duration) (left int, err error)
}

// New returns the handler of everything that the listener serves.
func New(o Options) http.Handler {
	a := &api{o}
	mux := http.NewServeMux()
	mux.HandleFunc(healthPath, a.health)
	mux.Handle("/metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("/api/channels", a.channels)
	mux.HandleFunc("/api/clients", a.clients)
	mux.HandleFunc("/api/pipelines", a.pipelines)
	mux.HandleFunc("/api/nodes", a.nodes)
	mux.HandleFunc("/api/cluster/channels", a.clusterChannels)
	mux.HandleFunc("/api/explain", a.explain)
	mux.HandleFunc("/api/tap", a.tap)
	mux.HandleFunc("/api/ticket", a.ticket)
	mux.HandleFunc(reloadPath, a.reload)
	mux.HandleFunc(drainPath, a.drain)
	mux.HandleFunc(kickPath, a.kick)
	paths := "/healthz, /metrics, /api/channels, /api/clients, /api/pipelines, /api/nodes, /api/cluster/channels, /api/explain?name=APP/NAME, /api/tap?stage=PIPELINE/STAGE&name=NAME, /api/ticket?name=APP/NAME, /api/reload (POST), /api/drain (POST), /api/kick?id=ID (POST)"
	if o.Pprof && o.Loopback {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
		paths += ", /debug/pprof/"
	}
	nothing := func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "there is no %s here, there are %s", r.URL.Path, paths)
	}
	mux.HandleFunc("/", nothing)
	if o.Console != nil {
		for _, path := range []string{"/{$}", "/console/", "/api/events", "/api/media"} {
			mux.Handle(path, o.Console)
		}
	}
	own := gate{mux, o.Token, newRefusals(o.Metrics, o.Log)}
	if o.Media == nil {
		return own
	}
	all := http.NewServeMux()
	for _, path := range []string{"/{$}", "/console/", "/api/", healthPath, "/metrics", "/debug/"} {
		all.Handle(path, own)
	}
	all.Handle("/", o.Media)
	return all
}

type api struct{ Options }

const healthPath = "/healthz"

// health tells all who ask whether the daemon is well, and what is wrong those who
// may know. A stage that is being started again mends itself, so whoever restarts or
// leaves out a daemon that is not well must not do so for it: only the text says degraded.
func (a *api) health(w http.ResponseWriter, r *http.Request) {
	friend := thisMachine(r) || gate{token: a.Token}.known(r)
	type wrong struct {
		Stage string         `json:"stage"`
		State pipeline.State `json:"state"`
		Error string         `json:"error,omitempty"`
	}
	health := struct {
		Status string  `json:"status"`
		Wrong  []wrong `json:"wrong,omitempty"`
	}{Status: "ok"}
	code := http.StatusOK
	for _, s := range a.Stages() {
		switch {
		case s.State == pipeline.Running:
			continue
		case s.State != pipeline.Restarting:
			code, health.Status = http.StatusServiceUnavailable, "failing"
		case code == http.StatusOK:
			health.Status = "degraded"
		}
		if friend {
			health.Wrong = append(health.Wrong, wrong{s.String(), s.State, text(s.Err)})
		}
	}
	reply(w, code, health)
}

// channel is a line of /api/channels.
type channel struct {
	Stage string `json:"stage"`
	broadcast.Channel
}

// lister is a stage that has channels, such as a broadcast.
type lister interface{ ListChannels() []broadcast.Channel }

func (a *api) channels(w http.ResponseWriter, _ *http.Request) {
	list := []channel{}
	for _, s := range a.Stages() {
		l, ok := s.Made.(lister)
		if !ok {
			continue
		}
		for _, c := range l.ListChannels() {
			list = append(list, channel{s.String(), c})
		}
	}
	reply(w, http.StatusOK, list)
}

// stage is a stage in /api/pipelines.
type stage struct {
	Name     string             `json:"name"`
	Kind     string             `json:"kind"`
	State    pipeline.State     `json:"state"`
	Since    time.Time          `json:"since"`
	Error    string             `json:"error,omitempty"`
	Settings map[string]any     `json:"settings,omitempty"`
	Inputs   []string           `json:"inputs,omitempty"`
	Output   string             `json:"output,omitempty"`
	Metrics  map[string]float64 `json:"metrics,omitempty"`
}

type line struct {
	Name   string  `json:"name"`
	Stages []stage `json:"stages"`
}

func (a *api) pipelines(w http.ResponseWriter, _ *http.Request) {
	metrics, err := gather(a.Metrics)
	if err != nil {
		fail(w, http.StatusInternalServerError, "metrics: %v", err)
		return
	}
	lines := []line{}
	for _, s := range a.Stages() {
		if len(lines) == 0 || lines[len(lines)-1].Name != s.Pipeline {
			lines = append(lines, line{Name: s.Pipeline})
		}
		st := stage{
			Name:     s.Name,
			Kind:     s.Kind.Name,
			State:    s.State,
			Since:    s.Since,
			Error:    text(s.Err),
			Settings: hideSecrets(s.Given),
			Metrics:  metrics[s.String()],
		}
		for _, in := range s.Inputs {
			st.Inputs = append(st.Inputs, in.String())
		}
		if s.Output != nil {
			st.Output = s.Output.String()
		}
		last := &lines[len(lines)-1]
		last.Stages = append(last.Stages, st)
	}
	reply(w, http.StatusOK, lines)
}

// gather returns the value of each metric by "pipeline/stage", the count for a
// histogram or summary. Labels of its own stand behind a metric's name.
func gather(from prometheus.Gatherer) (map[string]map[string]float64, error) {
	families, err := from.Gather()
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			of := map[string]string{}
			var labels []string
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "pipeline", "stage":
					of[l.GetName()] = l.GetValue()
				default:
					labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				}
			}
			if len(of) < 2 {
				continue
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			stage := of["pipeline"] + "/" + of["stage"]
			if all[stage] == nil {
				all[stage] = map[string]float64{}
			}
			all[stage][name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue() +
				float64(m.GetHistogram().GetSampleCount()+m.GetSummary().GetSampleCount())
		}
	}
	return all, nil
}

const hidden = "(hidden)"

// hideSecrets returns the settings without what could be a secret, by their names
// and by the user part and the query of URLs.
func hideSecrets(settings map[string]any) map[string]any {
	out := maps.Clone(settings)
	for name, value := range settings {
		secret := false
		for _, word := range []string{"key", "token", "secret", "password"} {
			secret = secret || strings.Contains(strings.ToLower(name), word)
		}
		switch v := value.(type) {
		case string:
			out[name] = hideURL(v)
		case []string:
			list := slices.Clone(v)
			for i := range list {
				list[i] = hideURL(list[i])
			}
			out[name] = list
		}
		if secret {
			out[name] = hidden
		}
	}
	return out
}

func hideURL(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil && strings.Contains(s, "://"):
		return hidden
	case err != nil || u.Host == "":
		return s
	}
	if u.User != nil {
		u.User = url.User("hidden")
	}
	if u.RawQuery != "" {
		u.RawQuery = "hidden"
	}
	return u.String()
}

// Explanation is the reply of /api/explain.
type Explanation struct {
	Name       string            `json:"name"`
	Stage      string            `json:"stage"` // the stream stage that was asked
	Candidates []media.Candidate `json:"candidates"`
}

// player is a stage that plays the media of an app.
type player interface{ App() string }

func (a *api) explain(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if err := media.CheckName(name); err != nil {
		fail(w, http.StatusBadRequest, "%v: ask for /api/explain?name=APP/NAME", err)
		return
	}
	var apps []string
	for _, s := range a.Stages() {
		p, plays := s.Made.(player)
		e, explains := s.Made.(media.Explainer)
		if !plays || !explains {
			continue
		}
		apps = append(apps, p.App())
		rest, ok := strings.CutPrefix(name, p.App()+"/")
		if !ok {
			continue
		}
		candidates, err := e.Explain(r.Context(), media.OpenRequest{Name: rest})
		switch {
		case errors.Is(err, media.ErrNotFound):
			fail(w, http.StatusNotFound, "%v", err)
		case err != nil:
			fail(w, http.StatusBadGateway, "%v", err)
		default:
			reply(w, http.StatusOK, Explanation{name, s.String(), candidates})
		}
		return
	}
	switch len(apps) {
	case 0:
		fail(w, http.StatusNotFound, "no stage plays anything: a pipeline needs a stream stage")
	default:
		fail(w, http.StatusNotFound, "nothing plays the app of %q: the name begins with one of %s/", name, strings.Join(apps, "/, "))
	}
}

// ticket makes a ticket for whoever may ask the API, which is to see all there is.
func (a *api) ticket(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if err := media.CheckName(name); err != nil {
		fail(w, http.StatusBadRequest, "%v: ask for /api/ticket?name=APP/NAME", err)
		return
	}
	if a.Ticket == nil {
		fail(w, http.StatusNotFound, "there are no tickets here")
		return
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	var ticket string
	if err == nil {
		ticket, err = a.Ticket(name, from.Addr())
	}
	if err != nil {
		fail(w, http.StatusInternalServerError, "%v", err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	reply(w, http.StatusOK, map[string]string{"token": ticket})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(v) // the client is gone
}

func fail(w http.ResponseWriter, code int, format string, args ...any) {
	reply(w, code, map[string]string{"error": fmt.Sprintf(format, args...)})
}
