// Package broadcast is the Broadcast Manager of the notes: the listing of the
// channels on air, and for each of them one copy of every frame, read by any
// number of viewers, archivers and repeaters.
package broadcast

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// Settings of the stage kind.
type Settings struct {
	Window time.Duration `set:"window" doc:"how much of each channel is kept in memory: for joining, for seeking back, and for readers that are slow"`
	Memory stage.Size    `set:"memory" doc:"bytes kept of each channel at the most, whatever the window"`
	Wait   time.Duration `set:"wait" doc:"how long a viewer who comes before the publisher waits"`
	Linger time.Duration `set:"linger" doc:"how long a channel of another node is kept on air here when nobody watches it any more, and when no node has it any more"`
}

// Check says what cannot be.
func (s *Settings) Check() error {
	if s.Window < time.Second {
		return stage.Wrong("window", "%v is too short for a keyframe to be in it, use at least 1s", s.Window)
	}
	if s.Memory < 1<<20 {
		return stage.Wrong("memory", "%v is too small for a keyframe, use at least 1MiB", s.Memory)
	}
	return nil
}

// Kind describes the stage.
func Kind() stage.Kind {
	return stage.Kind{
		Name:    "broadcast",
		Summary: "Lists the channels on air and gives each to any number of viewers, with one copy of every frame.",
		Settings: func() any {
			return &Settings{Window: 30 * time.Second, Memory: 64 << 20, Wait: 10 * time.Second, Linger: 10 * time.Second}
		},
		Ports: stage.Ports{ProvidesReader: true, ProvidesWriter: true, NeedsReader: stage.Any},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return New(env, *settings.(*Settings))
		},
	}
}

// Broadcast is the stage: a media.Writer for publishers, a media.Reader for all
// who watch. What is not published here it repeats from the readers that feed it.
type Broadcast struct {
	settings  Settings
	log       hclog.Logger
	metrics   metrics
	readers   []stage.Input // of other nodes' channels
	nodes     stage.Nodes   // nil on a node alone, and so is the directory
	directory Directory
	self      []string // the name of this node, none on a node alone

	ctx     context.Context // that of all repeats
	cancel  context.CancelFunc
	running sync.WaitGroup // repeats, and those who wait for the loss of a claim

	// mu guards the listing. It is taken before a channel's own mutex.
	mu       sync.Mutex
	channels map[string]*channel
	seeking  map[string]*repeat // names that are not on air here, for which viewers wait
	changed  chan struct{}      // closed and replaced when a channel begins or ends, here or as a repeated one
	stopped  bool
}

type metrics struct {
	frames, bytes, skips, missed         prometheus.Counter
	repeatedFrames, repeatedBytes        prometheus.Counter
	sources, gaps, shifts, lost, refused prometheus.Counter
}

// New makes the stage.
func New(env stage.Env, settings Settings) (*Broadcast, error) {
	b := &Broadcast{
		settings: settings,
		log:      env.Log,
		readers:  env.Inputs,
		channels: map[string]*channel{},
		seeking:  map[string]*repeat{},
		changed:  make(chan struct{}),
	}
	if env.Nodes != nil {
		directory, ok := env.Nodes.(Directory)
		if !ok {
			return nil, errors.New("in a cluster a broadcast must run in the daemon, where it can claim names: leave out `run: process`")
		}
		b.nodes, b.directory, b.self = env.Nodes, directory, []string{env.Nodes.Self()}
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_broadcast_" + name, Help: help})
		all = append(all, c)
		return c
	}
	b.metrics = metrics{
		frames:         counter("frames_total", "Frames that publishers put on air."),
		bytes:          counter("bytes_total", "Bytes that publishers put on air."),
		skips:          counter("skips_total", "Times that a slow reader was moved forward to a keyframe."),
		missed:         counter("missed_frames_total", "Frames that slow readers were moved past."),
		repeatedFrames: counter("repeated_frames_total", "Frames of channels of other nodes."),
		repeatedBytes:  counter("repeated_bytes_total", "Bytes of channels of other nodes."),
		sources:        counter("repeat_sources_total", "Times that a channel of another node was found, be it again."),
		gaps:           counter("repeat_gaps_total", "Times that a channel of another node went on behind where it had ended: frames were missing, or another publisher had come."),
		shifts:         counter("shifts_total", "Sources whose time lay behind their channel's and was shifted."),
		lost:           counter("lost_total", "Channels that publishers here have lost to another node."),
		refused:        counter("peers_refused_total", "Peers that were refused a channel: it came from them, or from nowhere."),
	}
	gauge := func(name, help string, value func(Channel) int) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mediad_broadcast_" + name, Help: help}, func() float64 {
			sum := 0
			for _, c := range b.ListChannels() {
				sum += value(c)
			}
			return float64(sum)
		}))
	}
	gauge("channels", "Channels on air.", func(Channel) int { return 1 })
	gauge("repeated_channels", "Channels on air that are repeated from another node.", func(c Channel) int {
		if c.Repeated {
			return 1
		}
		return 0
	})
	gauge("readers", "Viewers, archivers and other readers of the channels.", func(c Channel) int { return c.Readers })
	return b, register(env.Metrics, all...)
}

func register(r prometheus.Registerer, collectors ...prometheus.Collector) error {
	for _, c := range collectors {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	return nil
}

// Serve waits for ctx to end and takes all channels off air: their readers get
// what is left and then io.EOF.
func (b *Broadcast) Serve(ctx context.Context) error {
	tick := time.NewTicker(rerouted)
	defer tick.Stop()
	if len(b.readers) == 0 {
		tick.Stop()
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			b.reroute()
		}
	}
	b.mu.Lock()
	b.stopped = true
	b.notify()
	var all []*channel
	for _, c := range b.channels {
		all = append(all, c)
	}
	b.mu.Unlock()
	for _, c := range all {
		c.stop()
	}
	b.cancel()
	b.running.Wait()
	return nil
}

// notify tells those who watch the listing. The caller holds mu.
func (b *Broadcast) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Create puts a channel on air, takes on one whose publisher is away, or one that is
// repeated here. In a cluster that takes a claim to the name.
func (b *Broadcast) Create(_ context.Context, req media.CreateRequest) (media.Sink, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return nil, fmt.Errorf("the broadcast stops: %w", media.ErrUnavailable)
	}
	c, ok := b.channels[req.Name]
	claim, err := b.claim(c, req)
	if err != nil {
		return nil, err
	}
	if ok {
		b.log.Info("channel has a publisher again", "channel", req.Name)
	} else {
		c = b.newChannel(req.Name)
		if r := b.seeking[req.Name]; r != nil {
			delete(b.seeking, req.Name)
			r.cancel()
		}
		b.log.Info("channel on air", "channel", req.Name)
	}
	if !c.own {
		defer b.notify()
	}
	return c.attach(req, claim), nil
}

// claim returns the right to publish req.Name, nil on a node alone. c is the channel
// as it is here, or nil. The caller holds mu.
func (b *Broadcast) claim(c *channel, req media.CreateRequest) (Claim, error) {
	if c != nil && c.sink != nil {
		if !req.Takeover {
			return nil, fmt.Errorf("%s is on air since %s: %w", c.name, c.since.Format(time.TimeOnly), media.ErrBusy)
		}
		return c.sink.claim, nil
	}
	if b.directory == nil {
		return nil, nil
	}
	claim, err := b.directory.Claim(req.Name, req.Takeover)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", req.Name, err)
	}
	return claim, nil
}

// Open returns a cursor into a channel. One that is not on air here is repeated from
// another node. Open waits for it to come on air as long as the settings say.
func (b *Broadcast) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	if req.RecordedOnly {
		return nil, fmt.Errorf("%s: only live channels are here: %w", req.Name, media.ErrNotFound)
	}
	if req.Peer != "" {
		return b.openForPeer(req)
	}
	var expired <-chan time.Time
	var sought *repeat
	defer func() {
		if sought != nil {
			sought.leave()
		}
	}()
	for {
		b.mu.Lock()
		if c := b.channels[req.Name]; c != nil {
			cur := c.open(req.From)
			b.mu.Unlock()
			return cur, nil
		}
		changed, stopped := b.changed, b.stopped
		if len(b.readers) > 0 && !stopped && (sought == nil || b.seeking[req.Name] != sought) {
			sought = b.seek(req.Name, req.From)
		}
		b.mu.Unlock()
		if stopped {
			return nil, fmt.Errorf("%s: the broadcast stops: %w", req.Name, media.ErrUnavailable)
		}
		if expired == nil {
			timer := time.NewTimer(b.settings.Wait)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-changed:
		case <-expired:
			return nil, b.absent(req.Name, sought)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// absent is the error of a viewer who has waited in vain.
func (b *Broadcast) absent(name string, sought *repeat) error {
	if sought != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if err := sought.err; err != nil && !errors.Is(err, media.ErrNotFound) {
			return fmt.Errorf("channel %s is not on air here, and not to be had: %w", name, err)
		}
	}
	return fmt.Errorf("channel %s is not on air: %w", name, media.ErrNotFound)
}

// openForPeer opens what is here, now, for viewers on another node.
func (b *Broadcast) openForPeer(req media.OpenRequest) (media.Source, error) {
	c, err := b.forPeer(req)
	if err != nil {
		return nil, err
	}
	return c.open(req.From), nil
}

// forPeer returns the channel that a peer asks for.
func (b *Broadcast) forPeer(req media.OpenRequest) (*channel, error) {
	b.mu.Lock()
	c := b.channels[req.Name]
	b.mu.Unlock()
	if c == nil || req.RecordedOnly {
		return nil, fmt.Errorf("channel %s is not on air: %w", req.Name, media.ErrNotFound)
	}
	if err := c.admit(req.Peer); err != nil {
		b.metrics.refused.Inc()
		return nil, err
	}
	return c, nil
}

// Cost is that of own memory for a channel on air here, and else that of the best
// other node.
func (b *Broadcast) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	b.mu.Lock()
	c := b.channels[req.Name]
	b.mu.Unlock()
	switch {
	case req.RecordedOnly || c == nil && (req.Peer != "" || len(b.readers) == 0):
		return media.Cost{}, fmt.Errorf("channel %s is not on air: %w", req.Name, media.ErrNotFound)
	case c == nil:
		best := b.ask(ctx, req)[0]
		return best.cost, best.err
	case req.Peer != "":
		if err := c.admit(req.Peer); err != nil {
			return media.Cost{}, err
		}
	}
	return c.cost(), nil
}

func (c *channel) cost() media.Cost {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return media.Cost{Place: "live", Base: media.CostMemory, Depth: max(len(c.path)-1, 0)}
}

// Explain tells of the channel as it is here, and of what the other nodes have.
func (b *Broadcast) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	here := media.Candidate{Source: "channel"}
	req.LiveOnly = true
	b.mu.Lock()
	c := b.channels[req.Name]
	b.mu.Unlock()
	if c == nil || req.RecordedOnly {
		here.Note = fmt.Sprintf("channel %s is not on air here", req.Name)
	} else {
		here.Chosen, here.Cost = true, c.cost()
		here.Total, here.Note = here.Cost.Total(), c.note()
	}
	list := []media.Candidate{here}
	if req.RecordedOnly || req.Peer != "" {
		return list, nil
	}
	for i, o := range b.ask(ctx, req) {
		chosen := !here.Chosen && i == 0 && o.err == nil
		e, ok := o.Reader.(media.Explainer)
		if !ok {
			c := media.Candidate{Source: o.Name, Cost: o.cost, Total: o.cost.Total(), Chosen: chosen}
			if o.err != nil {
				c.Note = o.err.Error()
			}
			list = append(list, c)
			continue
		}
		others, err := e.Explain(ctx, req)
		if err != nil {
			list = append(list, media.Candidate{Source: o.Name, Note: err.Error()})
		}
		for _, c := range others {
			c.Chosen = c.Chosen && chosen
			list = append(list, c)
		}
	}
	return list, nil
}

// note says how the channel is on air.
func (c *channel) note() string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case c.sink != nil:
		return "on air on this node"
	case c.own:
		return "on air on this node, its publisher is away"
	case len(c.path) == 0:
		return "repeated here, but its source is lost"
	}
	return "repeated here, it comes by " + strings.Join(c.path, " -> ")
}

// Watch returns the names of the channels that are published here, and a channel that
// is closed when they may have changed. Those that are repeated are left out: an
// archiver on each node would record each channel as often as there are nodes, and
// keep all of them repeated for ever.
func (b *Broadcast) Watch() (names []string, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, c := range b.channels {
		if c.own {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, b.changed
}

// Channel is one line of the channel listing.
type Channel struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	// Publishing is false while the publisher is away and may come back, and of a
	// channel that is repeated from another node.
	Publishing bool `json:"publishing"`
	Repeated   bool `json:"repeated,omitempty"`
	// Path are the nodes that the channel comes through, its owner first and this one
	// last. It is empty while a repeated channel has no source, and on a node alone.
	Path  []string `json:"path,omitempty"`
	Video string   `json:"video,omitempty"`
	Audio string   `json:"audio,omitempty"`
	// Bitrate is in bits a second over what is kept of the channel.
	Bitrate int64 `json:"bitrate"`
	// Readers are viewers, archivers and whatever else reads the channel.
	Readers int `json:"readers"`
	// Window is how many seconds are kept, Bytes the memory they take.
	Window float64 `json:"window_seconds"`
	Bytes  int     `json:"bytes"`
}

// ListChannels lists the channels by name.
func (b *Broadcast) ListChannels() []Channel {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Channel, 0, len(b.channels))
	for _, c := range b.channels {
		list = append(list, c.describe())
	}
	slices.SortFunc(list, func(x, y Channel) int { return cmp.Compare(x.Name, y.Name) })
	return list
}

func (c *channel) describe() Channel {
	c.mu.RLock()
	defer c.mu.RUnlock()
	d := Channel{
		Name:       c.name,
		Since:      c.since,
		Publishing: c.sink != nil,
		Repeated:   !c.own,
		Path:       c.path,
		Readers:    c.readers,
		Window:     c.ring.span().Seconds(),
		Bytes:      c.ring.bytes,
	}
	if c.ring.next > c.ring.first {
		h := c.ring.slot(c.ring.next - 1).batch.Header()
		d.Video, d.Audio = h.Video.Codec, h.Audio.Codec
	}
	if d.Window > 0 {
		d.Bitrate = int64(float64(c.ring.payload) * 8 / d.Window)
	}
	return d
}
