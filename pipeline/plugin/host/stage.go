// A stage that runs in a process of its own, and is started again when it fails.

package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"github.com/mediad/mediad/pipeline/plugin/wire"
	"google.golang.org/grpc"
)

// Stage is a stage.Stage whose work is done by a plugin. It is a media.Reader and
// a media.Writer whatever the plugin is; the kind says which of these it provides.
type Stage struct {
	binary   Binary
	limits   limits
	env      stage.Env
	settings map[string]*pb.Value
	log      hclog.Logger
	metrics  metrics

	mu      sync.Mutex
	current *process // nil while there is none
	reader  *wire.Reader
	writer  *wire.Writer
	err     error         // why there is none
	since   time.Time     // when that changed
	over    bool          // and there will be none
	changed chan struct{} // closed and replaced when current or over change
	held    int           // sources of recorded media that are open
	free    chan struct{} // closed and replaced when held falls to 0
}

func newStage(b Binary, limits limits, env stage.Env, settings map[string]*pb.Value) (*Stage, error) {
	s := &Stage{
		binary:   b,
		limits:   limits,
		env:      env,
		settings: settings,
		log:      env.Log,
		metrics:  newMetrics(),
		changed:  make(chan struct{}),
		free:     make(chan struct{}),
	}
	for _, c := range s.collectors() {
		if err := env.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return s, nil
}

// Serve runs the plugin until ctx ends. A plugin that fails is started again, each time
// after a longer wait, but not for ever: after too many failures in a short time it is
// given up, and at once when it refuses its settings.
func (s *Stage) Serve(ctx context.Context) error {
	var failed []time.Time
	for {
		err := s.runOnce(ctx)
		if ctx.Err() != nil {
			s.set(nil, fmt.Errorf("the stage has stopped: %w", media.ErrUnavailable), true)
			if errors.Is(err, context.Canceled) {
				err = nil
			}
			return err
		}
		s.metrics.failures.Inc()
		now := time.Now()
		failed = append(failed, now)
		for now.Sub(failed[0]) > s.limits.window {
			failed = failed[1:]
		}
		var wrong *stage.SettingError
		if errors.As(err, &wrong) {
			s.set(nil, err, true)
			return err
		}
		if len(failed) >= s.limits.failures {
			s.metrics.givenUp.Inc()
			err = fmt.Errorf("%w after %d failures within %v, the last: %w", stage.ErrGivenUp, len(failed), s.limits.window, err)
			s.set(nil, err, true)
			return err
		}
		wait := s.limits.wait(len(failed))
		s.log.Error("the plugin failed and is started again", "error", err, "in", wait.Round(time.Millisecond))
		s.set(nil, err, false)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// runOnce runs one process, until it fails or ctx ends.
func (s *Stage) runOnce(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.metrics.starts.Inc()
	p, err := start(ctx, s.binary, s.limits, s.log)
	if err != nil {
		return err
	}
	defer p.close(s.limits.exit)
	if err := p.make(ctx, s.env, s.settings); err != nil {
		return err
	}
	served := make(chan error, 1)
	p.work.Go(func() {
		_, err := p.stage.Serve(p.ctx, &pb.ServeRequest{})
		served <- p.because(p.ctx, err)
	})
	s.log.Info("plugin started", "file", s.binary.Path, "pid", p.run.ID())
	s.set(p, nil, false)
	select {
	case err := <-served:
		if err == nil {
			err = errors.New("it has ended by itself")
		}
		s.set(nil, err, false)
		return err
	case <-ctx.Done():
	}
	s.drain()
	return s.stop(p, served)
}

// drain lets recorded media that are open be read on, for as long as a stage may
// take to finish: a plugin that is replaced in a reload still has its viewers.
func (s *Stage) drain() {
	timer := time.NewTimer(s.env.Drain)
	defer timer.Stop()
	for {
		s.mu.Lock()
		held, free := s.held, s.free
		s.mu.Unlock()
		if held == 0 {
			return
		}
		select {
		case <-free:
		case <-timer.C:
			return
		}
	}
}

// hold takes note of n sources that are opened, or closed if n is negative. Live
// media have no end that could be waited for.
func (s *Stage) hold(info media.Info, n int) {
	if info.Live {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held += n
	if s.held == 0 {
		close(s.free)
		s.free = make(chan struct{})
	}
}

// stop tells the plugin to finish, and waits for that.
func (s *Stage) stop(p *process, served <-chan error) error {
	calling, cancel := context.WithTimeout(p.ctx, s.limits.pong)
	defer cancel()
	if _, err := p.stage.Stop(calling, &pb.StopRequest{}); err != nil {
		s.log.Warn("the plugin cannot be told to stop", "error", p.because(calling, err))
	}
	timer := time.NewTimer(s.env.Drain + s.limits.exit)
	defer timer.Stop()
	select {
	case err := <-served:
		return err
	case <-timer.C:
		return fmt.Errorf("%s does not stop within %v and was killed", s.binary.Path, s.env.Drain)
	}
}

// set tells those who wait what there is now.
func (s *Stage) set(p *process, err error, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.err, s.over, s.since = p, err, over, time.Now()
	if p != nil {
		s.reader, s.writer = wire.NewReader(p.ctx, p.conn, 0, s.env.Name), wire.NewWriter(p.ctx, p.conn)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Away says since when there is no process because the last one has failed, and why
// that was; nil while there is one, and before the first.
func (s *Stage) Away() (since time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since, s.err
}

// ready is a process that can be used.
type ready struct {
	*process
	reader *wire.Reader
	writer *wire.Writer
}

// failed reports whether there was a process and it has failed.
func (r ready) failed() bool { return r.process != nil && r.ctx.Err() != nil }

// ready waits for a process, but not longer than one may take to start.
func (s *Stage) ready(ctx context.Context) (ready, error) {
	timer := time.NewTimer(s.limits.start)
	defer timer.Stop()
	for {
		s.mu.Lock()
		p, err, over, changed := s.current, s.err, s.over, s.changed
		r := ready{p, s.reader, s.writer}
		s.mu.Unlock()
		switch {
		case p != nil && p.ctx.Err() == nil:
			return r, nil
		case over:
			return ready{}, s.unavailable(err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ready{}, ctx.Err()
		case <-timer.C:
			if err == nil {
				err = fmt.Errorf("%s does not run", s.binary.Path)
			}
			return ready{}, s.unavailable(err)
		}
	}
}

// unavailable is the error of a call that failed with the process.
func (s *Stage) unavailable(cause error) error {
	if errors.Is(cause, media.ErrUnavailable) {
		return cause
	}
	return fmt.Errorf("%w: %w", media.ErrUnavailable, cause)
}

// call makes a call of the plugin, within the limit of a call. One that takes
// longer means that the plugin hangs.
func call[T any](ctx context.Context, s *Stage, what string, f func(ctx context.Context, r ready) (T, error)) (T, ready, error) {
	var none T
	r, err := s.ready(ctx)
	if err != nil {
		return none, r, err
	}
	within, cancel := context.WithTimeout(ctx, s.limits.call)
	defer cancel()
	value, err := f(within, r)
	if err == nil {
		return value, r, nil
	}
	if err := ctx.Err(); err != nil {
		return none, r, err
	}
	if within.Err() != nil {
		return none, r, s.unavailable(r.hung(what, s.limits.call))
	}
	return none, r, s.blame(ctx, r.process, err)
}

// blame is the error of a call: the process's own if that has failed.
func (s *Stage) blame(ctx context.Context, p *process, err error) error {
	if err = p.because(ctx, err); p.ctx.Err() != nil {
		return s.unavailable(err)
	}
	return err
}

// Open implements media.Reader.
func (s *Stage) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	src, r, err := s.open(ctx, req, nil)
	if err != nil {
		return nil, err
	}
	return newSource(s, req, r.process, src), nil
}

// again makes a call once more when the process fails meanwhile, which need not be
// because of it.
func again[T any](ctx context.Context, s *Stage, what string, f func(ctx context.Context, r ready) (T, error)) (T, ready, error) {
	value, r, err := call(ctx, s, what, f)
	if err != nil && r.failed() && !errors.Is(err, errHangs) && ctx.Err() == nil {
		return call(ctx, s, what, f)
	}
	return value, r, err
}

// open opens req. The header is that of what was read before.
func (s *Stage) open(ctx context.Context, req media.OpenRequest, header *media.Header) (*wire.Source, ready, error) {
	return again(ctx, s, "Open", func(ctx context.Context, r ready) (*wire.Source, error) { return r.reader.OpenAfter(ctx, req, header) })
}

// Cost implements media.Coster.
func (s *Stage) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	cost, _, err := again(ctx, s, "Cost", func(ctx context.Context, r ready) (media.Cost, error) { return r.reader.Cost(ctx, req) })
	return cost, err
}

// Explain implements media.Explainer.
func (s *Stage) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	list, _, err := again(ctx, s, "Explain", func(ctx context.Context, r ready) ([]media.Candidate, error) { return r.reader.Explain(ctx, req) })
	return list, err
}

// Watch returns the names that are on air, none when the plugin has no listing,
// and a channel that is closed when that may have changed.
func (s *Stage) Watch() (names []string, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.ctx.Err() != nil {
		return nil, s.changed
	}
	return s.reader.Watch()
}

// Create implements media.Writer.
func (s *Stage) Create(ctx context.Context, req media.CreateRequest) (media.Sink, error) {
	to, r, err := call(ctx, s, "Create", creating(req))
	if err != nil {
		return nil, err
	}
	return &sink{stage: s, req: req, process: r.process, to: to}, nil
}

// creating makes a sink in a process.
func creating(req media.CreateRequest) func(context.Context, ready) (*wire.Sink, error) {
	return func(ctx context.Context, r ready) (*wire.Sink, error) {
		made, err := r.writer.Create(ctx, req)
		if err != nil {
			return nil, err
		}
		return made.(*wire.Sink), nil
	}
}

// newServer serves the readers, the writer and the nodes that a stage is given.
func newServer(env stage.Env, nodes *wire.NodesServer) *grpc.Server {
	var readers []media.Reader
	for _, in := range env.Inputs {
		readers = append(readers, in.Reader)
	}
	g := grpc.NewServer(append(wire.ServerOptions(), grpc.WaitForHandlers(true))...)
	(&wire.Server{
		Readers: func() []media.Reader { return readers },
		Writer:  func() media.Writer { return env.Output },
	}).Register(g)
	if nodes != nil {
		nodes.Register(g)
	}
	return g
}
