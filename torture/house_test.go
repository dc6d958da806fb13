// The daemon that is tortured, what must go on meanwhile, and what is looked at after
// each case.

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/e2e/lab"
)

// all says that the cases that take long are wanted too.
var all = os.Getenv(allVariable) != ""

// binaries is the folder of the daemon and its plugins, built once.
var binaries string

func TestMain(m *testing.M) { os.Exit(lab.Main(m, true, &binaries)) }

// An ordeal is a case: what is done, and what of it must be found.
type ordeal struct {
	number int
	name   string
	do     func(t *testing.T, h *house)
	log    string // a regular expression of a line, and of every warning; there is none when empty
	metric string // what is counted, a series as for lab.Metrics.Sum; nothing when empty
	long   bool   // left out unless all is set
}

// A house is a daemon with a healthy channel, which is watched and recorded, and a
// healthy film.
type house struct {
	*lab.Daemon
	publisher *lab.Publisher
	viewers   []*lab.Viewer
	film      *lab.Viewer
	warned    map[string]time.Time // when each ordeal.log was seen last
	names     int
	steady    lab.Held // when nothing had been done to it yet
}

const filmFrames = 250

// open starts a house. It is looked at once more, and stopped, when the test ends.
func open(t *testing.T, pipelines string, prepare ...func(*lab.Daemon)) *house {
	t.Helper()
	prepare = append(prepare, func(d *lab.Daemon) {
		must(t, lab.WriteFilm(d.Path("media", "healthy.flv"), filmFrames, 2000))
	})
	d := lab.Start(t, filepath.Join(binaries, "mediad"), healthy+pipelines, prepare...)
	h := &house{Daemon: d, warned: map[string]time.Time{}}
	var err error
	h.publisher, err = d.Publish(lab.Publication{Path: "live/healthy", Size: 1000})
	must(t, err)
	for range 3 {
		v, err := d.Watch("live/healthy")
		must(t, err)
		h.viewers = append(h.viewers, v)
	}
	h.film, err = d.Screen("vod/healthy.flv", filmFrames)
	must(t, err)
	h.unharmed(t)
	return h
}

// healthy is what every house runs.
const healthy = `drain: 2s
pipelines:
  on-demand:
    - use: reader-disk
      with: {root: ./media}
    - use: cache
      with: {memory: 4MiB}
    - use: broker
    - use: stream
      with: {app: vod}
  live:
    - use: ingest
      with: {app: live, linger: 0s}
    - use: broadcast
      with: {window: 10s}
    - use: stream
      with: {app: live}
  archive:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 24h, channels: [healthy, kept-*]}
    - use: writer-disk
      with: {root: ./recordings}
`

// suffer has the daemon go through the ordeals, one after another.
func (h *house) suffer(t *testing.T, ordeals []ordeal) {
	t.Helper()
	var err error
	h.steady, err = h.Held()
	must(t, err)
	for _, o := range ordeals {
		if (o.log == "") != (o.metric == "") {
			t.Errorf("%s: a cause stands in the log and is counted", o.name)
		}
		if o.long && !all {
			continue
		}
		t.Run(fmt.Sprintf("T%02d_%s", o.number, o.name), func(t *testing.T) { h.endure(t, o) })
	}
	h.returned(t, h.steady)
	h.close(t)
}

func (h *house) endure(t *testing.T, o ordeal) {
	must(t, h.Lives())
	// Lines of one cause are a second apart, and the next case may have the same.
	time.Sleep(time.Until(h.warned[o.log].Add(1100 * time.Millisecond)))
	before, err := h.Held()
	must(t, err)
	before.Goroutines = max(before.Goroutines, h.steady.Goroutines) // fewer while a plugin is being started
	before.Descriptors = max(before.Descriptors, h.steady.Descriptors)
	lines, counted, open := h.Log.Len(), h.count(t, o.metric), h.count(t, connections)
	began := time.Now()
	o.do(t, h)
	if t.Failed() {
		return
	}
	h.unharmed(t)
	must(t, lab.Eventually(20*time.Second, func() error { // the end of each is logged by then, and not in the next case
		if n := h.count(t, connections); n > open {
			return fmt.Errorf("%v connections are open, before it were %v", n, open)
		}
		return nil
	}))
	saw := h.found(t, o, lines, counted, time.Since(began))
	after := h.returned(t, before)
	t.Logf("saw: %sno frame missing, goroutines %d to %d, descriptors %d to %d, heap %.1f to %.1f MB", saw,
		before.Goroutines, after.Goroutines, before.Descriptors, after.Descriptors, float64(before.Heap)/1e6, float64(after.Heap)/1e6)
}

const connections = "mediad_rtmp_connections"

// fresh makes a name that none before had: the server may not have noticed yet that
// the last one's publisher has gone.
func (h *house) fresh(name string) string {
	h.names++
	return fmt.Sprintf("%s%d", name, h.names)
}

// unharmed checks that the healthy ones have all frames up to now.
func (h *house) unharmed(t *testing.T) {
	t.Helper()
	now := h.publisher.Sent()
	for _, v := range h.viewers {
		must(t, v.Until(now, 20*time.Second))
	}
	must(t, lab.Eventually(20*time.Second, func() error {
		if err := h.film.Err(); err != nil {
			return lab.Final(err)
		}
		if idle := h.film.Idle(); idle > 2*time.Second { // a GOP comes each second
			return fmt.Errorf("nothing of the film has come for %v", idle)
		}
		return nil
	}))
	must(t, h.Lives())
}

// found checks what is counted and logged. Of each warning there is one, and another each
// second that it goes on, or for the next thing that is done.
func (h *house) found(t *testing.T, o ordeal, lines int, counted float64, took time.Duration) (saw string) {
	t.Helper()
	if o.metric != "" {
		must(t, lab.Eventually(10*time.Second, func() error {
			if n := h.count(t, o.metric); n <= counted {
				return fmt.Errorf("%s is %v, as before", o.metric, n)
			}
			return nil
		}))
		saw = fmt.Sprintf("%s +%v, ", o.metric, h.count(t, o.metric)-counted)
	}
	if o.log == "" {
		if list := h.troubles(lines); len(list) > 0 {
			t.Errorf("nothing should be logged:\n%s", strings.Join(list, "\n"))
		}
		return saw
	}
	told := regexp.MustCompile(o.log)
	h.says(t, lines, told, 10*time.Second)
	h.warned[o.log] = time.Now()
	list := h.troubles(lines)
	same := map[string]int{} // by what stands before the first value
	for _, line := range list {
		if !told.MatchString(line) {
			t.Errorf("this is logged, only %q should be: %s", o.log, line)
		}
		_, what, _ := strings.Cut(line, "]")
		what, _, _ = strings.Cut(what, "=")
		same[what]++
	}
	for what, n := range same {
		if n > 2+int(took.Seconds()) {
			t.Errorf("%d warnings of%s in %v:\n%s", n, what, took, strings.Join(list, "\n"))
		}
	}
	if len(list) > 0 {
		saw += fmt.Sprintf("%d warnings, ", len(list))
	}
	return saw
}

// says waits until the daemon has logged what matches told, from a line on.
func (h *house) says(t *testing.T, line int, told *regexp.Regexp, within time.Duration) {
	t.Helper()
	must(t, lab.Eventually(within, func() error {
		if !slices.ContainsFunc(h.Log.From(line), told.MatchString) {
			return fmt.Errorf("%q is not logged:\n%s", told, h.Log.Tail(20))
		}
		return nil
	}))
}

// troubles are the warnings from a line on, without those about the machine's own disk,
// which others use too.
func (h *house) troubles(line int) []string {
	return slices.DeleteFunc(h.Log.Troubles(line), func(line string) bool { return strings.Contains(line, slowDisk) })
}

const slowDisk = "the disk is slow"

// count is the value of a metric now.
func (h *house) count(t *testing.T, series string) float64 {
	t.Helper()
	m, err := h.Metrics()
	must(t, err)
	return m.Sum(series)
}

// Goroutines, connections kept for the next request to an origin, and the memory of
// frames come and go with the work of the healthy ones; the cache may fill.
const (
	moreGoroutines  = 3
	moreDescriptors = 3
	moreHeap        = 6 << 20
)

// returned waits until the daemon holds no more than before.
func (h *house) returned(t *testing.T, before lab.Held) (now lab.Held) {
	t.Helper()
	must(t, lab.Eventually(20*time.Second, func() (err error) {
		if now, err = h.Held(); err != nil {
			return err
		}
		if now.Goroutines > before.Goroutines+moreGoroutines || now.Descriptors > before.Descriptors+moreDescriptors || now.Heap > before.Heap+moreHeap {
			return fmt.Errorf("it holds %v, before it were %v", now, before)
		}
		return nil
	}))
	return now
}

// close ends the house in peace: all has been seen, and is recorded.
func (h *house) close(t *testing.T) {
	t.Helper()
	must(t, h.leave(t))
}

// leave does so, and returns how the daemon exits.
func (h *house) leave(t *testing.T) error {
	t.Helper()
	h.unharmed(t)
	must(t, h.publisher.Close())
	sent := h.publisher.Sent()
	for _, v := range h.viewers {
		must(t, v.Until(sent-1, 20*time.Second))
		_ = v.Close()
	}
	must(t, h.film.Close())
	exit := h.Stop()
	files, err := filepath.Glob(h.Path("recordings", "healthy", "*", "*.flv"))
	must(t, err)
	next := 0
	for _, file := range files {
		next = recorded(t, file, next)
	}
	if next != sent {
		t.Errorf("%d frames are recorded in %v, %d were sent", next, files, sent)
	}
	return exit
}

// recorded checks that a file holds an unbroken run of frames from number next on, in
// a time that only goes on, and returns the number that follows.
func recorded(t *testing.T, path string, next int) int {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	x, err := flv.ReadIndex(t.Context(), lab.File{File: f})
	must(t, err)
	last := time.Duration(-1)
	for batch := x.Batches(lab.File{File: f}, 0); ; {
		b, err := batch(t.Context())
		if errors.Is(err, io.EOF) {
			return next
		}
		must(t, err)
		for _, frame := range b.Frames() {
			if frame.Track != media.Video {
				continue
			}
			got, ok := lab.Number(frame.Track, frame.Body)
			if !ok || got != next || frame.DTS < last {
				t.Fatalf("%s: frame %d at %v follows frame %d at %v", path, got, frame.DTS, next-1, last)
			}
			next, last = next+1, frame.DTS
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	lab.Must(t, err)
}
