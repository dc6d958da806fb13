// The daemon at one moment, as the page and `mediad top` show it.

package console

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/api"
)

// maxChannels is how many channels a snapshot has at the most.
const maxChannels = 500

// A Snapshot is an event of /api/events.
type Snapshot struct {
	Time time.Time `json:"time"`
	Host string    `json:"host"`
	// Over is the time in seconds that rates are taken over, 0 when there are none yet.
	Over     float64   `json:"over_seconds"`
	Stages   []Stage   `json:"stages"`
	Edges    []Edge    `json:"edges"`
	Channels []Channel `json:"channels"`
	// More is how many channels there are beside these.
	More int `json:"more_channels,omitempty"`
	// Viewers are how many watch, by protocol.
	Viewers map[string]int `json:"viewers"`
	Brokers []Broker       `json:"brokers"`
	Nodes   []api.Node     `json:"nodes"`
	// Error says what could not be told.
	Error string `json:"error,omitempty"`
}

// Restarted is the state of a stage that runs, but has failed or was replaced a moment
// ago.
const Restarted pipeline.State = "restarted"

// moment is how long a stage is Restarted.
const moment = 5 * time.Second

// A Stage is a stage of the file.
type Stage struct {
	Pipeline string         `json:"pipeline"`
	Name     string         `json:"name"`
	Kind     string         `json:"kind"`
	State    pipeline.State `json:"state"`
	Since    time.Time      `json:"since"`
	Error    string         `json:"error,omitempty"`
	Process  bool           `json:"process,omitempty"` // it runs in one of its own
	Figures  []Figure       `json:"figures,omitempty"`
}

// String is the full name, as in an Edge.
func (s Stage) String() string { return s.Pipeline + "/" + s.Name }

// An Edge is where frames go from one stage to another.
type Edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Push says that From writes into To; else To reads from From.
	Push bool  `json:"push,omitempty"`
	Rate *Rate `json:"rate,omitempty"` // nil when it is not known
}

// A Channel is on air here, or on another node.
type Channel struct {
	Stage string `json:"stage,omitempty"` // "" on another node
	Node  string `json:"node,omitempty"`  // the other node
	broadcast.Channel
	Apps []App `json:"apps"` // to watch it from
	// Viewers are those of the apps here, by protocol, as far as these tell.
	Viewers map[string]int `json:"viewers,omitempty"`
}

// An App is where media are watched: at /APP/NAME.
type App struct {
	Name  string        `json:"name"`
	Forms []stream.Form `json:"forms"`
}

// A Broker is a stage that chooses, and what it chose, the newest first.
type Broker struct {
	Stage     string           `json:"stage"`
	Decisions []media.Decision `json:"decisions"`
}

// What a stage may be.
type (
	channelLister interface{ ListChannels() []broadcast.Channel }
	decider       interface{ Decisions() []media.Decision }
	player        interface{ App() string }
	// server is a player that may not be served in all forms.
	server interface{ Serves() []stream.Form }
	// audience is a player that tells how many watch, by name and protocol.
	audience interface {
		Audience() map[string]map[string]int
	}
)

// observer makes snapshots, each with the rates since the one before.
type observer struct {
	options Options
	before  sample
	known   map[string]trace // by stage
}

// trace is what the observer remembers of a stage.
type trace struct {
	since     time.Time // of its state
	failures  float64   // of its process
	restarted time.Time
}

// forget lets the next snapshot be the first.
func (o *observer) forget() { o.before, o.known = sample{}, nil }

// look makes a snapshot.
func (o *observer) look(now time.Time) Snapshot {
	stages := o.options.Stages()
	metrics, err := takeSample(o.options.Metrics)
	r := reading{metrics, o.before}
	o.before = metrics
	s := Snapshot{
		Time: now, Host: o.options.Host, Over: r.over(),
		Stages: o.stages(stages, r, now), Edges: edges(stages, r), Viewers: viewers(metrics),
		Channels: []Channel{}, Brokers: []Broker{}, Nodes: []api.Node{},
	}
	all := o.channels(stages)
	s.Channels = append(s.Channels, all[:min(len(all), maxChannels)]...)
	s.More = len(all) - len(s.Channels)
	for _, st := range stages {
		if d, ok := st.Made.(decider); ok {
			s.Brokers = append(s.Brokers, Broker{st.String(), append([]media.Decision{}, d.Decisions()...)})
		}
	}
	if o.options.Nodes != nil {
		nodes, wrong := o.options.Nodes()
		s.Nodes, err = append(s.Nodes, nodes...), errors.Join(err, wrong)
	}
	if err != nil {
		s.Error = err.Error()
	}
	return s
}

func (o *observer) stages(list []pipeline.Status, r reading, now time.Time) []Stage {
	out, known := []Stage{}, map[string]trace{}
	for _, s := range list {
		st := Stage{
			Pipeline: s.Pipeline, Name: s.Name, Kind: s.Kind.Name, State: s.State, Since: s.Since,
			Process: s.Process != nil, Figures: r.figuresOf(s.String(), s.Kind.Name),
		}
		if s.Err != nil {
			st.Error = s.Err.Error()
		}
		was, seen := o.known[s.String()]
		is := trace{since: s.Since, failures: r.now.values[series{stage: s.String(), metric: "mediad_plugin_failures_total"}], restarted: was.restarted}
		if seen && (is.since != was.since || is.failures > was.failures) {
			is.restarted = now
		}
		known[s.String()] = is
		if s.State == pipeline.Running && now.Sub(is.restarted) < moment {
			st.State = Restarted
		}
		out = append(out, st)
	}
	o.known = known
	return out
}

func edges(stages []pipeline.Status, r reading) []Edge {
	list := []Edge{}
	ins, outs := map[string]int{}, map[string]int{}
	kinds := map[string]string{}
	for _, s := range stages {
		kinds[s.String()] = s.Kind.Name
		for _, in := range s.Inputs {
			list = append(list, Edge{From: in.String(), To: s.String()})
		}
		if s.Output != nil {
			list = append(list, Edge{From: s.String(), To: s.Output.String(), Push: true})
		}
	}
	for _, e := range list {
		outs[e.From]++
		if !e.Push || kinds[e.To] != "broadcast" { // which counts what it reads apart
			ins[e.To]++
		}
	}
	for i, e := range list {
		from, to := end{e.From, kinds[e.From], outs[e.From]}, end{e.To, kinds[e.To], ins[e.To]}
		if e.Push && to.kind == "broadcast" {
			to.edges = 0
		}
		list[i].Rate = r.rateOf(from, to)
	}
	return list
}

// viewers counts those of the HTTP forms, and the players of the stream stages by
// protocol, where they tell it.
func viewers(s sample) map[string]int {
	sums := map[string]int{}
	for k, v := range s.values {
		if k.metric == "mediad_web_viewers" && k.label != "" {
			sums[k.label] += int(v)
		}
	}
	for k, v := range s.values {
		if _, told := s.values[series{metric: "mediad_web_viewers", label: k.label}]; k.metric == "mediad_stream_viewers" && k.label != "" && !told {
			sums[k.label] += int(v)
		}
	}
	return sums
}

// channels lists those on air here, then those of other nodes.
func (o *observer) channels(stages []pipeline.Status) []Channel {
	list, here := []Channel{}, map[string]bool{}
	var broadcasts []string
	for _, s := range stages {
		l, ok := s.Made.(channelLister)
		if !ok {
			continue
		}
		broadcasts = append(broadcasts, s.String())
		apps, watching := appsOf(stages, s.String()), audienceOf(stages, s.String())
		for _, c := range l.ListChannels() {
			here[c.Name] = true
			list = append(list, Channel{Stage: s.String(), Channel: c, Apps: apps, Viewers: watching[c.Name]})
		}
	}
	if o.options.Channels == nil {
		return list
	}
	apps := appsOf(stages, broadcasts...)
	for _, c := range o.options.Channels() {
		if !here[c.Name] {
			list = append(list, Channel{Node: c.Owner, Channel: broadcast.Channel{Name: c.Name, Since: c.Since}, Apps: apps})
		}
	}
	return list
}

// appsOf lists the apps that play what one of the stages provides, by name.
func appsOf(stages []pipeline.Status, providers ...string) []App {
	found := map[string]App{}
	for _, s := range stages {
		p, ok := s.Made.(player)
		if !ok || !slices.ContainsFunc(providers, func(name string) bool { return reads(s.Stage, name) }) {
			continue
		}
		forms := []stream.Form{stream.RTMP, stream.FLV, stream.HLS, stream.MP4}
		if only, ok := s.Made.(server); ok {
			forms = only.Serves()
		}
		found[p.App()] = App{p.App(), forms}
	}
	list := slices.AppendSeq([]App{}, maps.Values(found))
	slices.SortFunc(list, func(x, y App) int { return cmp.Compare(x.Name, y.Name) })
	return list
}

// audienceOf says how many watch what a stage provides, by name and protocol.
func audienceOf(stages []pipeline.Status, provider string) map[string]map[string]int {
	sums := map[string]map[string]int{}
	for _, s := range stages {
		a, ok := s.Made.(audience)
		if !ok || !reads(s.Stage, provider) {
			continue
		}
		for name, by := range a.Audience() {
			if sums[name] == nil {
				sums[name] = map[string]int{}
			}
			for protocol, n := range by {
				sums[name][protocol] += n
			}
		}
	}
	return sums
}

// reads reports whether a stage reads the media of another under their own names:
// directly, or through stages that pass on what they read, such as caches and brokers.
func reads(s *pipeline.Stage, name string) bool {
	return slices.ContainsFunc(s.Inputs, func(in *pipeline.Stage) bool {
		passes := in.Kind.NeedsReader != stage.None && !in.Kind.ProvidesWriter && !in.Kind.Apart
		return in.String() == name || passes && reads(in, name)
	})
}
