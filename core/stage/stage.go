// Package stage is what a stage kind is: what it is called, what may be set, what
// it provides and needs, and how one is made. The same description drives the
// check of pipelines.yaml, the command line and the documentation. It knows no
// YAML and no processes.
package stage

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/prometheus/client_golang/prometheus"
)

// A Kind describes one kind of stage.
type Kind struct {
	Name    string // as in `use`: lower case with dashes
	Summary string // one sentence
	// Settings is a pointer to a struct with the defaults, whose tags describe
	// what may be set; see Describe. Nil when there is nothing to set.
	Settings func() any
	Ports
	// New makes a stage from settings that Settings returned and Decode filled.
	// It checks what can be checked without starting anything, and starts nothing.
	New func(env Env, settings any) (Stage, error)
}

// Ports are what a stage provides to its neighbours and needs from them. An
// edge from one stage down to the next is right when the upper provides the
// Reader that the lower needs, or the lower provides the Writer that the upper
// needs.
type Ports struct {
	// ProvidesReader and ProvidesWriter promise that the Stage is a
	// media.Reader, a media.Writer.
	ProvidesReader, ProvidesWriter bool
	// NeedsReader is how many readers may feed the stage.
	NeedsReader Need
	// NeedsWriter says that the stage writes into the one that follows it.
	NeedsWriter bool
	// Apart says that what the stage provides does not come from what it needs: it
	// serves the one to other nodes and gets the other from them. So a stage that
	// reads from it may also feed it, which is no circle.
	Apart bool
}

// Need is how many neighbours of one sort a stage takes.
type Need uint8

// None, exactly one, at least one, any number.
const (
	None Need = iota
	One
	Some
	Any
)

// A Stage is one stage of a running daemon. It also is a media.Reader or a
// media.Writer where its kind says so; these may be used from the time it is
// made until its Serve has returned.
type Stage interface {
	// Serve does the stage's own work until ctx ends, then finishes what is
	// under way within Env.Drain, releases everything that the stage holds,
	// waits for its goroutines, and returns nil. An error means that the stage
	// has failed. It is called once.
	Serve(ctx context.Context) error
}

// ErrGivenUp is what the error of a Serve wraps that has itself begun again, as often as
// makes sense: the stage is not made again before somebody has looked at it.
var ErrGivenUp = errors.New("given up")

// Env is what a stage is given by whoever runs it.
type Env struct {
	// Name is "pipeline/stage" as in pipelines.yaml.
	Name string
	Log  hclog.Logger
	// Metrics registers the stage's metrics; the labels pipeline and stage are
	// added by it. All names begin with "mediad_".
	Metrics prometheus.Registerer
	// Inputs are the readers that feed the stage: the stage above first, then
	// those of `from` in their order.
	Inputs []Input
	// Output is the writer that follows, nil unless the kind needs one.
	Output media.Writer
	// Nodes are the other nodes of the cluster, nil when the daemon is alone.
	Nodes Nodes
	// Drain is how long Serve may take after its context has ended.
	Drain time.Duration
}

// Input is one reader that feeds a stage.
type Input struct {
	Name   string // "pipeline/stage" of the reader
	Reader media.Reader
}

// Passive is embedded by a stage that has no work of its own: its Serve waits.
type Passive struct{}

// Serve waits for ctx to end.
func (Passive) Serve(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
