package console

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/pipeline"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A lab is a daemon whose stages do nothing, and whose counters are set.
type lab struct {
	list     []pipeline.Status
	counters map[string]*prometheus.GaugeVec
	registry *prometheus.Registry
	looks    int // how often metrics were gathered
	lists    int // how often recordings were listed
}

// The stages that are more than passive.
type (
	live    struct{ stage.Passive }
	app     struct{ stage.Passive }
	broker  struct{ stage.Passive }
	flvOnly struct{ app }
	reader  struct {
		stage.Passive
		lab *lab
	}
)

func (live) ListChannels() []broadcast.Channel {
	return []broadcast.Channel{{Name: "news", Publishing: true, Readers: 2}}
}
func (app) App() string               { return "vod" }
func (flvOnly) App() string           { return "live" }
func (flvOnly) Serves() []stream.Form { return []stream.Form{stream.RTMP, stream.FLV} }
func (flvOnly) Audience() map[string]map[string]int {
	return map[string]map[string]int{"news": {"rtmp": 1, "flv": 1}}
}
func (broker) Decisions() []media.Decision {
	return []media.Decision{{Name: "film.flv", Candidates: []media.Candidate{{Source: "on-demand/cache", Chosen: true}}}}
}
func (r reader) List(context.Context) ([]media.Entry, error) {
	r.lab.lists++
	return []media.Entry{{Name: "film.flv", Size: 7}}, errors.New("one folder is missing")
}

// newLab has recorded media, and a broadcast that a playout of them and an ingest fill.
func newLab() *lab {
	l := &lab{counters: map[string]*prometheus.GaugeVec{}, registry: prometheus.NewRegistry()}
	began := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	add := func(pipe, name, kind string, ports stage.Ports, made stage.Stage, inputs ...*pipeline.Stage) *pipeline.Stage {
		st := &pipeline.Stage{Pipeline: pipe, Name: name, Kind: stage.Kind{Name: kind, Ports: ports}, Inputs: inputs}
		l.list = append(l.list, pipeline.Status{Stage: st, Made: made, State: pipeline.Running, Since: began})
		return st
	}
	through := stage.Ports{ProvidesReader: true, NeedsReader: stage.Some}
	disk := add("on-demand", "reader", "reader-disk", stage.Ports{ProvidesReader: true}, reader{lab: l})
	cache := add("on-demand", "cache", "cache", through, stage.Passive{}, disk)
	choice := add("on-demand", "broker", "broker", through, broker{}, cache, disk)
	add("on-demand", "stream", "stream", stage.Ports{NeedsReader: stage.One}, app{}, choice)
	ingest := add("live", "ingest", "ingest", stage.Ports{NeedsWriter: true}, stage.Passive{})
	playout := add("live", "playout", "playout", stage.Ports{NeedsReader: stage.One, NeedsWriter: true}, stage.Passive{}, choice)
	ring := add("live", "broadcast", "broadcast", stage.Ports{ProvidesReader: true, ProvidesWriter: true, NeedsReader: stage.Any}, live{})
	add("live", "stream", "stream", stage.Ports{NeedsReader: stage.One}, flvOnly{}, ring)
	ingest.Output, playout.Output = ring, ring
	return l
}

func (l *lab) stages() []pipeline.Status { return l.list }

// set sets a metric of a stage, or of the daemon, by the value of its own label.
func (l *lab) set(pipe, st, metric, label string, value float64) {
	key := metric + pipe + st
	if l.counters[key] == nil {
		l.counters[key] = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: metric}, []string{"of"})
		var r prometheus.Registerer = l.registry
		if st != "" {
			r = prometheus.WrapRegistererWith(prometheus.Labels{"pipeline": pipe, "stage": st}, r)
		}
		r.MustRegister(l.counters[key])
	}
	l.counters[key].WithLabelValues(label).Set(value)
}

// Gather implements prometheus.Gatherer.
func (l *lab) Gather() ([]*dto.MetricFamily, error) {
	l.looks++
	return l.registry.Gather()
}

// lookAfter makes a snapshot as if so much time had passed since the last.
func lookAfter(o *observer, d time.Duration) Snapshot {
	o.before.at = time.Now().Add(-d)
	return o.look(time.Now())
}

func TestSnapshot_Rates(t *testing.T) {
	l := newLab()
	o := observer{options: Options{Stages: l.stages, Metrics: l}}
	if s := o.look(time.Now()); s.Over != 0 || s.Edges[0].Rate != nil {
		t.Errorf("the first snapshot has rates: %+v", s.Edges)
	}
	l.set("on-demand", "cache", "mediad_cache_fetched_bytes_total", "", 1e6)
	l.set("on-demand", "broker", "mediad_broker_opens_total", "on-demand/cache", 20)
	l.set("on-demand", "broker", "mediad_broker_opens_total", "on-demand/reader", 10)
	l.set("on-demand", "stream", "mediad_stream_bytes_total", "", 2e6)
	l.set("live", "ingest", "mediad_ingest_bytes_total", "", 3e6)
	l.set("live", "playout", "mediad_playout_frames_total", "", 250)
	l.set("live", "stream", "mediad_stream_bytes_total", "", 0)
	s := lookAfter(&o, 10*time.Second)
	want := []struct {
		from, to, unit string
		rate           float64
	}{
		{"on-demand/reader", "on-demand/cache", "B/s", 1e5},
		{"on-demand/cache", "on-demand/broker", "opens/s", 2}, // nothing was read from the cache's memory
		{"on-demand/reader", "on-demand/broker", "opens/s", 1},
		{"on-demand/broker", "on-demand/stream", "B/s", 2e5},
		{"live/ingest", "live/broadcast", "B/s", 3e5},
		{"on-demand/broker", "live/playout", "frames/s", 25},
		{"live/playout", "live/broadcast", "frames/s", 25},
		{"live/broadcast", "live/stream", "B/s", 0},
	}
	if len(s.Edges) != len(want) {
		t.Fatalf("%+v", s.Edges)
	}
	for i, e := range s.Edges {
		w := want[i]
		if e.From != w.from || e.To != w.to || e.Push != (w.to == "live/broadcast") {
			t.Errorf("edge %d is %+v, want %+v", i, e, w)
			continue
		}
		if e.Rate == nil || e.Rate.Unit != w.unit || e.Rate.Value < 0.99*w.rate || e.Rate.Value > 1.01*w.rate {
			t.Errorf("%s > %s: %+v, want %v %s", e.From, e.To, e.Rate, w.rate, w.unit)
		}
	}
	// A stage that was made again counts from 0.
	l.set("live", "ingest", "mediad_ingest_bytes_total", "", 1e6)
	if r := lookAfter(&o, 10*time.Second).Edges[4].Rate; r.Value < 0.99e5 || r.Value > 1.01e5 {
		t.Errorf("a counter that began anew has the rate %v", r)
	}
}

func TestSnapshot_States(t *testing.T) {
	l := newLab()
	o := observer{options: Options{Stages: l.stages, Metrics: l}}
	state := func() pipeline.State { return o.look(time.Now()).Stages[0].State }
	expect := func(what string, want pipeline.State) {
		t.Helper()
		if got := state(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	expect("at first", pipeline.Running)
	l.list[0].State = pipeline.Restarting
	l.set("on-demand", "reader", "mediad_plugin_failures_total", "", 1)
	expect("its process has gone", pipeline.Restarting)
	l.list[0].State = pipeline.Running
	expect("it has another", Restarted)
	if got := o.look(time.Now().Add(moment)).Stages[0].State; got != pipeline.Running {
		t.Errorf("later: %s", got)
	}
	l.list[0].Since = l.list[0].Since.Add(time.Minute)
	expect("made again between two snapshots", Restarted)
	l.list[0].State, l.list[0].Err = pipeline.Failed, errors.New("no disk")
	expect("failed", pipeline.Failed)
	if s := o.look(time.Now()); s.Stages[0].Error != "no disk" {
		t.Errorf("%+v", s.Stages[0])
	}
}

func TestSnapshot_Lists(t *testing.T) {
	l := newLab()
	l.set("", "", "mediad_web_viewers", "flv", 3)
	l.set("live", "stream", "mediad_stream_viewers", "flv", 3)
	l.set("live", "stream", "mediad_stream_viewers", "rtmp", 4)
	l.set("on-demand", "stream", "mediad_stream_viewers", "rtmp", 1)
	l.set("on-demand", "cache", "mediad_cache_hits_total", "", 3)
	l.set("on-demand", "cache", "mediad_cache_misses_total", "", 1)
	o := observer{options: Options{Stages: l.stages, Metrics: l, Channels: func() []cluster.Channel {
		return []cluster.Channel{{Name: "news", Owner: "here"}, {Name: "sport", Owner: "east"}}
	}}}
	s := o.look(time.Now())
	watch := []App{{"live", []stream.Form{stream.RTMP, stream.FLV}}}
	if want := []Channel{
		{Stage: "live/broadcast", Channel: broadcast.Channel{Name: "news", Publishing: true, Readers: 2}, Apps: watch, Viewers: map[string]int{"rtmp": 1, "flv": 1}},
		{Node: "east", Channel: broadcast.Channel{Name: "sport"}, Apps: watch},
	}; !reflect.DeepEqual(s.Channels, want) {
		t.Errorf("channels: %+v", s.Channels)
	}
	if want := map[string]int{"flv": 3, "rtmp": 5}; !reflect.DeepEqual(s.Viewers, want) {
		t.Errorf("viewers: %v", s.Viewers)
	}
	l.list = l.list[:len(l.list)-1]
	if c := o.look(time.Now()).Channels[0]; c.Apps == nil || len(c.Apps) != 0 {
		t.Errorf("a channel that no app plays: %+v", c)
	}
	if len(s.Brokers) != 1 || s.Brokers[0].Stage != "on-demand/broker" || s.Brokers[0].Decisions[0].Name != "film.flv" {
		t.Errorf("brokers: %+v", s.Brokers)
	}
	if f := s.Stages[1].Figures; len(f) != 1 || f[0] != (Figure{"from memory", 75, "%"}) {
		t.Errorf("figures of the cache: %+v", f)
	}
}
