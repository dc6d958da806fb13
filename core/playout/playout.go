// Package playout plays recorded media out as a live channel, in real time: a
// publisher without an encoder.
package playout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// Settings of the stage kind.
type Settings struct {
	Play []string `set:"play,required" doc:"the media to play, one after the other"`
	As   string   `set:"as,required" doc:"the name of the channel"`
	Loop bool     `set:"loop" doc:"begin again after the last"`
}

// Check says what cannot be.
func (s *Settings) Check() error {
	if len(s.Play) == 0 {
		return stage.Wrong("play", "the list is empty")
	}
	for _, name := range s.Play {
		if err := media.CheckName(name); err != nil {
			return &stage.SettingError{Setting: "play", Err: err}
		}
	}
	if err := media.CheckName(s.As); err != nil {
		return &stage.SettingError{Setting: "as", Err: err}
	}
	return nil
}

// Kind describes the stage.
func Kind() stage.Kind {
	return stage.Kind{
		Name:     "playout",
		Summary:  "Plays recorded media out as a live channel, in real time.",
		Settings: func() any { return &Settings{} },
		Ports:    stage.Ports{NeedsReader: stage.One, NeedsWriter: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return New(env, *settings.(*Settings))
		},
	}
}

// retry is how long playout waits when nothing could be played, or the channel
// was somebody else's.
const retry = 5 * time.Second

// Playout is the stage.
type Playout struct {
	Settings
	input  media.Reader
	output media.Writer
	log    hclog.Logger

	frames  prometheus.Counter
	skipped prometheus.Counter
	failing map[string]bool // media that were skipped when they were to be played last, which is logged once
}

// New makes the stage.
func New(env stage.Env, settings Settings) (*Playout, error) {
	p := &Playout{
		Settings: settings,
		input:    env.Inputs[0].Reader,
		output:   env.Output,
		log:      env.Log,
		failing:  map[string]bool{},
		frames:   prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_playout_frames_total", Help: "Frames played out."}),
		skipped:  prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_playout_skipped_total", Help: "Media that could not be opened or read and were skipped."}),
	}
	return p, errors.Join(env.Metrics.Register(p.frames), env.Metrics.Register(p.skipped))
}

// Serve plays until ctx ends, or to the end of the list.
func (p *Playout) Serve(ctx context.Context) error {
	for said := ""; ; {
		began := time.Now()
		err := p.broadcast(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil { // the end of the list
			<-ctx.Done()
			return nil
		}
		if time.Since(began) > retry || err.Error() != said {
			p.log.Warn("playout interrupted, will try again until it works", "channel", p.As, "every", retry, "error", err)
			said = err.Error()
		}
		if !sleep(ctx, retry) {
			return nil
		}
	}
}

// broadcast plays the list onto the channel, as one publication.
func (p *Playout) broadcast(ctx context.Context) error {
	sink, err := p.output.Create(ctx, media.CreateRequest{Name: p.As, Info: media.Info{Name: p.As, Live: true}})
	if err != nil {
		return err
	}
	defer sink.Close(context.WithoutCancel(ctx))
	out := &program{sink: sink, builder: media.NewBuilder(media.NoClock), start: time.Now()}
	for {
		played := false
		for _, name := range p.Play {
			frames, err := p.play(ctx, out, name)
			p.frames.Add(float64(frames))
			played = played || frames > 0
			if ctx.Err() != nil || out.failed {
				return err
			}
			if err != nil {
				p.skipped.Inc()
				if !p.failing[name] {
					p.log.Warn("skipped, going on with the next; until it plays again it is only counted", "name", name, "error", err)
				}
			}
			p.failing[name] = err != nil
		}
		if !played {
			return errors.New("nothing in the list could be played")
		}
		if !p.Loop {
			return nil
		}
	}
}

// play plays one piece of media and returns how many frames it had.
func (p *Playout) play(ctx context.Context, out *program, name string) (frames int, err error) {
	src, err := p.input.Open(ctx, media.OpenRequest{Name: name, RecordedOnly: true})
	if err != nil {
		return 0, err
	}
	defer src.Close()
	out.next(src.Info().Start)
	for {
		b, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return frames, fmt.Errorf("%s: %w", name, err)
		}
		for _, f := range b.Frames() {
			if err := out.write(ctx, b.Header(), f); err != nil {
				return frames, err
			}
			frames++
		}
	}
}

// program is the channel's timeline: one piece of media after the other, each
// frame when it is due.
type program struct {
	sink    media.Sink
	builder *media.Builder
	start   time.Time     // when the program's time was 0
	offset  time.Duration // from the time of the media now playing to the program's
	end     time.Duration // where the last frame of the program ends, by the distance of the two before
	last    media.Clock
	failed  bool
}

// next begins a piece of media whose first frame is at from.
func (o *program) next(from time.Duration) {
	o.offset = o.end - from
	o.last = media.NoClock
}

// write waits until the frame is due and writes it.
func (o *program) write(ctx context.Context, h *media.Header, f media.Frame) error {
	f.DTS += o.offset
	f.PTS += o.offset
	if last := o.last.At(f.Track); *last != media.None {
		o.end = max(o.end, f.DTS+min(f.DTS-*last, time.Second))
	}
	*o.last.At(f.Track) = f.DTS
	if !sleep(ctx, time.Until(o.start.Add(f.DTS))) {
		return ctx.Err()
	}
	o.builder.Copy(f)
	err := o.sink.Write(ctx, o.builder.Batch(h))
	o.failed = err != nil
	return err
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
