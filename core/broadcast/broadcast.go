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
		Name:     "broadcast",
		Summary:  "Lists the channels on air and gives each to any number of viewers, with one copy of every frame.",
		Settings: func() any { return &Settings{Window: 30 * time.Second, Memory: 64 << 20, Wait: 10 * time.Second} },
		Ports:    stage.Ports{ProvidesReader: true, ProvidesWriter: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return New(env, *settings.(*Settings))
		},
	}
}

// Broadcast is the stage: a media.Writer for publishers, a media.Reader for all
// who watch.
type Broadcast struct {
	settings Settings
	log      hclog.Logger
	metrics  metrics

	// mu guards the listing. It is taken before a channel's own mutex.
	mu       sync.Mutex
	channels map[string]*channel
	changed  chan struct{} // closed and replaced when a channel begins or ends
	stopped  bool
}

type metrics struct {
	frames, bytes, skips, missed prometheus.Counter
}

// New makes the stage.
func New(env stage.Env, settings Settings) (*Broadcast, error) {
	b := &Broadcast{
		settings: settings,
		log:      env.Log,
		channels: map[string]*channel{},
		changed:  make(chan struct{}),
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_broadcast_" + name, Help: help})
	}
	b.metrics = metrics{
		frames: counter("frames_total", "Frames that publishers put on air."),
		bytes:  counter("bytes_total", "Bytes that publishers put on air."),
		skips:  counter("skips_total", "Times that a slow reader was moved forward to a keyframe."),
		missed: counter("missed_frames_total", "Frames that slow readers were moved past."),
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mediad_broadcast_" + name, Help: help},
			func() float64 { return float64(value()) })
	}
	return b, register(env.Metrics, b.metrics.frames, b.metrics.bytes, b.metrics.skips, b.metrics.missed,
		gauge("channels", "Channels on air.", func() int { return len(b.ListChannels()) }),
		gauge("readers", "Viewers, archivers and other readers of the channels.", func() int {
			sum := 0
			for _, c := range b.ListChannels() {
				sum += c.Readers
			}
			return sum
		}))
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
	<-ctx.Done()
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
	return nil
}

// notify tells those who watch the listing. The caller holds mu.
func (b *Broadcast) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Create puts a channel on air, or takes on one whose publisher is away.
func (b *Broadcast) Create(_ context.Context, req media.CreateRequest) (media.Sink, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return nil, fmt.Errorf("the broadcast stops: %w", media.ErrUnavailable)
	}
	c, ok := b.channels[req.Name]
	if !ok {
		c = &channel{
			b:     b,
			name:  req.Name,
			ring:  newRing(b.settings.Window, int(b.settings.Memory)),
			wake:  make(chan struct{}),
			since: time.Now(),
		}
	}
	s, err := c.attach(req)
	if err != nil {
		return nil, err
	}
	if ok {
		b.log.Info("publisher is back", "channel", req.Name)
		return s, nil
	}
	b.channels[req.Name] = c
	b.notify()
	b.log.Info("channel on air", "channel", req.Name)
	return s, nil
}

// Open returns a cursor into a channel. It waits for the channel to come on air
// as long as the settings say.
func (b *Broadcast) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	if req.RecordedOnly {
		return nil, fmt.Errorf("%s: only live channels are here: %w", req.Name, media.ErrNotFound)
	}
	var expired <-chan time.Time
	for {
		b.mu.Lock()
		c, ok := b.channels[req.Name]
		changed, stopped := b.changed, b.stopped
		if ok {
			cur := c.open(req.From)
			b.mu.Unlock()
			return cur, nil
		}
		b.mu.Unlock()
		if expired == nil {
			timer := time.NewTimer(b.settings.Wait)
			defer timer.Stop()
			expired = timer.C
		}
		if stopped {
			return nil, fmt.Errorf("%s: the broadcast stops: %w", req.Name, media.ErrUnavailable)
		}
		select {
		case <-changed:
		case <-expired:
			return nil, fmt.Errorf("channel %s is not on air: %w", req.Name, media.ErrNotFound)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Cost is that of own memory for a channel on air.
func (b *Broadcast) Cost(_ context.Context, req media.OpenRequest) (media.Cost, error) {
	b.mu.Lock()
	_, ok := b.channels[req.Name]
	b.mu.Unlock()
	if !ok || req.RecordedOnly {
		return media.Cost{}, fmt.Errorf("channel %s is not on air: %w", req.Name, media.ErrNotFound)
	}
	return media.Cost{Place: "live", Base: media.CostMemory}, nil
}

// Explain says whether the channel is on air here.
func (b *Broadcast) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	cost, err := b.Cost(ctx, req)
	if errors.Is(err, media.ErrNotFound) {
		return []media.Candidate{{Source: "channel", Note: err.Error()}}, nil
	}
	return []media.Candidate{{Source: "channel", Cost: cost, Total: cost.Total(), Chosen: true, Note: "on air on this node"}}, err
}

// Watch returns the names of the channels on air, and a channel that is closed
// when the next begins or ends.
func (b *Broadcast) Watch() (names []string, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.channels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, b.changed
}

// Channel is one line of the channel listing.
type Channel struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	// Publishing is false while the publisher is away and may come back.
	Publishing bool   `json:"publishing"`
	Video      string `json:"video,omitempty"`
	Audio      string `json:"audio,omitempty"`
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
