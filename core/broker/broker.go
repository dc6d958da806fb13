// Package broker is the stage that chooses where media come from: of the readers
// that feed it the cheapest that has the name, and the next one when that fails,
// be it in the middle of a film.
package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// askTimeout is how long an input may take to tell its cost. One that takes longer, such as
// a plugin that is being started again, comes after all others.
const askTimeout = 2 * time.Second

var errSilent = fmt.Errorf("%w: no answer about its cost within %s", media.ErrUnavailable, askTimeout)

// Settings of the stage. The weights are those of media.Weights.
type Settings struct {
	Peer     float64  `set:"peer" doc:"what it costs that another node has the media; a byte from own memory costs 1, from a disk 10, from an origin 200"`
	RTT      float64  `set:"rtt" doc:"what each millisecond to that node costs"`
	Depth    float64  `set:"depth" doc:"what each node costs that live media pass before"`
	Load     float64  `set:"load" doc:"what the use u of the busiest resource on the way costs, times u/(1-u)"`
	Redirect Redirect `set:"redirect"`
}

// Redirect is when clients are sent elsewhere.
type Redirect struct {
	Gain float64 `set:"gain" doc:"send clients that can follow to another node when that serves them at so much less of the cost, such as 2; 0: never"`
}

// Check says what cannot be.
func (s *Settings) Check() error {
	for _, w := range []struct {
		name  string
		value float64
	}{{"peer", s.Peer}, {"rtt", s.RTT}, {"depth", s.Depth}, {"load", s.Load}} {
		if !(w.value >= 0) || math.IsInf(w.value, 1) {
			return stage.Wrong(w.name, "is %v, it must be 0 or more", w.value)
		}
	}
	if g := s.Redirect.Gain; g != 0 && !(g >= 1) || math.IsInf(g, 1) {
		return stage.Wrong("redirect.gain", "is %v, it must be 1 or more, or 0 for never", g)
	}
	return nil
}

func (s *Settings) weights() media.Weights {
	return media.Weights{Peer: s.Peer, RTT: s.RTT, Depth: s.Depth, Load: s.Load}
}

func defaults() *Settings {
	w := media.DefaultWeights
	return &Settings{Peer: w.Peer, RTT: w.RTT, Depth: w.Depth, Load: w.Load}
}

// Kind describes the stage.
func Kind() stage.Kind {
	return stage.Kind{
		Name:     "broker",
		Summary:  "Opens media from the cheapest of the readers that feed it, and from the next when that fails.",
		Settings: func() any { return defaults() },
		Ports:    stage.Ports{ProvidesReader: true, NeedsReader: stage.Some},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return newBroker(env, settings.(*Settings)), nil
		},
	}
}

type broker struct {
	stage.Passive
	log      hclog.Logger
	inputs   []*input
	nodes    stage.Nodes // nil on a node alone
	weights  media.Weights
	redirect float64
	chosen   choices
	decided  decisions
	metrics  *metrics
}

// input is one reader that feeds the broker, and how it did of late.
type input struct {
	stage.Input
	backoff backoff
}

func newBroker(env stage.Env, s *Settings) *broker {
	b := &broker{log: env.Log, nodes: env.Nodes, weights: s.weights(), redirect: s.Redirect.Gain, metrics: newMetrics(env.Metrics)}
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

// open opens req from the best input, and remembers how that was chosen.
func (b *broker) open(ctx context.Context, req media.OpenRequest) (media.Source, *input, error) {
	candidates := b.ask(ctx, req)
	src, in, err := b.try(ctx, req, candidates)
	b.decided.note(req.Name, candidates, in, err)
	return src, in, err
}

// try tries the candidates in their order.
func (b *broker) try(ctx context.Context, req media.OpenRequest, candidates []candidate) (media.Source, *input, error) {
	if err := b.elsewhere(ctx, req, candidates); err != nil {
		b.metrics.redirects.Inc()
		return nil, nil, err
	}
	fallback := false
	for i := range candidates {
		c := &candidates[i]
		if c.err != nil && !c.mayAppear(req) {
			continue
		}
		src, err := c.in.Reader.Open(ctx, req)
		if err == nil {
			c.in.backoff.succeeded()
			b.chosen.note(req.Name, c.in)
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
	total   float64
	err     error // why it cannot serve
	resting bool  // it failed not long ago
	kept    bool  // the name was opened from it the last time
}

func (c candidate) live() bool { return c.cost.Place == "live" }

// mayAppear reports whether a candidate that has told no cost is worth an Open all
// the same: that of a live reader without the name may wait for a publisher, and a silent
// one for whatever keeps it. Such candidates are last.
func (c candidate) mayAppear(req media.OpenRequest) bool {
	return errors.Is(c.err, errSilent) || !req.RecordedOnly && errors.Is(c.err, media.ErrNotFound)
}

// ask asks all inputs for their cost of req and returns them in the order in
// which they are to be tried: those that can serve before those that cannot,
// live media before recorded, inputs that failed of late last, and else the
// cheapest first; but see choices.
func (b *broker) ask(ctx context.Context, req media.OpenRequest) []candidate {
	candidates := make([]candidate, len(b.inputs))
	var wg sync.WaitGroup
	for i, in := range b.inputs {
		wg.Go(func() {
			c := candidate{in: in, resting: in.backoff.resting()}
			c.cost, c.err = cost(ctx, in.Reader, req)
			c.total = b.weights.Total(c.cost)
			if c.err == nil {
				c.err = c.cost.Err()
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
		return cmp.Compare(x.total, y.total)
	})
	b.chosen.keep(req.Name, candidates)
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

// cost is what r says that req costs, unless it says nothing.
func cost(ctx context.Context, r media.Reader, req media.OpenRequest) (media.Cost, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cost, err := media.CostOf(ctx, r, req)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errSilent
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
// input that explains itself stands there with its own candidates, which may be
// those of other nodes.
func (b *broker) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	var list []media.Candidate
	candidates := b.ask(ctx, req)
	for i, c := range candidates {
		chosen := i == 0 && c.err == nil
		inner := []media.Candidate{{Source: c.in.Name, Cost: c.cost, Chosen: true}}
		if e, ok := c.in.Reader.(media.Explainer); ok {
			if said, err := e.Explain(ctx, req); err == nil && len(said) > 0 {
				inner = said
			}
		}
		for _, d := range inner {
			if d.Cost != (media.Cost{}) {
				d.Total = b.weights.Total(d.Cost)
			}
			if d.Note == "" && (d.Chosen || c.err != nil) {
				d.Note = c.note()
			}
			d.Chosen = d.Chosen && chosen
			list = append(list, d)
		}
	}
	req.Redirects = true
	var redirect *media.RedirectError
	if errors.As(b.elsewhere(ctx, req, candidates), &redirect) {
		list = append(list, media.Candidate{Source: "redirect", Note: "clients that can follow are sent to " + redirect.URL})
	}
	return list, nil
}

// note says why a candidate is none, or why it stands where it does.
func (c candidate) note() string {
	switch {
	case c.err != nil:
		return c.err.Error()
	case c.resting:
		return "failed not long ago, so it comes after the others"
	case c.live():
		return "on air, so it comes before recorded media"
	case c.kept:
		return "was opened last and is not 30% dearer than the cheapest"
	}
	return ""
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
