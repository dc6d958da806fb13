// Running a graph: stages are built providers first, served, watched, and stopped
// in an order in which nothing that is under way is lost.

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// grace is how long after Graph.Drain a stage is waited for before it is left behind.
const grace = 5 * time.Second

// State is what a stage is doing.
type State string

// The states, in their order. Failed takes the place of any after Starting.
const (
	Starting   State = "starting" // built, not served yet
	Running    State = "running"
	Restarting State = "restarting" // has failed and will be made again, or its process
	Stopping   State = "stopping"   // told to finish
	Stopped    State = "stopped"
	Failed     State = "failed" // and is not made again before the next reload
)

// A Status is one stage of a running daemon at one moment.
type Status struct {
	*Stage
	Made  stage.Stage // nil when it was served and is no more
	State State
	Since time.Time // when the state began
	Err   error     // why it has failed, or was stopped
}

// A Supervisor runs the stages of a graph, and changes them when that changes.
type Supervisor struct {
	log     hclog.Logger
	metrics prometheus.Registerer
	nodes   stage.Nodes // nil when the daemon is alone
	booted  *Graph      // the first
	failed  chan *unit  // those that are not made again

	// changing holds a token for who makes stages or changes which ones run. It
	// is no mutex, so that waiting for it can be given up.
	changing chan struct{}
	stopped  bool           // under changing
	retired  sync.WaitGroup // replaced stages that finish what they have open

	mu  sync.Mutex
	now running // changed under changing
}

// running is the stages of a graph as they run.
type running struct {
	graph *Graph
	units map[string]*unit // by "pipeline/stage"
}

// inOrder are the units in the order of starting.
func (r running) inOrder() []*unit {
	list := make([]*unit, len(r.graph.order))
	for i, st := range r.graph.order {
		list[i] = r.units[st.String()]
	}
	return list
}

// Build makes the stages of g, and starts nothing. A setting that a stage refuses
// is returned as Problems, at its position in the file. The kinds are those that
// the file was checked against, ready to make stages; nodes are the other nodes of
// the cluster, nil when there is none.
func Build(g *Graph, kinds []stage.Kind, nodes stage.Nodes, log hclog.Logger, metrics prometheus.Registerer) (*Supervisor, error) {
	s := &Supervisor{
		log:      log,
		metrics:  metrics,
		nodes:    nodes,
		booted:   g,
		failed:   make(chan *unit),
		changing: make(chan struct{}, 1),
	}
	s.release()
	var err error
	s.now, _, err = s.build(g, kinds, running{})
	if err != nil {
		return nil, err
	}
	return s, metrics.Register(gauge{s})
}

// build makes the stages of g that old does not have as g wants them, and takes
// the others from old. It returns all, and those that are fresh. When a stage
// cannot be made, old is as it was. The ports of what stands apart are there before
// it, for those of its callers that are made first.
func (s *Supervisor) build(g *Graph, kinds []stage.Kind, old running) (next running, fresh []*unit, err error) {
	next = running{g, map[string]*unit{}}
	p := parser{file: g.File}
	ports := map[*Stage]*port{}
	for _, st := range g.order {
		if st.Kind.Apart {
			ports[st] = old.port(st, abilitiesOf(st.Kind, nil))
		}
	}
	for _, st := range g.order {
		name := st.String()
		env, ok := s.env(st, ports)
		if !ok {
			continue
		}
		was := old.units[name]
		if was != nil && (st.Process == nil || g.Plugins == old.graph.Plugins) && was.keeps(st, env) {
			next.units[name], ports[st] = was, was.port
			continue
		}
		if was != nil {
			was.metrics.hide()
		}
		newStage := st.Kind.New
		if i := slices.IndexFunc(kinds, func(k stage.Kind) bool { return k.Name == st.Kind.Name }); i >= 0 && st.Process == nil {
			newStage = kinds[i].New
		}
		labels := prometheus.Labels{"pipeline": st.Pipeline, "stage": st.Name}
		u := newUnit(st, newStage, env, prometheus.WrapRegistererWith(labels, s.metrics))
		fresh = append(fresh, u)
		if err := u.make(); err != nil {
			for _, e := range each(err) {
				at, ok := st.positions[settingOf(e)]
				if !ok {
					at = st.at
				}
				p.wrong(at, name, "%v", e)
			}
			continue
		}
		if u.port = ports[st]; u.port == nil {
			u.port = old.port(st, abilitiesOf(st.Kind, u.made()))
		}
		next.units[name], ports[st] = u, u.port
	}
	if err := p.problems.sort(); err != nil {
		old.takeBack(fresh)
		return running{}, nil, err
	}
	return next, fresh, nil
}

// port returns the port that st has in r if that can the same, else a new one.
func (r running) port(st *Stage, can abilities) *port {
	if u := r.units[st.String()]; u != nil && u.port.can == can {
		return u.port
	}
	return newPort(st.String(), can)
}

// env is what st is given, if all that it calls has a port.
func (s *Supervisor) env(st *Stage, ports map[*Stage]*port) (env stage.Env, ok bool) {
	env = stage.Env{Name: st.String(), Log: s.log.Named(st.String()), Nodes: s.nodes, Drain: s.booted.Drain}
	for _, in := range st.Inputs {
		p := ports[in]
		if p == nil {
			return env, false
		}
		env.Inputs = append(env.Inputs, stage.Input{Name: in.String(), Reader: p.reader})
	}
	if st.Output != nil {
		p := ports[st.Output]
		if p == nil {
			return env, false
		}
		env.Output = p.writer
	}
	return env, true
}

// acquire takes the token, unless ctx ends before.
func (s *Supervisor) acquire(ctx context.Context) bool {
	select {
	case <-s.changing:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Supervisor) release() { s.changing <- struct{}{} }

// current is what runs now.
func (s *Supervisor) current() running {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Stages returns what each stage is doing, in the order of the file.
func (s *Supervisor) Stages() []Status {
	now := s.current()
	list := make([]Status, len(now.graph.Stages))
	for i, st := range now.graph.Stages {
		list[i] = now.units[st.String()].seen()
		list[i].Stage = st // a unit that was kept has that of an earlier file
	}
	return list
}

// Start serves the stages, each after those it calls. Wait must follow.
func (s *Supervisor) Start() {
	for _, u := range s.current().inOrder() {
		u.port.open(u)
		u.start(s, true)
	}
}

// Wait waits until ctx ends, a stage fails right at the start, or no pipeline is
// left that works; then it stops all stages and waits for them. It returns what
// went wrong, with the names of the stages.
func (s *Supervisor) Wait(ctx context.Context) error {
	if s.acquire(ctx) {
		err := passTrial(ctx, s.current().inOrder())
		s.release()
		if err != nil {
			s.log.Error("a stage has failed at the start, the daemon stops", "error", err)
		} else {
			s.watch(ctx)
		}
	}
	s.acquire(context.Background()) // from a reload, which waits for nothing without a bound
	defer s.release()
	s.stopped = true
	s.log.Info("stopping", "drain", s.booted.Drain)
	now := s.current()
	s.stop(now, now.inOrder(), nil)
	s.retired.Wait()
	var errs []error
	for _, u := range now.inOrder() {
		u.port.close()
		if err := u.now().Err; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u, err))
		}
	}
	return errors.Join(errs...)
}

// watch takes down what needs the stages that have failed for good, until ctx ends
// or no pipeline is left.
func (s *Supervisor) watch(ctx context.Context) {
	for {
		select {
		case u := <-s.failed:
			if !s.acquire(ctx) {
				return
			}
			left := s.takeDown(u)
			s.release()
			if !left {
				s.log.Error("no pipeline is left that works, the daemon stops")
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// takeDown stops what needs a stage that has failed for good, and reports whether a
// pipeline is left that is whole. It goes by stages: one that chooses among several
// readers goes on while one of them is left, and one that nobody calls any more
// does no harm. So pipelines that share other stages with the one that has
// failed go on.
func (s *Supervisor) takeDown(failed *unit) (left bool) {
	now := s.current()
	if now.units[failed.String()] != failed {
		return true // a reload has replaced it
	}
	s.log.Error("the stage is not started again; what needs it is stopped until a reload", "stage", failed.String(), "error", failed.now().Err)
	lost := map[*Stage]bool{}
	broken := map[string]bool{} // pipelines
	var needy []*unit
	for _, st := range now.graph.order {
		u := now.units[st.String()]
		switch {
		case u.over():
		case canDoWithout(st, lost):
			continue
		default:
			needy = append(needy, u)
		}
		lost[st], broken[st.Pipeline] = true, true
	}
	s.stop(now, needy, fmt.Errorf("it needs %s, which has failed", failed))
	return slices.ContainsFunc(now.graph.Stages, func(st *Stage) bool { return !broken[st.Pipeline] })
}

// canDoWithout reports whether st works without the stages that are lost.
func canDoWithout(st *Stage, lost map[*Stage]bool) bool {
	if st.Output != nil && lost[st.Output] {
		return false
	}
	needsOne := st.Kind.NeedsReader == stage.One || st.Kind.NeedsReader == stage.Some
	return !needsOne || slices.ContainsFunc(st.Inputs, func(in *Stage) bool { return !lost[in] })
}

// stop stops some of the stages of r, each when its turn has come, and waits for
// them. Those that are to go on are not waited for.
func (s *Supervisor) stop(r running, some []*unit, reason error) {
	over := map[*unit]chan struct{}{}
	for _, u := range some {
		over[u] = make(chan struct{})
	}
	before := stopOrder(r.graph)
	var stops sync.WaitGroup
	for _, st := range r.graph.order {
		u := r.units[st.String()]
		if over[u] == nil {
			continue
		}
		stops.Go(func() {
			defer close(over[u])
			for _, b := range before[st] {
				if first := over[r.units[b.String()]]; first != nil {
					<-first
				}
			}
			u.stop(s.booted.Drain+grace, reason)
		})
	}
	stops.Wait()
}

// stopOrder returns the stages that each one stops after. A stage stops after all
// that call it. Of the stages that nobody calls, one whose frames flow to another
// stops before that: ingest before archiver, which so gets a channel's last frames.
//
// A stage that stands apart and is called by one that it calls, as a repeater is by a
// broadcast, stops before that one, but after all else that calls it: publishers end
// first, so that the other nodes get the end of their channels, and viewers have what
// comes from there for as long as they may stay.
func stopOrder(g *Graph) map[*Stage][]*Stage {
	before := map[*Stage][]*Stage{}
	called := map[*Stage]bool{}
	started := map[*Stage]bool{}
	type call struct{ by, of *Stage }
	var circles []call // those that close one
	for _, st := range g.order {
		started[st] = true
		for _, below := range st.calls() {
			if !started[below] {
				circles = append(circles, call{st, below})
				continue
			}
			called[below] = true
			before[below] = append(before[below], st)
		}
	}
	down := map[*Stage][]*Stage{} // where the frames flow
	for _, l := range g.links() {
		if !l.from.Kind.Apart {
			down[l.from] = append(down[l.from], l.to)
		}
	}
	reach := map[*Stage]map[*Stage]bool{}
	for _, st := range g.order {
		if !called[st] {
			reach[st] = map[*Stage]bool{}
			flood(st, down, reach[st])
		}
	}
	for first, reached := range reach {
		for then := range reached {
			// Two that feed each other, over a broadcast, stop together.
			if !called[then] && !reach[then][first] {
				before[then] = append(before[then], first)
			}
		}
	}
	for _, c := range circles {
		for _, first := range before[c.by] {
			earlier := map[*Stage]bool{first: true} // those that it waits for
			flood(first, before, earlier)
			if !earlier[c.of] {
				before[c.of] = append(before[c.of], first)
			}
		}
	}
	return before
}

// flood adds to seen all that can be reached from st.
func flood(st *Stage, down map[*Stage][]*Stage, seen map[*Stage]bool) {
	for _, d := range down[st] {
		if !seen[d] {
			seen[d] = true
			flood(d, down, seen)
		}
	}
}
