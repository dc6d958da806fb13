// Package writerdisk is the stage kind writer-disk: it records media into FLV
// files in a folder. What it was killed in the middle of is repaired when it
// starts again, and the oldest recordings make room for new ones.
package writerdisk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// Settings of the stage kind.
type Settings struct {
	Root string        `set:"root,required" doc:"folder for the recordings, made when it is not there"`
	Sync time.Duration `set:"sync" doc:"how often what was written is forced onto the disk: at most so much media is lost when the power fails"`
	Keep Keep          `set:"keep" doc:"the oldest finished recordings beyond this age (7d) or size (500GiB) are removed"`
}

// Check says what cannot be.
func (s *Settings) Check() error {
	if s.Root == "" {
		return stage.Wrong("root", "is empty")
	}
	if s.Sync < 10*time.Millisecond || s.Sync > time.Minute {
		return stage.Wrong("sync", "is %v, allowed are 10ms to 1m", s.Sync)
	}
	return nil
}

// Kind describes the stage.
func Kind() stage.Kind {
	return stage.Kind{
		Name:     "writer-disk",
		Summary:  "Records media into FLV files in a folder.",
		Settings: func() any { return &Settings{Sync: time.Second} },
		Ports:    stage.Ports{ProvidesWriter: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return New(env, *settings.(*Settings)), nil
		},
	}
}

// sweepEvery is how often the oldest recordings are looked for; they are also
// when a recording is finished.
const sweepEvery = 10 * time.Minute

// A Writer is the stage.
type Writer struct {
	settings Settings
	drain    time.Duration
	log      hclog.Logger
	metrics  *metrics
	finished chan struct{} // of capacity 1: a recording was finished
	// repairing holds a token while a file is repaired.
	repairing chan struct{}

	mu      sync.Mutex
	root    *os.Root // nil before it is needed
	closed  bool
	files   map[string]bool // paths that are being written, repaired or removed
	sinks   map[*sink]bool
	syncers map[*syncer]bool
	closing sync.WaitGroup // recordings that are being finished
}

// New makes the stage.
func New(env stage.Env, settings Settings) *Writer {
	w := &Writer{
		settings:  settings,
		drain:     env.Drain,
		log:       env.Log,
		finished:  make(chan struct{}, 1),
		repairing: make(chan struct{}, 1),
		files:     map[string]bool{},
		sinks:     map[*sink]bool{},
		syncers:   map[*syncer]bool{},
	}
	w.metrics = newMetrics(env.Metrics, w.lag)
	return w
}

// Serve repairs what a crash has left, and then removes the oldest recordings as
// they become too old or too many.
func (w *Writer) Serve(ctx context.Context) error {
	root, err := w.folder()
	if err != nil {
		return err
	}
	w.repair(ctx, root)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := w.sweep(root); err != nil {
			w.log.Warn("cannot look for recordings to remove", "root", w.settings.Root, "error", err)
		}
		select {
		case <-ctx.Done():
			return w.stop()
		case <-tick.C:
		case <-w.finished:
		}
	}
}

// stop finishes the recordings that are still open: after their writers have had
// time to do so, it does it itself.
func (w *Writer) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), w.drain)
	defer cancel()
	w.mu.Lock()
	w.closed = true
	var open []*sink
	for s := range w.sinks {
		open = append(open, s)
	}
	w.mu.Unlock()
	half, cancelHalf := context.WithTimeout(ctx, w.drain/2)
	defer cancelHalf()
	var errs []error
	for _, s := range open {
		select {
		case <-s.over:
		case <-half.Done():
			errs = append(errs, s.Close(ctx))
		}
	}
	w.closing.Wait()
	return errors.Join(append(errs, w.root.Close())...)
}

// folder returns the root folder.
func (w *Writer) folder() (*os.Root, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, media.ErrClosed
	}
	if w.root != nil {
		return w.root, nil
	}
	if err := os.MkdirAll(w.settings.Root, 0o755); err != nil {
		return nil, fmt.Errorf("folder for recordings: %w", err)
	}
	root, err := os.OpenRoot(w.settings.Root)
	if err != nil {
		return nil, fmt.Errorf("folder for recordings: %w", err)
	}
	w.root = root
	return root, nil
}

// Create begins a recording. A name that is there already gets a number, unless
// the recording is to be appended to it.
func (w *Writer) Create(ctx context.Context, req media.CreateRequest) (media.Sink, error) {
	if err := media.CheckName(req.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", media.ErrDenied, err)
	}
	root, err := w.folder()
	if err != nil {
		return nil, w.failed(err)
	}
	s := &sink{writer: w, root: root, name: strings.TrimSuffix(req.Name, ".flv"), over: make(chan struct{})}
	if req.Append {
		err = s.openLast(ctx)
	} else {
		err = s.create()
	}
	if err != nil {
		return nil, w.failed(fmt.Errorf("recording %s: %w", req.Name, err))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sinks[s] = true
	return s, nil
}

// maxNumber is how many recordings of one name there may be.
const maxNumber = 10_000

// numbered returns the path of the nth recording of a name.
func numbered(name string, n int) string {
	if n > 1 {
		name = fmt.Sprintf("%s-%d", name, n)
	}
	return name + ".flv"
}

// claim makes the caller the owner of the file at a path, unless it has one.
func (w *Writer) claim(path string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files[path] {
		return false
	}
	w.files[path] = true
	return true
}

func (w *Writer) release(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.files, path)
}

// forget is told that s has been closed.
func (w *Writer) forget(s *sink) {
	w.mu.Lock()
	delete(w.sinks, s)
	w.mu.Unlock()
	select {
	case w.finished <- struct{}{}:
	default: // a sweep is due already
	}
}

// failed counts err and returns it, as one that another try may overcome.
func (w *Writer) failed(err error) error {
	w.metrics.failed(err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", media.ErrFull, err)
	}
	return fmt.Errorf("%w: %w", media.ErrUnavailable, err)
}

// lag is how long the oldest media that may not be on the disk have waited.
func (w *Writer) lag() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lag time.Duration
	for s := range w.syncers {
		lag = max(lag, s.lag())
	}
	return lag
}

// repair finishes the recordings that were under way when the daemon was killed.
func (w *Writer) repair(ctx context.Context, root *os.Root) {
	err := walk(root, func(name string, _ fs.FileInfo) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.repairing <- struct{}{} // whoever has it waits for nothing
		defer func() { <-w.repairing }()
		if !w.claim(name) {
			return nil
		}
		defer w.release(name)
		if err := w.repairFile(ctx, root, name); err != nil {
			w.log.Warn("cannot repair a recording, it is left as it is", "file", name, "error", err)
			w.metrics.failed(err)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		w.log.Warn("cannot look for recordings to repair", "root", w.settings.Root, "error", err)
	}
}

// repairTime bounds the repair of one file.
const repairTime = time.Minute

func (w *Writer) repairFile(ctx context.Context, root *os.Root, name string) error {
	f, err := root.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil // none of ours
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > 0 {
		finished, err := flv.Finished(f)
		if errors.Is(err, flv.ErrNoRecording) || finished {
			return nil
		}
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, repairTime)
	defer cancel()
	result := flv.Result{Empty: true}
	if info.Size() > 0 {
		if result, err = flv.Repair(ctx, f, info.Size()); err != nil {
			return err
		}
	}
	if result.Empty {
		w.log.Info("removed a recording without a frame", "file", name)
		return root.Remove(name)
	}
	w.metrics.repaired.Inc()
	w.log.Info("repaired a recording that was cut short", "file", name, "duration", result.Duration, "cut", result.Cut)
	return nil
}

// walk calls f for each FLV file below root.
func walk(root *os.Root, f func(name string, info fs.FileInfo) error) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil && name == "." {
			return err
		}
		if err != nil {
			return nil // removed meanwhile, or a folder that is not for us to read
		}
		if !d.Type().IsRegular() || path.Ext(name) != ".flv" {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return f(name, info)
	})
}
