// Package archive is the stage kind archiver: it records the channels of a
// broadcast into files that are changed at the clock's hour. It reads a channel as
// any viewer does, so whatever becomes of the recording, the channel goes on.
package archive

import (
	"context"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// A Lister is a Reader that knows which channels are on air. The archiver needs
// one, for it records what it was never asked for.
type Lister interface {
	// Watch returns the names of the channels on air now, and a channel that is
	// closed when they have changed.
	Watch() (names []string, changed <-chan struct{})
}

// A Skipper is a live Source that moves on when its reader is too slow.
type Skipper interface {
	Skips() int    // how often that was
	Missed() int64 // how many frames were skipped in all
}

// Settings of the stage kind.
type Settings struct {
	Rotate   time.Duration `set:"rotate" doc:"a new file begins at each multiple of it on the local clock, at the first keyframe; 0s: never"`
	Path     string        `set:"path" doc:"names of the files: {channel}, {node}, and the time a file begins in Go's layout, such as {2006-01-02}; in a cluster the node stands at the end if it stands nowhere"`
	Channels []string      `set:"channels" doc:"patterns of the channels to record, such as news/*; none: all"`
}

// Check says what cannot be.
func (s *Settings) Check() error {
	if s.Rotate != 0 && s.Rotate < time.Second {
		return stage.Wrong("rotate", "is %v, at least 1s is needed", s.Rotate)
	}
	if _, err := parseTemplate(s.Path, ""); err != nil {
		return &stage.SettingError{Setting: "path", Err: err}
	}
	for _, p := range s.Channels {
		if _, err := path.Match(p, ""); err != nil {
			return stage.Wrong("channels", "%q: %w", p, err)
		}
	}
	return nil
}

// Kind describes the stage.
func Kind() stage.Kind {
	return stage.Kind{
		Name:    "archiver",
		Summary: "Records the channels that are on air into files.",
		Settings: func() any {
			return &Settings{Rotate: time.Hour, Path: "{channel}/{2006-01-02}/{15-04-05}.flv"}
		},
		Ports: stage.Ports{NeedsReader: stage.Some, NeedsWriter: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return New(env, *settings.(*Settings))
		},
	}
}

// An Archiver is the stage.
type Archiver struct {
	settings Settings
	path     template
	inputs   []stage.Input
	output   media.Writer
	drain    time.Duration
	log      hclog.Logger
	metrics  *metrics

	mu        sync.Mutex
	recorders map[*recorder]bool
}

// New makes the stage.
func New(env stage.Env, settings Settings) (*Archiver, error) {
	node := ""
	if env.Nodes != nil {
		node = env.Nodes.Self()
	}
	t, err := parseTemplate(settings.Path, node)
	if err != nil {
		return nil, &stage.SettingError{Setting: "path", Err: err}
	}
	for _, in := range env.Inputs {
		if _, ok := in.Reader.(Lister); !ok {
			return nil, fmt.Errorf("%s does not tell which channels are on air, so they cannot be recorded", in.Name)
		}
	}
	a := &Archiver{
		settings:  settings,
		path:      t,
		inputs:    env.Inputs,
		output:    env.Output,
		drain:     env.Drain,
		log:       env.Log,
		recorders: map[*recorder]bool{},
	}
	a.metrics = newMetrics(env.Metrics, a.lag)
	return a, nil
}

// Serve records until ctx ends, and then finishes the files.
func (a *Archiver) Serve(ctx context.Context) error {
	// What is under way when ctx ends may go on for the time of the drain.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var watchers sync.WaitGroup
	for _, in := range a.inputs {
		watchers.Go(func() { a.watch(ctx, work, in.Reader) })
	}
	<-ctx.Done()
	defer time.AfterFunc(a.drain, cancel).Stop()
	watchers.Wait()
	return nil
}

// watch records each channel of a reader while it is on air.
func (a *Archiver) watch(ctx, work context.Context, reader media.Reader) {
	var all sync.WaitGroup
	defer all.Wait()
	recording := map[string]bool{}
	ended := make(chan string)
	for {
		names, changed := reader.(Lister).Watch()
		for _, name := range names {
			if recording[name] || !a.wants(name) {
				continue
			}
			recording[name] = true
			all.Go(func() {
				a.record(ctx, work, reader, name)
				select {
				case ended <- name:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-changed:
		case name := <-ended:
			delete(recording, name)
		case <-ctx.Done():
			return
		}
	}
}

// wants says whether a channel is to be recorded.
func (a *Archiver) wants(name string) bool {
	for _, p := range a.settings.Channels {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return len(a.settings.Channels) == 0
}

// again is how soon a channel that has ended is recorded again. Nothing is lost
// by it: a channel is read from the oldest that it keeps.
const again = time.Second

// record records a channel until it ends.
func (a *Archiver) record(ctx, work context.Context, reader media.Reader, name string) {
	r := &recorder{archiver: a, work: work, channel: name, log: a.log.With("channel", name)}
	a.mu.Lock()
	a.recorders[r] = true
	a.mu.Unlock()
	r.run(ctx, reader)
	a.mu.Lock()
	delete(a.recorders, r)
	a.mu.Unlock()
	sleep(ctx, again)
}

// lag is how far the slowest recording is behind its channel.
func (a *Archiver) lag() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var lag time.Duration
	for r := range a.recorders {
		lag = max(lag, r.lag())
	}
	return lag
}

// sleep waits, and returns false when ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
