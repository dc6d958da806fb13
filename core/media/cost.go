// What it costs to open something, and how costs are compared.

package media

import (
	"context"
	"fmt"
	"time"
)

// Cost is what it takes to open something from a reader; see Weights.Total.
type Cost struct {
	// Place names where the media are: "memory", "disk", "http", "live", or PlaceUnknown.
	Place string `json:"place"`
	// Base is the cost of the place on an idle machine: a byte from own memory
	// is 1, from a local disk 10, from an origin over HTTP 200.
	Base float64 `json:"base"`
	// Load is the use of the busiest resource on the way, 0 to 1.
	Load float64 `json:"load"`
	// Node is the node that has the media, "" for this one.
	Node string `json:"node,omitempty"`
	// RTT is the round trip to that node.
	RTT time.Duration `json:"rtt,omitempty"`
	// Depth is how many nodes live media pass on their way to that node: 0 for their owner.
	Depth int `json:"depth,omitempty"`
}

// The base costs of the places this package knows.
const (
	CostMemory = 1
	CostDisk   = 10
	CostHTTP   = 200
)

// PlaceUnknown is the place of media whose reader cannot tell what they cost.
const PlaceUnknown = "unknown"

// Overloaded is the load from which a place is no candidate any more.
const Overloaded = 0.95

// Weights are what the parts of a cost count.
type Weights struct {
	Peer  float64 // that another node has it
	RTT   float64 // each millisecond to that node
	Depth float64 // each node that live media pass before
	Load  float64 // the queueing that a load u adds is u/(1-u)
}

// DefaultWeights make memory < disk < a peer's memory < a peer's disk < HTTP on
// idle machines next to each other.
var DefaultWeights = Weights{Peer: 20, RTT: 1, Depth: 4, Load: 5}

// Total is what candidates are compared by.
func (w Weights) Total(c Cost) float64 {
	u := min(max(c.Load, 0), 0.999)
	total := c.Base + w.RTT*c.RTT.Seconds()*1000 + w.Depth*float64(c.Depth) + w.Load*u/(1-u)
	if c.Node != "" {
		total += w.Peer
	}
	return total
}

// Total is the total by the default weights.
func (c Cost) Total() float64 { return DefaultWeights.Total(c) }

// A Coster is a Reader that knows what opening req would cost, without opening
// it. It fails as Open would, with ErrNotFound and the others.
type Coster interface {
	Cost(ctx context.Context, req OpenRequest) (Cost, error)
}

// CostOf is what opening req from r costs. A reader that cannot tell counts as an origin over HTTP.
func CostOf(ctx context.Context, r Reader, req OpenRequest) (Cost, error) {
	if c, ok := r.(Coster); ok {
		return c.Cost(ctx, req)
	}
	return Cost{Place: PlaceUnknown, Base: CostHTTP}, nil
}

// Err says why the place is no candidate, nil when it is one.
func (c Cost) Err() error {
	if c.Load < Overloaded {
		return nil
	}
	return fmt.Errorf("%w: overloaded, %.0f%% of its busiest resource is in use", ErrUnavailable, 100*c.Load)
}

// A Candidate is one way to open something, as an Explainer saw it.
type Candidate struct {
	Source string  `json:"source"` // the stage it would come from
	Cost   Cost    `json:"cost"`
	Total  float64 `json:"total"`
	Chosen bool    `json:"chosen"`
	Note   string  `json:"note,omitempty"` // why it is no candidate, or what it is
}

// An Explainer is a Reader that can say how it would choose, for `mediad explain`.
type Explainer interface {
	Explain(ctx context.Context, req OpenRequest) ([]Candidate, error)
}

// A Decision is an Open for which there was a choice, for people who look.
type Decision struct {
	Time time.Time `json:"time"`
	Name string    `json:"name"`
	// Candidates are in the order in which they were tried; one may be chosen.
	Candidates []Candidate `json:"candidates"`
	Error      string      `json:"error,omitempty"`
}
