package main

import (
	"context"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broker"
	"github.com/mediad/mediad/core/cache"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/stagetest"
	readerdisk "github.com/mediad/mediad/plugins/reader-disk"
	"github.com/prometheus/client_golang/prometheus"
)

// serve makes a stage of a kind and serves it until stop.
func serve(k stage.Kind, values map[string]any, inputs ...stage.Input) (s stage.Stage, stop func() error, err error) {
	settings, err := k.Decode(values)
	if err != nil {
		return nil, nil, err
	}
	s, err = k.New(stage.Env{
		Name:    "test/" + k.Name,
		Log:     hclog.NewNullLogger(),
		Metrics: prometheus.NewRegistry(),
		Inputs:  inputs,
	}, settings)
	if err != nil {
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

// served is serve for as long as the test runs.
func served(t *testing.T, k stage.Kind, values map[string]any) stage.Stage {
	t.Helper()
	s, stop, err := serve(k, values)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestReaderDiskConforms(t *testing.T) {
	s := served(t, readerdisk.Kind(), map[string]any{"root": "../../media"})
	stagetest.TestReader(t, stagetest.Reader{Reader: s.(media.Reader), Name: "sample.flv", Missing: "missing"})
}

func TestMiddlewareConforms(t *testing.T) {
	for _, k := range []stage.Kind{cache.Kind(), broker.Kind()} {
		t.Run(k.Name, func(t *testing.T) {
			stagetest.TestMiddleware(t, func(upstream media.Reader) (media.Reader, func() error, error) {
				s, stop, err := serve(k, nil, stage.Input{Name: "test/upstream", Reader: upstream})
				if err != nil {
					return nil, nil, err
				}
				return s.(media.Reader), stop, nil
			})
		})
	}
}
