// Forcing onto the disk what was written.

package writerdisk

import (
	"errors"
	"os"
	"path"
	"sync"
	"time"
)

// A syncer forces one file onto the disk at intervals, in its own goroutine. An
// fsync that takes long holds up neither the writing nor other files; the writer
// hears of one that failed with its next batch.
type syncer struct {
	writer *Writer
	file   *os.File
	dir    string // of the file, "" once the file's name is on the disk too
	quit   chan struct{}
	done   chan struct{}
	slow   bool // that the disk is has been logged

	mu      sync.Mutex
	dirty   time.Time // when the first bytes were written that wait for an fsync
	syncing time.Time // the same of those that one is under way for
	failed  error
}

func (w *Writer) startSyncer(f *os.File, dir string) *syncer {
	s := &syncer{writer: w, file: f, dir: dir, quit: make(chan struct{}), done: make(chan struct{})}
	w.mu.Lock()
	w.syncers[s] = true
	w.mu.Unlock()
	go s.run(w.settings.Sync)
	return s
}

func (s *syncer) run(interval time.Duration) {
	defer close(s.done)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-tick.C:
			s.sync()
		}
	}
}

// sync is an fsync, if anything was written since the last.
func (s *syncer) sync() {
	s.mu.Lock()
	s.syncing, s.dirty = s.dirty, time.Time{}
	clean := s.syncing.IsZero()
	s.mu.Unlock()
	if clean {
		return
	}
	began := time.Now()
	err := s.file.Sync()
	if err == nil && s.dir != "" {
		err, s.dir = s.syncDir(), ""
	}
	if took := time.Since(began); took > slowSync {
		s.tooSlow(took)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.syncing = time.Time{}
	if s.failed == nil {
		s.failed = err
	}
}

// slowSync is longer than a disk that keeps up with its work takes.
const slowSync = time.Second

func (s *syncer) tooSlow(took time.Duration) {
	s.writer.metrics.slow.Inc()
	if !s.slow {
		s.slow = true
		s.writer.log.Warn("the disk is slow: what was recorded meanwhile is lost if the power fails; more of it is only counted",
			"file", s.file.Name(), "fsync", took.Round(time.Millisecond))
	}
}

// syncDir makes the file's name last, and those of the folders that it lies in.
func (s *syncer) syncDir() error {
	for dir := s.dir; ; dir = path.Dir(dir) {
		f, err := s.writer.root.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
		if dir == "." {
			return nil
		}
	}
}

// wrote says that there is something to sync.
func (s *syncer) wrote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty.IsZero() {
		s.dirty = time.Now()
	}
}

// err returns what an fsync has failed with.
func (s *syncer) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// lag is how long what was written has waited to be on the disk.
func (s *syncer) lag() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := s.syncing
	if oldest.IsZero() {
		oldest = s.dirty
	}
	if oldest.IsZero() {
		return 0
	}
	return time.Since(oldest)
}

// stop ends the goroutine and waits for it.
func (s *syncer) stop() {
	close(s.quit)
	<-s.done
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	delete(s.writer.syncers, s)
}
