// Package pass is a stage kind for the tests of plugins: it gives what it reads from its
// input to whoever opens it, and copies one name to "copy" in its output.
package pass

import (
	"context"
	"fmt"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// Settings of the kind.
type Settings struct {
	Play string `set:"play" doc:"what to copy"`
}

// Kind describes it.
func Kind() stage.Kind {
	return stage.Kind{
		Name:     "pass",
		Summary:  "Passes media on.",
		Settings: func() any { return &Settings{Play: "film"} },
		Ports:    stage.Ports{ProvidesReader: true, NeedsReader: stage.One, NeedsWriter: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return &Pass{env.Inputs[0].Reader, env, settings.(*Settings).Play}, nil
		},
	}
}

// Pass is the stage. Its reader is that of its input.
type Pass struct {
	media.Reader
	env  stage.Env
	play string
}

// Cost implements media.Coster.
func (p *Pass) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	c, ok := p.Reader.(media.Coster)
	if !ok {
		return media.Cost{}, fmt.Errorf("%T knows no cost", p.Reader)
	}
	return c.Cost(ctx, req)
}

// Serve copies what is to be played to "copy".
func (p *Pass) Serve(ctx context.Context) error {
	src, err := p.Open(ctx, media.OpenRequest{Name: p.play})
	if err != nil {
		return err
	}
	defer src.Close()
	sink, err := p.env.Output.Create(ctx, media.CreateRequest{Name: "copy", Info: src.Info()})
	if err != nil {
		return err
	}
	if err := media.Copy(ctx, sink, src); err != nil {
		return err
	}
	if err := sink.Close(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
