// One recording that is being written.

package writerdisk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
)

// A sink writes one recording. It hands each batch to the kernel at once, so a
// process that is killed loses nothing; a goroutine of its own forces what was
// handed over onto the disk, so that a slow disk does not hold up the writing.
type sink struct {
	writer *Writer
	root   *os.Root
	name   string        // without extension
	over   chan struct{} // closed when the file is

	mu     sync.Mutex // held while batches are written
	closed bool
	failed error // after which nothing is written

	path    string
	file    *os.File       // nil once it is closed
	rec     *flv.Recording // nil before the first batch
	resumed bool           // rec is another's, and nothing has been appended yet
	syncer  *syncer
}

// create makes a new file.
func (s *sink) create() error {
	for n := 1; n <= maxNumber; n++ {
		name := numbered(s.name, n)
		if !s.writer.claim(name) {
			continue
		}
		f, err := s.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
		if err == nil {
			s.begin(name, f)
			s.writer.metrics.files.Inc()
			return nil
		}
		s.writer.release(name)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return fmt.Errorf("there are %d recordings of that name already", maxNumber)
}

// open opens a file. The folder that it is to lie in may just be removed for
// being empty.
func (s *sink) open(name string, flag int) (*os.File, error) {
	for try := 0; ; try++ {
		if err := s.root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return nil, err
		}
		f, err := s.root.OpenFile(name, flag, 0o644)
		if !errors.Is(err, fs.ErrNotExist) || try == 3 {
			return f, err
		}
	}
}

// begin takes f, whose name s has claimed.
func (s *sink) begin(name string, f *os.File) {
	s.path, s.file, s.rec = name, f, nil
	s.syncer = s.writer.startSyncer(f, path.Dir(name))
}

// openLast opens the last recording of the name to go on with, or makes a new
// one if there is none that can be gone on with.
func (s *sink) openLast(ctx context.Context) error {
	last := ""
	for n := 1; n <= maxNumber; n++ {
		if _, err := s.root.Stat(numbered(s.name, n)); err != nil {
			break
		}
		last = numbered(s.name, n)
	}
	if last == "" {
		return s.create()
	}
	if err := s.claim(ctx, last); err != nil {
		return err
	}
	err := s.resume(ctx, last)
	if err == nil {
		return nil
	}
	s.writer.release(last)
	if errors.Is(err, flv.ErrNoRecording) { // it has no room for the metadata
		return s.create()
	}
	return err
}

// claim makes s the owner of a file, which may just be repaired.
func (s *sink) claim(ctx context.Context, name string) error {
	if s.writer.claim(name) {
		return nil
	}
	select {
	case s.writer.repairing <- struct{}{}:
		defer func() { <-s.writer.repairing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !s.writer.claim(name) {
		return media.ErrBusy
	}
	return nil
}

func (s *sink) resume(ctx context.Context, name string) error {
	f, err := s.open(name, os.O_RDWR)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	rec, err := flv.Continue(ctx, f, info.Size())
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.begin(name, f)
	s.rec, s.resumed = rec, true
	return nil
}

// Write appends b.
func (s *sink) Write(ctx context.Context, b *media.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return media.ErrClosed
	}
	if s.failed != nil {
		return s.failed
	}
	err := s.syncer.err()
	if err == nil {
		err = s.write(b)
	}
	if err != nil {
		s.failed = s.writer.failed(fmt.Errorf("recording %s: %w", s.path, err))
	}
	return s.failed
}

func (s *sink) write(b *media.Batch) (err error) {
	if s.resumed {
		s.resumed = false
		if b, err = s.goOn(b); b == nil || err != nil {
			return err
		}
	}
	if s.rec == nil {
		if s.rec, err = flv.NewRecording(s.file, b.Header()); err != nil {
			return err
		}
	}
	before := s.rec.Size()
	if err := s.rec.Write(b); err != nil {
		return err
	}
	s.writer.metrics.bytes.Add(float64(s.rec.Size() - before))
	s.syncer.wrote()
	return nil
}

// goOn makes the file ready for the first batch after what another has written, and
// returns what is to be written of that.
func (s *sink) goOn(b *media.Batch) (*media.Batch, error) {
	if s.rec.Fits(b.Header()) {
		return s.rec.Rest(b)
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	return b, s.create()
}

// Close finishes the recording. When ctx ends before that is done, it goes on in
// the background.
func (s *sink) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	done := make(chan error, 1)
	s.writer.closing.Go(func() {
		err := s.finish()
		s.writer.forget(s)
		close(s.over)
		done <- err
	})
	s.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("recording %s is not finished yet: %w", s.path, ctx.Err())
	}
}

// finish finishes the file and closes it. One without frames is removed.
func (s *sink) finish() error {
	if s.file == nil {
		return nil
	}
	defer s.writer.release(s.path)
	s.syncer.stop()
	empty := s.rec == nil || s.rec.Empty()
	var err error
	if !empty {
		err = s.rec.Close()
	}
	err = errors.Join(err, s.file.Close())
	s.file = nil
	if empty {
		err = errors.Join(err, s.root.Remove(s.path))
	}
	if err != nil {
		return s.writer.failed(fmt.Errorf("recording %s: %w", s.path, err))
	}
	return nil
}
