// Package broker is the stage that chooses where media come from: of the readers
// that feed it the cheapest that has the name, and the next one when that fails,
// be it in the middle of a film.
package broker

import (
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
)

// askTimeout is how long an input may take to tell its cost.
const askTimeout = 2 * time.Second

// Kind describes the stage.
func Kind() stage.Kind {
	return stage.Kind{
		Name:    "broker",
		Summary: "Opens media from the cheapest of the readers that feed it, and from the next when that fails.",
		Ports:   stage.Ports{ProvidesReader: true, NeedsReader: stage.Some},
		New:     func(env stage.Env, _ any) (stage.Stage, error) { return newBroker(env), nil },
	}
}

type broker struct {
	stage.Passive
	log     hclog.Logger
	inputs  []*input
	metrics *metrics
}

// input is one reader that feeds the broker, and how it did of late.
type input struct {
	stage.Input
	backoff backoff
}

func newBroker(env stage.Env) *broker {
	b := &broker{log: env.Log, metrics: newMetrics(env.Metrics)}
	for _, in := range env.Inputs {
		b.inputs = append(b.inputs, &input{Input: in})
	}
	return b
}

// Open opens req from the best input that can serve it.
func (b *broker) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	src, in, err := b.open(ctx, req)
	if err != nil {
		return nil, err
	}
	if info := src.Info(); info.Live || info.Version == "" {
		return src, nil // nothing tells that another input has the same frames
	}
	return newSource(b, req, src, in), nil
}

// open tries the candidates in their order.
func (b *broker) open(ctx context.Context, req media.OpenRequest) (media.Source, *input, error) {
	candidates := b.ask(ctx, req)
	fallback := false
	for i := range candidates {
		c := &candidates[i]
		if c.err != nil && !c.mayAppear(req) {
			continue
		}
		src, err := c.in.Reader.Open(ctx, req)
		if err == nil {
			c.in.backoff.succeeded()
			b.metrics.opens.WithLabelValues(c.in.Name).Inc()
			if fallback {
				b.metrics.fallbacks.Inc()
			}
			return src, c.in, nil
		}
		if ctx.Err() != nil {
			return nil, nil, fmt.Errorf("open %s from %s: %w", req.Name, c.in.Name, err)
		}
		fallback = fallback || c.err == nil
		c.err = err
		b.failed(c.in, req.Name, err)
	}
	return nil, nil, verdict(req.Name, candidates)
}

// failed counts what went wrong with an input and, when it is the input's
// fault, keeps away from it for a while.
func (b *broker) failed(in *input, name string, err error) {
	cause := causeOf(err)
	b.metrics.errors.WithLabelValues(in.Name, cause.String()).Inc()
	if cause != unavailable {
		return
	}
	if d, first := in.backoff.failed(); first {
		b.log.Warn("input fails, others are preferred", "input", in.Name, "for", d, "name", name, "error", err)
	}
}

// A candidate is an input with what it said about a request.
type candidate struct {
	in      *input
	cost    media.Cost
	err     error // why it cannot serve
	resting bool  // it failed not long ago
}

func (c candidate) live() bool { return c.cost.Place == "live" }

// mayAppear reports whether a candidate without the name is worth an Open all
// the same: that of a live reader may wait for a publisher. Such candidates are last.
func (c candidate) mayAppear(req media.OpenRequest) bool {
	return !req.RecordedOnly && errors.Is(c.err, media.ErrNotFound)
}

// ask asks all inputs for their cost of req and returns them in the order in
// which they are to be tried: those that can serve before those that cannot,
// live media before recorded, inputs that failed of late last, and else the
// cheapest first.
func (b *broker) ask(ctx context.Context, req media.OpenRequest) []candidate {
	candidates := make([]candidate, len(b.inputs))
	var wg sync.WaitGroup
	for i, in := range b.inputs {
		wg.Go(func() {
			c := candidate{in: in, resting: in.backoff.resting()}
			c.cost, c.err = cost(ctx, in.Reader, req)
			if c.err == nil && c.cost.Load >= media.Overloaded {
				c.err = fmt.Errorf("%w: overloaded, %.0f%% of its busiest resource is in use", media.ErrUnavailable, 100*c.cost.Load)
			}
			candidates[i] = c
		})
	}
	wg.Wait()
	slices.SortStableFunc(candidates, func(x, y candidate) int {
		for _, d := range []int{
			trueLast(x.err != nil, y.err != nil),
			-trueLast(x.live(), y.live()),
			trueLast(x.resting, y.resting),
		} {
			if d != 0 {
				return d
			}
		}
		switch tx, ty := x.cost.Total(), y.cost.Total(); {
		case tx < ty:
			return -1
		case tx > ty:
			return 1
		}
		return 0
	})
	return candidates
}

func trueLast(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return 1
	}
	return -1
}

// cost is what r says that req costs. A reader that knows nothing of costs
// counts as an origin over HTTP.
func cost(ctx context.Context, r media.Reader, req media.OpenRequest) (media.Cost, error) {
	c, ok := r.(media.Coster)
	if !ok {
		return media.Cost{Place: media.PlaceUnknown, Base: media.CostHTTP}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cost, err := c.Cost(ctx, req)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: no answer about its cost within %s", media.ErrUnavailable, askTimeout)
	}
	return cost, err
}

// Cost is that of the candidate that Open would try first.
func (b *broker) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	candidates := b.ask(ctx, req)
	if best := candidates[0]; best.err == nil {
		return best.cost, nil
	}
	return media.Cost{}, verdict(req.Name, candidates)
}

// Explain lists the candidates in the order in which Open would try them. An
// input that explains itself stands there with its own candidates.
func (b *broker) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	var list []media.Candidate
	for i, c := range b.ask(ctx, req) {
		chosen := i == 0 && c.err == nil
		if e, ok := c.in.Reader.(media.Explainer); ok && c.err == nil {
			inner, err := e.Explain(ctx, req)
			if err == nil {
				for _, d := range inner {
					d.Chosen = d.Chosen && chosen
					list = append(list, d)
				}
				continue
			}
			c.err = err
		}
		list = append(list, c.describe(chosen))
	}
	return list, nil
}

func (c candidate) describe(chosen bool) media.Candidate {
	d := media.Candidate{Source: c.in.Name, Cost: c.cost, Total: c.cost.Total(), Chosen: chosen}
	switch {
	case c.err != nil:
		d.Note = c.err.Error()
	case c.resting:
		d.Note = "failed not long ago, so it comes after the others"
	case c.live():
		d.Note = "on air, so it comes before recorded media"
	}
	return d
}

// verdict is the error of an open that no candidate could serve. It wraps one
// of the errors of package media alone, so that errors.Is has one answer.
func verdict(name string, candidates []candidate) error {
	worst := notFound
	var is error
	var said []string
	for _, c := range candidates {
		if cause := causeOf(c.err); is == nil || cause > worst {
			worst, is = cause, c.err
		}
		said = append(said, fmt.Sprintf("%s: %v", c.in.Name, c.err))
	}
	switch worst {
	case notFound:
		is = media.ErrNotFound
	case denied:
		is = media.ErrDenied
	case unavailable:
		is = media.ErrUnavailable
	default:
		return fmt.Errorf("open %s: %w", name, is)
	}
	return fmt.Errorf("open %s: %w (%s)", name, is, strings.Join(said, "; "))
}

// cause is why an input did not serve a request, the gravest last: of several
// the viewer is told the one that leaves most hope.
type cause int

const (
	notFound cause = iota
	denied
	failed // what is wrong is no fault of the input, such as a broken file
	unavailable
	redirected
)

func (c cause) String() string {
	return [...]string{"not_found", "denied", "failed", "unavailable", "redirected"}[c]
}

func causeOf(err error) cause {
	var redirect *media.RedirectError
	switch {
	case errors.As(err, &redirect):
		return redirected
	case errors.Is(err, media.ErrNotFound):
		return notFound
	case errors.Is(err, media.ErrDenied):
		return denied
	case errors.Is(err, media.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return unavailable
	}
	return failed
}
