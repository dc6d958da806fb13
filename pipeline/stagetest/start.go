// One stage made and served, for checks, harnesses and `mediad stage run`.

package stagetest

import (
	"context"

	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// Start makes a stage of the kind and serves it until stop, which returns what
// Serve does. Metrics that env leaves out go to a registry of their own.
func Start(k stage.Kind, settings map[string]any, env stage.Env) (s stage.Stage, stop func() error, err error) {
	if env.Metrics == nil {
		env.Metrics = prometheus.NewRegistry()
	}
	decoded, err := k.Decode(settings)
	if err != nil {
		return nil, nil, err
	}
	if s, err = k.New(env, decoded); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	return s, func() error {
		cancel()
		return <-served
	}, nil
}
