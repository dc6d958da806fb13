// One stage under supervision: it is made, served, and made again when it fails.

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// trial is how long a stage is watched once it is served. What it cannot do it
// mostly finds out at once (an address is taken, an application is another's); a
// failure in that time is one of the file, which no further try would mend.
const trial = 500 * time.Millisecond

// A stage that fails later is made again: minWait after the first failure, twice
// that after the next, up to maxWait, and from the start when it has been served
// for failuresWithin. It is left as it is after maxFailures in that time: it would
// only be a load then, on whatever it is that fails, and a light on /healthz that
// flickers. So is one that no further try would mend.
const (
	minWait        = time.Second
	maxWait        = 30 * time.Second
	maxFailures    = 5
	failuresWithin = time.Minute
)

// unit is one stage of a running daemon.
type unit struct {
	*Stage
	new  func(stage.Env, any) (stage.Stage, error)
	env  stage.Env
	port *port

	metrics *registered // env.Metrics
	cancel  context.CancelCauseFunc
	served  chan struct{} // closed when it is served no more

	mu      sync.Mutex
	status  Status
	onTrial bool
}

func newUnit(st *Stage, newStage func(stage.Env, any) (stage.Stage, error), env stage.Env, metrics prometheus.Registerer) *unit {
	own := &registered{below: metrics}
	env.Metrics = own
	return &unit{
		Stage:   st,
		new:     newStage,
		env:     env,
		metrics: own,
		served:  make(chan struct{}),
		status:  Status{Stage: st, State: Starting, Since: time.Now()},
	}
}

// again returns a unit for the stage of u, which has stopped. It is made when it is
// started.
func (u *unit) again() *unit {
	u.metrics.hide()
	v := newUnit(u.Stage, u.new, u.env, u.metrics.below)
	v.port = u.port
	return v
}

// make makes the stage.
func (u *unit) make() error {
	u.metrics.reset()
	made, err := u.new(u.env, u.Settings)
	if err != nil {
		return err
	}
	if _, ok := made.(media.Reader); u.Kind.ProvidesReader && !ok {
		return fmt.Errorf("the kind %s promises a reader and makes none", u.Kind.Name)
	}
	if _, ok := made.(media.Writer); u.Kind.ProvidesWriter && !ok {
		return fmt.Errorf("the kind %s promises a writer and makes none", u.Kind.Name)
	}
	u.setMade(made)
	return nil
}

// start serves the stage in a goroutine, which ends when it is stopped or has
// failed for good. On trial it fails for good at once.
func (u *unit) start(s *Supervisor, onTrial bool) {
	var ctx context.Context
	ctx, u.cancel = context.WithCancelCause(context.Background())
	u.onTrial = onTrial
	if u.made() != nil {
		u.enter(Running, nil)
	}
	go u.run(ctx, s)
}

func (u *unit) run(ctx context.Context, s *Supervisor) {
	defer close(u.served)
	var failed []time.Time
	wait := minWait
	for {
		began := time.Now()
		err := u.runOnce(ctx, s)
		u.setMade(nil)
		if ctx.Err() != nil {
			u.stopped(ctx, err)
			return
		}
		now := time.Now()
		if now.Sub(began) >= failuresWithin {
			wait = minWait
		}
		failed = slices.DeleteFunc(append(failed, now), func(t time.Time) bool { return now.Sub(t) >= failuresWithin })
		if len(failed) == maxFailures {
			err = fmt.Errorf("has failed %d times within %v, the last time: %w", maxFailures, failuresWithin, err)
		}
		if u.failed(err, len(failed) == maxFailures || lasting(err)) == Failed {
			select {
			case s.failed <- u:
			case <-ctx.Done():
			}
			return
		}
		pause := wait*3/4 + rand.N(wait/2) // so that those that failed together do not start together
		wait = min(2*wait, maxWait)
		u.env.Log.Error("the stage has failed and will be started again", "in", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			u.stopped(ctx, nil)
			return
		}
	}
}

// lasting reports whether no further try would mend an error.
func lasting(err error) bool {
	var wrong *stage.SettingError
	return errors.As(err, &wrong) || errors.Is(err, stage.ErrGivenUp)
}

// runOnce makes the stage, unless it was made already, and serves it until ctx ends
// or it fails.
func (u *unit) runOnce(ctx context.Context, s *Supervisor) (err error) {
	defer func() {
		if r := recover(); r != nil {
			u.env.Log.Error("panic", "value", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if u.made() == nil {
		if err := u.remake(ctx, s); err != nil {
			return err
		}
		u.enter(Running, nil)
	}
	err = u.made().Serve(ctx)
	if err == nil && ctx.Err() == nil {
		err = errors.New("has ended by itself")
	}
	return err
}

// remake makes the stage while no reload does so, and gives up when ctx ends.
func (u *unit) remake(ctx context.Context, s *Supervisor) error {
	if !s.acquire(ctx) {
		return context.Cause(ctx)
	}
	defer s.release()
	return u.make()
}

// stopped enters the last state after ctx has ended: with err, or the reason that
// there was for ending it.
func (u *unit) stopped(ctx context.Context, err error) {
	cause := context.Cause(ctx)
	switch {
	case err != nil && !errors.Is(err, cause):
		u.enter(Failed, err)
	case errors.Is(cause, context.Canceled):
		u.enter(Stopped, nil)
	default:
		u.enter(Stopped, cause)
	}
}

// stop ends the stage and waits for it. The reason is nil when the stage is simply
// not wanted any more.
func (u *unit) stop(bound time.Duration, reason error) {
	u.enter(Stopping, reason)
	u.cancel(reason)
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-u.served:
	case <-timer.C:
		u.env.Log.Error("does not stop and is left behind", "waited", bound)
		u.enter(Failed, fmt.Errorf("did not stop within %v", bound))
	}
}

// enter changes the state. Stopped and Failed are final.
func (u *unit) enter(state State, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.set(state, err)
}

// failed enters the state that follows a failure, and returns it. On trial each
// failure is the last.
func (u *unit) failed(err error, last bool) State {
	u.mu.Lock()
	defer u.mu.Unlock()
	if last || u.onTrial {
		u.set(Failed, err)
	} else {
		u.set(Restarting, err)
	}
	return u.status.State
}

// set is enter under u.mu.
func (u *unit) set(state State, err error) {
	if u.status.State == Stopped || u.status.State == Failed {
		return
	}
	u.status.State, u.status.Err, u.status.Since = state, err, time.Now()
}

func (u *unit) now() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// away is a stage whose work is done by a process, which may be gone for a while
// without the stage having failed.
type away interface {
	Away() (since time.Time, err error)
}

// seen is what others are told: a stage that runs, but whose process has failed, is
// being restarted.
func (u *unit) seen() Status {
	s := u.now()
	if a, ok := s.Made.(away); ok && s.State == Running {
		if since, err := a.Away(); err != nil {
			s.State, s.Since, s.Err = Restarting, since, err
		}
	}
	return s
}

// over reports whether the stage has ended and will not be made again.
func (u *unit) over() bool {
	state := u.now().State
	return state == Stopped || state == Failed
}

func (u *unit) made() stage.Stage { return u.now().Made }

func (u *unit) setMade(made stage.Stage) {
	u.mu.Lock()
	u.status.Made = made
	u.mu.Unlock()
	if u.port != nil {
		u.port.notify()
	}
}

// keeps reports whether u can stay for an entry of another file: it runs, with the
// same settings, and calls the same ports.
func (u *unit) keeps(st *Stage, env stage.Env) bool {
	return !u.over() && u.Kind.Name == st.Kind.Name &&
		reflect.DeepEqual(u.Process, st.Process) && reflect.DeepEqual(u.Settings, st.Settings) &&
		slices.Equal(u.env.Inputs, env.Inputs) && u.env.Output == env.Output
}

// passTrial waits until stages that were just started have passed their trial, and
// returns what went wrong.
func passTrial(ctx context.Context, units []*unit) error {
	if len(units) == 0 {
		return nil
	}
	timer := time.NewTimer(trial)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	var errs []error
	for _, u := range units {
		u.mu.Lock()
		if u.onTrial = false; u.status.State == Failed {
			errs = append(errs, fmt.Errorf("%s: %w", u, u.status.Err))
		}
		u.mu.Unlock()
	}
	return errors.Join(errs...)
}
