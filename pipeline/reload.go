// Reload: from the graph that runs to another, changing no more than has changed.

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
)

// ErrStopping is what Reload returns once the daemon stops.
var ErrStopping = errors.New("the daemon is stopping")

// Changes are what a reload did to the stages ("pipeline/stage").
type Changes struct {
	File     string   `json:"file"`
	Kept     []string `json:"kept,omitempty"`
	Replaced []string `json:"replaced,omitempty"`
	Added    []string `json:"added,omitempty"`
	Removed  []string `json:"removed,omitempty"`
	// Restart names what stands otherwise at the top of the file than when the
	// daemon was started, and takes a restart.
	Restart []string `json:"restart,omitempty"`
}

// Reload changes what runs to what g says. Stages that run and whose entry is as it
// was are left alone; the others are replaced. When one cannot be made, or fails as
// soon as it is served, what ran before runs on, and the error says why; it is
// Problems when a stage refuses its settings. The kinds are as in Build.
func (s *Supervisor) Reload(ctx context.Context, g *Graph, kinds []stage.Kind) (Changes, error) {
	if !s.acquire(ctx) {
		return Changes{}, ctx.Err()
	}
	defer s.release()
	if s.stopped {
		return Changes{}, ErrStopping
	}
	// What has been begun is brought to an end, even if nobody waits for the answer.
	ctx = context.WithoutCancel(ctx)
	old := s.current()
	next, fresh, err := s.build(g, kinds, old)
	if err != nil {
		return Changes{}, err
	}
	var gone []*unit
	for _, u := range old.inOrder() {
		if next.units[u.String()] != u {
			gone = append(gone, u)
		}
	}
	if err := s.replace(ctx, old, next, gone, fresh); err != nil {
		return Changes{}, fmt.Errorf("%w (what ran before the reload runs on)", err)
	}
	s.log.SetLevel(hclog.LevelFromString(g.Log.Level))
	c := s.changes(old, next)
	s.log.Info("reloaded", "kept", len(c.Kept), "replaced", c.Replaced, "added", c.Added, "removed", c.Removed, "restart", c.Restart)
	return c, nil
}

// replace puts the fresh units in the place of those that are gone.
//
// A stage that is only read from shares what it has, so two of a name can run side
// by side: the new one is read from once it has passed its trial, and the old one
// then finishes what it has open. Any other has something that is its own (an
// application, a channel, a folder, an address), so the old one is stopped before the
// new one is served.
func (s *Supervisor) replace(ctx context.Context, old, next running, gone, fresh []*unit) error {
	freshShared, freshAlone := divide(fresh)
	goneShared, goneAlone := divide(gone)

	for _, u := range freshShared {
		u.start(s, true)
	}
	if err := passTrial(ctx, freshShared); err != nil {
		s.stop(next, freshShared, nil)
		old.takeBack(fresh)
		return err
	}
	for _, u := range freshShared {
		u.port.open(u)
	}
	goneAlone = slices.DeleteFunc(goneAlone, (*unit).over) // those would not be rolled back
	s.stop(old, goneAlone, nil)
	for _, u := range freshAlone {
		u.port.open(u)
		u.start(s, true)
	}
	if err := passTrial(ctx, freshAlone); err != nil {
		s.rollBack(old, next, goneAlone, fresh)
		return err
	}
	s.run(next)
	for _, u := range gone {
		u.metrics.hide()
	}
	s.retired.Go(func() { s.stop(old, goneShared, nil) })
	return nil
}

// rollBack runs what ran before. What was stopped for the fresh units is made anew,
// as after a failure.
func (s *Supervisor) rollBack(old, next running, stopped, fresh []*unit) {
	shared, alone := divide(fresh)
	s.stop(next, alone, nil)
	old.takeBack(fresh)
	back := running{old.graph, maps.Clone(old.units)}
	for _, u := range stopped {
		back.units[u.String()] = u.again()
	}
	for _, u := range old.inOrder() {
		u = back.units[u.String()]
		u.port.open(u)
		if u.cancel == nil {
			u.start(s, false)
		}
	}
	s.stop(next, shared, nil)
	s.run(back)
}

// run makes r what runs now.
func (s *Supervisor) run(r running) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = r
}

// takeBack shows the metrics of r again, in place of those of the units that were
// to follow.
func (r running) takeBack(fresh []*unit) {
	for _, u := range fresh {
		u.metrics.hide()
	}
	for _, u := range r.units {
		u.metrics.show()
	}
}

// divide tells the units that can run beside another of their name from those that
// have to be alone.
func divide(units []*unit) (shared, alone []*unit) {
	for _, u := range units {
		if u.Kind.ProvidesReader && !u.Kind.ProvidesWriter && !u.Kind.Apart {
			shared = append(shared, u)
		} else {
			alone = append(alone, u)
		}
	}
	return shared, alone
}

func (s *Supervisor) changes(old, next running) Changes {
	c := Changes{File: next.graph.File}
	for _, st := range next.graph.Stages {
		name := st.String()
		switch was := old.units[name]; was {
		case next.units[name]:
			c.Kept = append(c.Kept, name)
		case nil:
			c.Added = append(c.Added, name)
		default:
			c.Replaced = append(c.Replaced, name)
		}
	}
	for _, st := range old.graph.Stages {
		if next.units[st.String()] == nil {
			c.Removed = append(c.Removed, st.String())
		}
	}
	was, is := s.booted, next.graph
	for _, top := range []struct {
		key     string
		changed bool
	}{
		{"listen", was.Listen != is.Listen},
		{"cluster", !reflect.DeepEqual(was.Cluster, is.Cluster)},
		{"log.format", was.Log.Format != is.Log.Format},
		{"drain", was.Drain != is.Drain},
		{"pprof", was.Pprof != is.Pprof},
	} {
		if top.changed {
			c.Restart = append(c.Restart, top.key)
		}
	}
	return c
}
