// Package ingest is the publisher's side of the Stream FSM: it takes what a
// client publishes through a protocol server and writes it into what follows,
// mostly a broadcast.
package ingest

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// Settings of the stage kind.
type Settings struct {
	App      string         `set:"app,required" doc:"the first part of the URL that is published to: rtmp://host/APP/name"`
	Allow    []netip.Prefix `set:"allow" doc:"networks that may publish; without it only this machine, or anybody who has the key or whom access lets in"`
	Key      string         `set:"key" doc:"what publishers must send as name?key=..."`
	Takeover bool           `set:"takeover" doc:"let a second publisher of a name replace the first, instead of refusing it"`
	Linger   time.Duration  `set:"linger" doc:"how long viewers are kept when the publisher is gone, in case it comes back"`

	Access access.Settings `set:"access"`
}

// Check says what cannot be.
func (s *Settings) Check() error { return s.Access.Check() }

// Kind describes the stage; its publishers come through front.
func Kind(front Front) stage.Kind {
	return stage.Kind{
		Name:     "ingest",
		Summary:  "Takes what clients publish and writes it into the stage that follows.",
		Settings: func() any { return &Settings{Linger: 10 * time.Second, Access: access.Defaults()} },
		Ports:    stage.Ports{NeedsWriter: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return New(env, *settings.(*Settings), front)
		},
	}
}

// Ingest is the stage.
type Ingest struct {
	Settings
	front   Front
	output  media.Writer
	guard   *access.Guard
	log     hclog.Logger
	metrics metrics

	mu      sync.Mutex
	active  map[*publication]bool
	stopped bool
	gone    chan struct{} // closed when stopped and no publication is left
}

type metrics struct {
	publishers                      prometheus.Gauge
	frames, bytes, jumps, reordered prometheus.Counter
	refused, dropped                *prometheus.CounterVec
}

// New makes the stage.
func New(env stage.Env, settings Settings, front Front) (*Ingest, error) {
	in := &Ingest{
		Settings: settings,
		front:    front,
		output:   env.Output,
		log:      env.Log,
		active:   map[*publication]bool{},
		gone:     make(chan struct{}),
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "mediad_ingest_" + name, Help: help}
	}
	in.metrics = metrics{
		publishers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "mediad_ingest_publishers", Help: "Publishers connected."}),
		frames:     prometheus.NewCounter(counter("frames_total", "Frames taken from publishers.")),
		bytes:      prometheus.NewCounter(counter("bytes_total", "Bytes of frames taken from publishers.")),
		jumps:      prometheus.NewCounter(counter("timestamp_jumps_total", "Times that a publisher's timestamps jumped and were re-based.")),
		reordered:  prometheus.NewCounter(counter("reordered_frames_total", "Frames whose DTS ran backwards and was raised to the one before.")),
		refused:    prometheus.NewCounterVec(counter("refused_total", "Publishers refused, by reason."), []string{"reason"}),
		dropped:    prometheus.NewCounterVec(counter("dropped_frames_total", "Frames that could not be passed on, by reason."), []string{"reason"}),
	}
	m := in.metrics
	for _, c := range []prometheus.Collector{m.publishers, m.frames, m.bytes, m.jumps, m.reordered, m.refused, m.dropped} {
		if err := env.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	var err error
	in.guard, err = access.New(settings.Access, env.Log, env.Metrics)
	return in, err
}

// Serve takes publishers until ctx ends, then ends them and waits for them.
func (in *Ingest) Serve(ctx context.Context) error {
	remove, err := in.front.HandlePublish(in.App, in)
	if err != nil {
		return err
	}
	defer remove()           // also in a panic, or the app would stay claimed
	defer in.guard.Start()() // stopped once all have left
	<-ctx.Done()
	remove()
	in.mu.Lock()
	in.stopped = true
	if len(in.active) == 0 {
		close(in.gone)
	}
	for p := range in.active {
		p.end(errors.New("the server stops"))
	}
	in.mu.Unlock()
	<-in.gone // each front closes a publication that is done, within its write deadline
	return nil
}

// Publish admits a publisher and creates what it publishes.
func (in *Ingest) Publish(ctx context.Context, req Request) (Publication, error) {
	if err := in.admit(req); err != nil {
		in.metrics.refused.WithLabelValues("denied").Inc() // the front logs it
		return nil, fmt.Errorf("%w: %w", media.ErrDenied, err)
	}
	pass, err := in.guard.Admit(ctx, access.Request{
		Action: access.Publish, Protocol: "rtmp", App: req.App, Name: req.Name, Address: req.Remote, Params: req.Params,
	})
	if err != nil {
		in.metrics.refused.WithLabelValues("denied").Inc()
		return nil, err
	}
	sink, err := in.output.Create(ctx, media.CreateRequest{
		Name:     req.Name,
		Info:     media.Info{Name: req.Name, Live: true},
		Append:   req.Append,
		Takeover: in.Takeover,
		Linger:   in.Linger,
	})
	if err != nil {
		reason := "failed"
		if errors.Is(err, media.ErrBusy) {
			reason = "busy"
		}
		in.metrics.refused.WithLabelValues(reason).Inc()
		pass.Done(0)
		return nil, err
	}
	p := newPublication(in, req, sink)
	p.pass = pass
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopped {
		pass.Done(0)
		return nil, errors.Join(fmt.Errorf("the server stops: %w", media.ErrUnavailable), sink.Close(ctx))
	}
	in.active[p] = true
	pass.OnKick(func() { p.end(access.ErrKicked) })
	in.metrics.publishers.Inc()
	in.log.Info("publishing", "name", req.Name, "remote", req.Remote)
	return p, nil
}

// Clients lists the publishers.
func (in *Ingest) Clients() []access.Client { return in.guard.Clients() }

// Kick throws out the publishers that which returns true for, and returns how many these are.
func (in *Ingest) Kick(which func(access.Client) bool) int { return in.guard.Kick(which) }

// admit says why the publisher may not publish, or nil.
func (in *Ingest) admit(req Request) error {
	if in.Key != "" && subtle.ConstantTimeCompare([]byte(req.Params.Get("key")), []byte(in.Key)) != 1 {
		return errors.New("the key is missing or wrong, it is sent as name?key=KEY")
	}
	remote := req.Remote.Unmap()
	switch {
	case len(in.Allow) > 0:
		for _, prefix := range in.Allow {
			if prefix.Contains(remote) {
				return nil
			}
		}
		return fmt.Errorf("%s is in none of the networks that may publish (allow)", remote)
	case in.Key == "" && !in.Access.Vouches() && !remote.IsLoopback():
		return fmt.Errorf("%s may not publish: only this machine may, until the ingest stage has `allow`, `key` or `access`", remote)
	}
	return nil
}

// remove forgets a publication that is closed.
func (in *Ingest) remove(p *publication) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.active, p)
	in.metrics.publishers.Dec()
	if in.stopped && len(in.active) == 0 {
		close(in.gone)
	}
}

// dropReason names why a frame could not be used.
func dropReason(err error) string {
	if errors.Is(err, flv.ErrNoConfig) {
		return "no_codec_configuration"
	}
	return "malformed"
}
