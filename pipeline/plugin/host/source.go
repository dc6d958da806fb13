// Sources and sinks of a plugin, which know what to do when it fails.

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline/plugin/wire"
)

// A source waits no longer for a new process and its place there than this, and
// outlives no more processes without a batch in between.
const (
	resumeTimeout = 20 * time.Second
	resumeTries   = 3
)

// source reads from the plugin, and when that fails goes on in the next process
// after the last frame that was read.
type source struct {
	stage *Stage
	req   media.OpenRequest
	info  media.Info

	// What Next alone uses.
	process *process
	broken  error // why the process has failed; nil when it has not
	tries   int   // processes that have failed since the last batch
	at      media.Place
	header  *media.Header // the last one
	skips   int           // of earlier processes, and gaps between them
	missed  int64

	life context.Context // ends with Close
	end  context.CancelFunc
	mu   sync.Mutex
	from *wire.Source // replaced by Next, closed by Close
}

func newSource(s *Stage, req media.OpenRequest, p *process, from *wire.Source) *source {
	src := &source{stage: s, req: req, info: from.Info(), process: p, from: from, at: media.NewPlace(req.From)}
	src.life, src.end = context.WithCancel(context.Background())
	s.hold(src.info, 1)
	return src
}

// Info implements media.Source.
func (s *source) Info() media.Info { return s.info }

// Close implements media.Source.
func (s *source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		return nil
	}
	s.end()
	s.stage.hold(s.info, -1)
	return s.from.Close()
}

// Buffered implements media.Buffered.
func (s *source) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from.Buffered()
}

// Path implements media.Routed.
func (s *source) Path() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from.Path()
}

// Skips is how often the source was moved forward, because it was read too slowly
// or the plugin failed, past Missed frames.
func (s *source) Skips() int { return s.skips + s.from.Skips() }

// Missed is how many frames it was moved past, as far as that is known.
func (s *source) Missed() int64 { return s.missed + s.from.Missed() }

// Next implements media.Source.
func (s *source) Next(ctx context.Context) (*media.Batch, error) {
	for {
		if s.life.Err() != nil {
			return nil, media.ErrClosed
		}
		var b *media.Batch
		var err error
		if s.broken != nil {
			b, err = s.resume(ctx)
		} else {
			b, err = s.next(ctx)
		}
		switch {
		case err == nil && b != nil:
			return s.pass(b), nil
		case err == nil:
			continue // resumed between two batches
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return nil, err
		case s.life.Err() != nil:
			return nil, media.ErrClosed
		}
		err = s.stage.blame(ctx, s.process, err)
		if s.tries++; s.process.ctx.Err() == nil || s.at.Lost || s.tries > resumeTries {
			return nil, err
		}
		s.broken = err
	}
}

// next waits for recorded media no longer than for any call. Live media come
// when they come. A plugin that cannot be told to leave the call ends itself, and
// one that can is only slow with these media.
func (s *source) next(ctx context.Context) (*media.Batch, error) {
	if s.info.Live || s.from.Buffered() > 0 {
		return s.from.Next(ctx)
	}
	within, cancel := context.WithTimeout(ctx, s.stage.limits.call)
	defer cancel()
	b, err := s.from.Next(within)
	if err == nil || within.Err() == nil || ctx.Err() != nil {
		return b, err
	}
	_ = s.from.Close()
	timer := time.NewTimer(s.stage.limits.stuck)
	defer timer.Stop()
	select {
	case <-s.process.ctx.Done():
	case <-s.life.Done():
	case <-ctx.Done():
	case <-timer.C:
	}
	return nil, fmt.Errorf("%s: %w: no batch within %v", s.info.Name, media.ErrUnavailable, s.stage.limits.call)
}

// pass returns b, behind which the source now is.
func (s *source) pass(b *media.Batch) *media.Batch {
	s.at.Pass(b)
	s.header = b.Header()
	s.tries = 0
	return b
}

// resume opens the media in the next process and reads up to where the source was.
// The batch that it returns is what is left of the one in which that lies, or nil.
func (s *source) resume(ctx context.Context) (*media.Batch, error) {
	within, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	req := s.req
	req.From = s.at.From
	from, r, err := s.stage.open(within, req, s.header)
	if err != nil {
		return nil, s.late(ctx, within, err)
	}
	if err := s.replace(r.process, from); err != nil {
		return nil, err
	}
	if info := from.Info(); info.Live != s.info.Live || info.Version != s.info.Version {
		return nil, fmt.Errorf("%s: %w: it has the version %q, not %q", s.info.Name, media.ErrChanged, info.Version, s.info.Version)
	}
	b, gap, err := s.at.Find(within, from)
	if err != nil {
		return nil, s.late(ctx, within, err)
	}
	if gap {
		s.skips++
	}
	s.stage.metrics.resumes.Inc()
	s.stage.log.Info("source resumed in a new process", "name", s.info.Name, "after", s.at.DTS(), "gap", gap, "reason", s.broken)
	s.broken = nil
	return b, nil
}

// replace puts the source of another process in the place of the broken one.
func (s *source) replace(p *process, from *wire.Source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		return errors.Join(media.ErrClosed, from.Close())
	}
	_ = s.from.Close()
	s.skips += s.from.Skips()
	s.missed += s.from.Missed()
	s.process, s.from = p, from
	return nil
}

// late makes the end of within, but not of ctx, a failure to resume.
func (s *source) late(ctx, within context.Context, err error) error {
	if ctx.Err() == nil && errors.Is(within.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%s cannot go on within %v: %w", s.info.Name, resumeTimeout, s.stage.unavailable(s.broken))
	}
	return err
}

// sink writes into the plugin, and when that fails goes on in the next process, which
// appends to what the one before has taken.
type sink struct {
	stage *Stage
	req   media.CreateRequest

	// What Write and Close alone use.
	process *process
	tries   int // processes that have failed since the last batch

	mu sync.Mutex
	to *wire.Sink // replaced by Write
}

// in is the sink in the process.
func (s *sink) in() *wire.Sink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to
}

// Write implements media.Sink.
func (s *sink) Write(ctx context.Context, b *media.Batch) error {
	for {
		err := s.write(ctx, b)
		switch {
		case err == nil:
			s.tries = 0
			return nil
		case ctx.Err() != nil, s.process.ctx.Err() == nil, s.tries == resumeTries:
			return err
		}
		s.tries++
		if err := s.resume(ctx, err); err != nil {
			return err
		}
	}
}

func (s *sink) write(ctx context.Context, b *media.Batch) error {
	within, cancel := context.WithTimeout(ctx, s.stage.limits.call)
	defer cancel()
	err := s.in().Write(within, b)
	if err != nil && within.Err() != nil {
		s.tries = resumeTries // the next process would hang as well
	}
	return s.done(ctx, within, "Write", err)
}

// resume goes on in the next process.
func (s *sink) resume(ctx context.Context, reason error) error {
	within, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	req := s.req
	req.Append = true
	to, r, err := again(within, s.stage, "Create", creating(req))
	if err != nil {
		return fmt.Errorf("%s cannot be gone on with: %w", req.Name, s.stage.unavailable(errors.Join(err, reason)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.to.Close(within) // its process is gone
	s.process, s.to = r.process, to
	s.stage.metrics.resumes.Inc()
	s.stage.log.Info("sink resumed in a new process", "name", req.Name, "reason", reason)
	return nil
}

// Close implements media.Sink.
func (s *sink) Close(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, s.stage.limits.call)
	defer cancel()
	return s.done(ctx, within, "Close", s.in().Close(within))
}

func (s *sink) done(ctx, within context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case within.Err() != nil:
		return s.stage.unavailable(s.process.hung(what, s.stage.limits.call))
	}
	return s.stage.blame(ctx, s.process, err)
}

// Resume is where the timeline goes on of media that were on air before.
func (s *sink) Resume() (at time.Duration, ok bool) { return s.in().Resume() }

// Done is closed when the sink is over without its writer's doing, or by Close.
func (s *sink) Done() <-chan struct{} { return s.in().Done() }

// Err says why Done is closed.
func (s *sink) Err() error {
	s.mu.Lock()
	to, p := s.to, s.process
	s.mu.Unlock()
	return s.stage.blame(context.Background(), p, to.Err())
}
