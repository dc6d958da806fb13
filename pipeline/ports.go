// Ports: what a stage holds of the stages that it calls. A port stays when the stage
// behind it is replaced or has failed, so its callers need not be built anew.

package pipeline

import (
	"context"
	"fmt"
	"sync"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// A port leads to the unit that is to be called now. Only Open and its kin pass
// through it: sources and sinks are the stage's own, so nothing stands in the way
// of frames, and those that are open stay with the unit that they came from. How
// long that goes on serving them is told by stage.Stage: its Serve finishes what is
// under way.
type port struct {
	name   string
	can    abilities
	reader media.Reader // nil when the stage provides none
	writer media.Writer

	mu      sync.Mutex
	unit    *unit         // nil before one was opened
	changed chan struct{} // closed when another stage, or none, is behind the port
	watched watched
	relays  sync.WaitGroup
}

// abilities are what callers may ask of a stage; those of a port never change.
type abilities struct{ reads, writes, costs, explains, lists bool }

// watcher is a Reader that knows what is on air; see archive.Lister.
type watcher interface {
	Watch() (names []string, changed <-chan struct{})
}

// abilitiesOf returns those of a stage. What stands apart may be made after its
// callers, when nobody knows yet what it can: it is taken to know costs and to explain
// itself, and calls of one that does not are answered as a broker would answer them.
// Watch is not among them, as nothing can stand for a listing.
func abilitiesOf(k stage.Kind, made stage.Stage) abilities {
	a := abilities{reads: k.ProvidesReader, writes: k.ProvidesWriter}
	if k.Apart {
		a.costs, a.explains = a.reads, a.reads
		return a
	}
	_, a.costs = made.(media.Coster)
	_, a.explains = made.(media.Explainer)
	_, a.lists = made.(watcher)
	return a
}

func newPort(name string, can abilities) *port {
	p := &port{name: name, can: can, changed: make(chan struct{})}
	if can.writes {
		p.writer = writer{p}
	}
	if can.reads {
		p.reader = p.asReader()
	}
	return p
}

// The abilities as types, so that a caller's type assertion finds those which the
// stage has, and no others.
type (
	reader    struct{ *port }
	writer    struct{ *port }
	coster    struct{ *port }
	explainer struct{ *port }
	lister    struct{ *port }
)

func (p *port) asReader() media.Reader {
	r, c, e, l := reader{p}, coster{p}, explainer{p}, lister{p}
	switch can := p.can; {
	case can.costs && can.explains && can.lists:
		return struct {
			reader
			coster
			explainer
			lister
		}{r, c, e, l}
	case can.costs && can.explains:
		return struct {
			reader
			coster
			explainer
		}{r, c, e}
	case can.costs && can.lists:
		return struct {
			reader
			coster
			lister
		}{r, c, l}
	case can.explains && can.lists:
		return struct {
			reader
			explainer
			lister
		}{r, e, l}
	case can.costs:
		return struct {
			reader
			coster
		}{r, c}
	case can.explains:
		return struct {
			reader
			explainer
		}{r, e}
	case can.lists:
		return struct {
			reader
			lister
		}{r, l}
	}
	return r
}

func (r reader) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	made, err := r.target()
	if err != nil {
		return nil, err
	}
	return made.(media.Reader).Open(ctx, req)
}

func (w writer) Create(ctx context.Context, req media.CreateRequest) (media.Sink, error) {
	made, err := w.target()
	if err != nil {
		return nil, err
	}
	return made.(media.Writer).Create(ctx, req)
}

func (c coster) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	made, err := c.target()
	if err != nil {
		return media.Cost{}, err
	}
	return media.CostOf(ctx, made.(media.Reader), req)
}

func (e explainer) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	made, err := e.target()
	if err != nil {
		return nil, err
	}
	if able, ok := made.(media.Explainer); ok {
		return able.Explain(ctx, req)
	}
	cost, err := coster(e).Cost(ctx, req)
	if err != nil {
		return nil, err
	}
	return []media.Candidate{{Source: e.name, Cost: cost, Total: cost.Total(), Chosen: true}}, nil
}

// target is the stage to call now.
func (p *port) target() (stage.Stage, error) {
	p.mu.Lock()
	u := p.unit
	p.mu.Unlock()
	if u != nil {
		if made := u.made(); made != nil {
			return made, nil
		}
	}
	return nil, fmt.Errorf("%s does not run now: %w", p.name, media.ErrUnavailable)
}

// open makes u the unit that is called.
func (p *port) open(u *unit) {
	p.mu.Lock()
	p.unit = u
	p.mu.Unlock()
	p.notify()
}

// close ends the port's goroutines, when nothing is behind it any more.
func (p *port) close() {
	p.open(nil)
	p.relays.Wait()
}

// notify tells those who watch that another stage is behind the port, or none.
func (p *port) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// watched is the channel that Watch has last made, and the two it is closed after.
type watched struct {
	below   <-chan struct{}
	changed <-chan struct{}
	either  chan struct{}
}

// Watch is that of the stage. Its channel is closed also when that stage is no
// longer the one to be asked.
func (l lister) Watch() (names []string, changed <-chan struct{}) {
	l.mu.Lock()
	other := l.changed // before the stage is asked, so that nothing is missed
	l.mu.Unlock()
	made, err := l.target()
	if err != nil {
		return nil, other
	}
	names, below := made.(watcher).Watch()
	return names, l.either(below, other)
}

// either returns a channel that is closed after one of the two. There is one for
// each pair, however often it is asked for, and a goroutine that ends with it.
func (p *port) either(below, changed <-chan struct{}) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.watched; w.below == below && w.changed == changed {
		return w.either
	}
	either := make(chan struct{})
	p.watched = watched{below, changed, either}
	p.relays.Go(func() {
		defer close(either)
		select {
		case <-below:
		case <-changed:
		}
	})
	return either
}
