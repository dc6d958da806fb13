// Running a graph: stages are built providers first, served, watched, and stopped
// in an order in which nothing that is under way is lost.

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// grace is how long after Graph.Drain a stage is waited for before it is left behind.
const grace = 5 * time.Second

// State is what a stage is doing.
type State string

// The states, in their order. Failed takes the place of any after Starting.
const (
	Starting State = "starting" // built, not served yet
	Running  State = "running"
	Stopping State = "stopping" // told to finish
	Stopped  State = "stopped"
	Failed   State = "failed"
)

// A Status is one stage of a running daemon at one moment.
type Status struct {
	*Stage
	Made  stage.Stage
	State State
	Since time.Time // when the state began
	Err   error     // why it has failed
}

// A Supervisor runs the stages of a graph.
type Supervisor struct {
	drain time.Duration
	log   hclog.Logger
	units []*unit // in the order of starting
	file  []*unit // in the order of the file

	failed chan *unit // room for all of them
}

// unit is one stage with what its supervisor knows of it.
type unit struct {
	*Stage
	made   stage.Stage
	log    hclog.Logger
	cancel context.CancelFunc
	served chan struct{} // closed when Serve has returned
	over   chan struct{} // closed when it is waited for no more
	before []*unit       // those that stop before it does

	mu     sync.Mutex
	status Status
}

// Build makes the stages of g, and starts nothing. A setting that a stage refuses
// is returned as Problems, at its position in the file. The kinds are those that
// the file was checked against, ready to make stages.
func Build(g *Graph, kinds []stage.Kind, log hclog.Logger, metrics prometheus.Registerer) (*Supervisor, error) {
	s := &Supervisor{drain: g.Drain, log: log}
	units := map[*Stage]*unit{}
	p := parser{file: g.File}
	for _, st := range g.order {
		i := slices.IndexFunc(kinds, func(k stage.Kind) bool { return k.Name == st.Kind.Name })
		u, err := build(st, kinds[i].New, units, stage.Env{
			Name:    st.String(),
			Log:     log.Named(st.String()),
			Metrics: prometheus.WrapRegistererWith(prometheus.Labels{"pipeline": st.Pipeline, "stage": st.Name}, metrics),
			Drain:   g.Drain,
		})
		if err != nil {
			for _, e := range each(err) {
				at, ok := st.positions[settingOf(e)]
				if !ok {
					at = st.at
				}
				p.wrong(at, st.String(), "%v", e)
			}
		}
		if u == nil {
			continue
		}
		units[st] = u
		s.units = append(s.units, u)
	}
	if err := p.problems.sort(); err != nil {
		return nil, err
	}
	for _, st := range g.Stages {
		s.file = append(s.file, units[st])
	}
	stopOrder(s.units, units)
	return s, nil
}

// build makes one stage, or returns nil when one that it needs could not be made.
func build(st *Stage, newStage func(stage.Env, any) (stage.Stage, error), units map[*Stage]*unit, env stage.Env) (*unit, error) {
	for _, in := range st.Inputs {
		if units[in] == nil {
			return nil, nil
		}
		env.Inputs = append(env.Inputs, stage.Input{Name: in.String(), Reader: units[in].made.(media.Reader)})
	}
	if st.Output != nil {
		if units[st.Output] == nil {
			return nil, nil
		}
		env.Output = units[st.Output].made.(media.Writer)
	}
	made, err := newStage(env, st.Settings)
	if err != nil {
		return nil, err
	}
	if _, ok := made.(media.Reader); st.Kind.ProvidesReader && !ok {
		return nil, fmt.Errorf("the kind %s promises a reader and makes none", st.Kind.Name)
	}
	if _, ok := made.(media.Writer); st.Kind.ProvidesWriter && !ok {
		return nil, fmt.Errorf("the kind %s promises a writer and makes none", st.Kind.Name)
	}
	return &unit{
		Stage:  st,
		made:   made,
		log:    env.Log,
		served: make(chan struct{}),
		over:   make(chan struct{}),
		status: Status{Stage: st, Made: made, State: Starting, Since: time.Now()},
	}, nil
}

// Stages returns what each stage is doing, in the order of the file.
func (s *Supervisor) Stages() []Status {
	list := make([]Status, len(s.file))
	for i, u := range s.file {
		u.mu.Lock()
		list[i] = u.status
		u.mu.Unlock()
	}
	return list
}

// Start serves the stages, each after those it calls. Wait must follow.
func (s *Supervisor) Start() {
	s.failed = make(chan *unit, len(s.units))
	for _, u := range s.units {
		u.start(s.failed)
	}
}

// Wait waits until ctx ends or a stage fails, then stops all stages and waits for
// them. It returns what went wrong, with the names of the stages.
func (s *Supervisor) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		s.log.Info("stopping", "drain", s.drain)
	case u := <-s.failed:
		s.log.Error("a stage has failed, the daemon stops", "stage", u.String(), "error", u.err())
	}
	var stops sync.WaitGroup
	for _, u := range s.units {
		stops.Go(func() { u.stop(s.drain + grace) })
	}
	stops.Wait()
	var errs []error
	for _, u := range s.units {
		if err := u.err(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u, err))
		}
	}
	return errors.Join(errs...)
}

// start serves the stage in a goroutine, which ends when Serve has returned.
func (u *unit) start(failed chan<- *unit) {
	var ctx context.Context
	ctx, u.cancel = context.WithCancel(context.Background())
	u.enter(Running, nil)
	go func() {
		defer close(u.served)
		err := u.serve(ctx)
		if err == nil && ctx.Err() == nil {
			err = errors.New("has ended by itself")
		}
		if err == nil {
			u.enter(Stopped, nil)
			return
		}
		u.enter(Failed, err)
		failed <- u
	}()
}

func (u *unit) serve(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			u.log.Error("panic", "value", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return u.made.Serve(ctx)
}

// stop ends the stage when its turn has come, and waits for it.
func (u *unit) stop(bound time.Duration) {
	defer close(u.over)
	for _, b := range u.before {
		<-b.over
	}
	u.enter(Stopping, nil)
	u.cancel()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-u.served:
	case <-timer.C:
		u.log.Error("does not stop and is left behind", "waited", bound)
		u.enter(Failed, fmt.Errorf("did not stop within %v", bound))
	}
}

// enter changes the state. Stopped and Failed are final.
func (u *unit) enter(state State, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.status.State == Stopped || u.status.State == Failed {
		return
	}
	u.status.State, u.status.Err, u.status.Since = state, err, time.Now()
}

func (u *unit) err() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status.Err
}

// stopOrder sets which units each one stops after. A stage stops after all that
// call it. Of the stages that nobody calls, one whose frames flow to another stops
// before that: ingest before archiver, which so gets a channel's last frames.
func stopOrder(units []*unit, of map[*Stage]*unit) {
	down := map[*unit][]*unit{} // where the frames flow
	called := map[*unit]bool{}
	for _, u := range units {
		for _, st := range u.calls() {
			called[of[st]] = true
			of[st].before = append(of[st].before, u)
		}
		for _, in := range u.Inputs {
			down[of[in]] = append(down[of[in]], u)
		}
		if u.Output != nil {
			down[u] = append(down[u], of[u.Output])
		}
	}
	reach := map[*unit]map[*unit]bool{}
	for _, u := range units {
		if !called[u] {
			reach[u] = map[*unit]bool{}
			flood(u, down, reach[u])
		}
	}
	for first, reached := range reach {
		for then := range reached {
			// Two that feed each other, over a broadcast, stop together.
			if !called[then] && !reach[then][first] {
				then.before = append(then.before, first)
			}
		}
	}
}

// flood adds to seen all that can be reached from u.
func flood(u *unit, down map[*unit][]*unit, seen map[*unit]bool) {
	for _, d := range down[u] {
		if !seen[d] {
			seen[d] = true
			flood(d, down, seen)
		}
	}
}
