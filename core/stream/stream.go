// Package stream is the stage that viewers play from: one machine for each
// message stream of a client, which opens media, paces them and sends them. The
// conversation is RTMP's; how it is put on the wire is the front's.
package stream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

type settings struct {
	App     string  `set:"app,required" doc:"application that viewers connect to: rtmp://host/APP/name, http://host/APP/name.flv"`
	Serve   []Form  `set:"serve" doc:"what it can be watched as: rtmp, flv, hls, mp4"`
	Latency Latency `set:"latency" doc:"how long live frames may be held back so that several are written at once, which costs less: a duration up to 1s, or auto, that is up to 24ms when there are many viewers"`

	Access access.Settings `set:"access"`
}

func (s *settings) Check() error {
	if err := media.CheckName(s.App); err != nil {
		return stage.Wrong("app", "%w", err)
	}
	return s.Access.Check()
}

// Kind returns the kind "stream", whose stages serve viewers of front and of web.
func Kind(front Front, web Web) stage.Kind {
	return stage.Kind{
		Name:    "stream",
		Summary: "Plays to the viewers of an application: from a position, pause, seek, playlist.",
		Settings: func() any {
			return &settings{Serve: []Form{RTMP, FLV, HLS, MP4}, Latency: Auto, Access: access.Defaults()}
		},
		Ports: stage.Ports{NeedsReader: stage.One},
		New: func(env stage.Env, s any) (stage.Stage, error) {
			if len(env.Inputs) != 1 {
				return nil, fmt.Errorf("stream has %d readers, it takes one", len(env.Inputs))
			}
			metrics, err := newMetrics(env.Metrics)
			if err != nil {
				return nil, err
			}
			set := s.(*settings)
			guard, err := access.New(set.Access, env.Log, env.Metrics)
			if err != nil {
				return nil, err
			}
			return &stream{
				env:      env,
				app:      set.App,
				serve:    set.Serve,
				input:    env.Inputs[0],
				front:    front,
				web:      web,
				guard:    guard,
				metrics:  metrics,
				players:  map[*player]struct{}{},
				audience: map[string]map[string]int{},
				began:    time.Now(),
				rounds:   rounds{latency: set.Latency, metrics: metrics, of: map[Feed][]*round{}},
			}, nil
		},
	}
}

// A stream is the stage. It owns its players: their goroutines end before Serve returns.
type stream struct {
	env     stage.Env
	app     string
	serve   []Form
	input   stage.Input
	front   Front
	web     Web
	guard   *access.Guard
	metrics *metrics
	rounds  rounds
	began   time.Time

	mu       sync.Mutex
	players  map[*player]struct{}
	audience map[string]map[string]int // viewers by name and protocol
	draining bool                      // no more plays
	stopped  bool                      // no more players
}

// App is the application that the stage serves.
func (s *stream) App() string { return s.app }

// Serves is what the app can be watched as.
func (s *stream) Serves() []Form { return s.serve }

// Audience returns how many are played something, by its name and their protocol. Those who
// fetch files are not among them.
func (s *stream) Audience() map[string]map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]map[string]int{}
	for name, by := range s.audience {
		out[name] = maps.Clone(by)
	}
	return out
}

// Clients lists the viewers, those who fetch files among them.
func (s *stream) Clients() []access.Client { return s.guard.Clients() }

// Kick throws out the viewers that which returns true for, and returns how many these are.
func (s *stream) Kick(which func(access.Client) bool) int { return s.guard.Kick(which) }

// watching counts who begins, with 1, and ends, with -1, to be played something.
func (s *stream) watching(r *Request, n int) {
	s.metrics.viewers.Add(float64(n))
	s.mu.Lock()
	defer s.mu.Unlock()
	by := s.audience[r.Name]
	if by == nil {
		by = map[string]int{}
		s.audience[r.Name] = by
	}
	if by[r.Protocol] += n; by[r.Protocol] == 0 {
		delete(by, r.Protocol)
	}
	if len(by) == 0 {
		delete(s.audience, r.Name)
	}
}

// Serve serves viewers until ctx ends. Then it ends live viewers, and lets those of
// recorded media go on for nine tenths of Env.Drain; the rest is for telling them
// of the end, before the front closes their connections.
func (s *stream) Serve(ctx context.Context) error {
	remove, err := s.appear()
	if err != nil {
		return fmt.Errorf("serve app %q: %w", s.app, err)
	}
	defer remove()          // also in a panic, or the app would stay claimed
	defer s.guard.Start()() // stopped once all have left
	<-ctx.Done()
	limit, cancel := context.WithTimeout(context.Background(), s.env.Drain/10*9)
	defer cancel()
	for _, p := range s.drain() {
		select {
		case <-p.quiet:
		case <-p.done:
		case <-limit.Done():
		}
	}
	remove()
	players := s.stop()
	for _, p := range players {
		p.cancel(errStopped)
	}
	for _, p := range players {
		<-p.done
	}
	s.rounds.running.Wait()
	return nil
}

// appear lets viewers come, until remove is called.
func (s *stream) appear() (remove func(), err error) {
	var removes []func()
	remove = func() {
		for _, f := range removes {
			f()
		}
	}
	if slices.Contains(s.serve, RTMP) {
		f, err := s.front.HandlePlay(s.app, s.newPlayer)
		if err != nil {
			return nil, err
		}
		removes = append(removes, f)
	}
	forms := slices.DeleteFunc(slices.Clone(s.serve), func(f Form) bool { return f == RTMP })
	if len(forms) > 0 && s.web != nil {
		f, err := s.web.HandleWatch(s.app, Watch{Forms: forms, NewPlayer: s.newPlayer, Reader: s.input.Reader, Admit: s.guard.Admit})
		if err != nil {
			remove()
			return nil, err
		}
		removes = append(removes, f)
	}
	return remove, nil
}

// newPlayer starts a player for a client. Once the stage has stopped, the player
// does nothing.
func (s *stream) newPlayer(v Viewer) Player {
	p := newPlayer(s, v)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		p.cancel(errStopped)
		close(p.done)
		return p
	}
	p.draining = s.draining
	s.players[p] = struct{}{}
	go p.run()
	return p
}

func (s *stream) forget(p *player) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.players, p)
}

// drain tells the players that the stage is stopping, and returns them.
func (s *stream) drain() []*player {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	players := s.list()
	for _, p := range players {
		p.post(event{kind: drain})
	}
	return players
}

// stop takes no more players and returns those that are left.
func (s *stream) stop() []*player {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	return s.list()
}

func (s *stream) list() []*player {
	players := make([]*player, 0, len(s.players))
	for p := range s.players {
		players = append(players, p)
	}
	return players
}

// Explain says what req would be played from. It implements media.Explainer.
func (s *stream) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	if e, ok := s.input.Reader.(media.Explainer); ok {
		return e.Explain(ctx, req)
	}
	only := media.Candidate{Source: s.input.Name, Chosen: true, Note: "the only one"}
	c, ok := s.input.Reader.(media.Coster)
	if !ok {
		return []media.Candidate{only}, nil
	}
	cost, err := c.Cost(ctx, req)
	if err != nil {
		return nil, err
	}
	only.Cost, only.Total = cost, cost.Total()
	return []media.Candidate{only}, nil
}
