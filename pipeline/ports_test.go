package pipeline

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/mediad/mediad/core/archive"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// station is a stage with all abilities.
type station struct {
	fake
	names   []string
	changed chan struct{}
}

func (s *station) Watch() ([]string, <-chan struct{}) { return s.names, s.changed }

func (s *station) Cost(context.Context, media.OpenRequest) (media.Cost, error) {
	return media.Cost{Place: "live"}, nil
}

func (s *station) Explain(context.Context, media.OpenRequest) ([]media.Candidate, error) {
	return []media.Candidate{{Source: s.name}}, nil
}

func behind(p *port, made stage.Stage) *unit {
	u := &unit{port: p, status: Status{Made: made, State: Running}}
	p.open(u)
	return u
}

func TestPort_HasTheAbilitiesOfItsStage(t *testing.T) {
	for i := range 8 {
		can := abilities{reads: true, costs: i&1 != 0, explains: i&2 != 0, lists: i&4 != 0}
		r := newPort("a/b", can).reader
		_, costs := r.(media.Coster)
		_, explains := r.(media.Explainer)
		_, lists := r.(archive.Lister)
		if costs != can.costs || explains != can.explains || lists != can.lists {
			t.Errorf("%+v: %T", can, r)
		}
	}
	if p := newPort("a/b", abilities{writes: true}); p.reader != nil || p.writer == nil {
		t.Errorf("%+v", p)
	}
}

func TestPort_LeadsToTheStageOfNow(t *testing.T) {
	ctx, req := t.Context(), media.OpenRequest{}
	first := &station{fake: fake{name: "first"}}
	k := stage.Kind{Ports: stage.Ports{ProvidesReader: true, ProvidesWriter: true}}
	p := newPort("a/b", abilitiesOf(k, first))
	explain := func() string {
		list, err := p.reader.(media.Explainer).Explain(ctx, req)
		if err != nil {
			return err.Error()
		}
		return list[0].Source
	}
	const none = "a/b does not run now: unavailable"
	if got := explain(); got != none {
		t.Error(got)
	}
	u := behind(p, first)
	if got := explain(); got != "first" {
		t.Error(got)
	}
	behind(p, &station{fake: fake{name: "second"}})
	if got := explain(); got != "second" {
		t.Error(got)
	}
	p.open(u)
	u.setMade(nil)
	_, err := p.reader.Open(ctx, req)
	_, err2 := p.writer.Create(ctx, media.CreateRequest{})
	_, err3 := p.reader.(media.Coster).Cost(ctx, req)
	for _, err := range []error{err, err2, err3} {
		if !errors.Is(err, media.ErrUnavailable) || err.Error() != none {
			t.Error(err)
		}
	}
}

func TestPort_WatchEndsWithTheStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := &station{names: []string{"a"}, changed: make(chan struct{})}
		p := newPort("a/b", abilities{reads: true, lists: true})
		defer p.close()
		lister := p.reader.(archive.Lister)
		closed := func(c <-chan struct{}) bool {
			synctest.Wait()
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		_, changed := lister.Watch()
		u := behind(p, first)
		if !closed(changed) {
			t.Error("there is a stage now, and Watch does not tell")
		}
		names, changed := lister.Watch()
		if _, again := lister.Watch(); names[0] != "a" || changed != again || closed(changed) {
			t.Error(names, "it is told of a change where there is none, or each call has its own channel")
		}
		close(first.changed)
		if !closed(changed) {
			t.Error("the stage's own change")
		}
		first.changed = make(chan struct{})
		_, changed = lister.Watch()
		u.setMade(nil)
		if !closed(changed) {
			t.Error("the stage has failed, and Watch does not tell")
		}
	})
}
