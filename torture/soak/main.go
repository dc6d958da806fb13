// Command soak runs the daemon for a long time with viewers that come, go, stall and
// seek, publishers that reconnect and jump, plugins that are killed, a disk that is filled
// and freed, and a configuration that is reloaded. Each minute it prints what there is;
// at the end the daemon must hold what it held after the warm-up, and every frame that a
// healthy viewer should have seen must have been seen.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/mediad/mediad/e2e/lab"
)

func main() {
	length := flag.Duration("for", time.Hour, "how long, without the warm-up")
	viewers := flag.Int("viewers", 200, "how many viewers there are")
	publishers := flag.Int("publishers", 20, "how many publishers there are")
	out := flag.String("out", "", "a file for the table too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := soak(ctx, *length, *viewers, *publishers, *out); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// pipelines are films from a reader and recordings by a writer that are processes, which
// can be killed. The number is what a reload changes.
const pipelines = `drain: 5s
pipelines:
  on-demand:
    - use: reader-disk
      run: process
      with: {root: ./media}
    - use: cache
      with: {memory: 4MiB}
    - use: broker
    - use: stream
      with: {app: vod}
  live:
    - use: ingest
      with: {app: live, linger: 10s}
    - use: broadcast
      with: {window: 30s}
    - use: stream
      with: {app: live}
  archive:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 30s}
    - use: writer-disk
      run: process
      with: {root: ./small, keep: 16MiB}
  spare:
    - use: reader-disk
      with: {root: ./media}
    - use: cache
      with: {memory: %dMiB}
    - use: stream
      with: {app: spare}
`

func soak(ctx context.Context, length time.Duration, viewers, publishers int, out string) (err error) {
	dir, err := os.MkdirTemp("", "mediad-soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := lab.Build(ctx, dir, false, "./cmd/mediad"); err != nil {
		return err
	}
	d, err := lab.New(filepath.Join(dir, "mediad"), dir, fmt.Sprintf(pipelines, 16))
	if err != nil {
		return err
	}
	if err := d.Mount("small", "32m"); err != nil {
		return fmt.Errorf("mount a small disk: %w", err)
	}
	defer func() { err = errors.Join(err, d.Unmount("small")) }()
	for i := range films {
		if err := lab.WriteFilm(d.Path("media", film(i)), filmFrames, 2000); err != nil {
			return err
		}
	}
	if err := d.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()

	c := &crowd{daemon: d, viewers: viewers, publishers: publishers}
	var table strings.Builder
	w := io.MultiWriter(os.Stdout, &table)
	began := time.Now()
	fmt.Fprintf(w, "%v with %d viewers and %d publishers, begun %s.\n\n", length, viewers, publishers, began.Format(time.DateTime))
	fmt.Fprintln(w, heading)
	before, err := c.run(ctx, w, began, min(time.Minute, length))
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "| after the warm-up, everybody gone: %v |\n", before)
	after, err := c.run(ctx, w, began, length)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "| at the end, everybody gone: %v |\n\n", after)
	err = c.verdict(w, before, after)
	if out != "" {
		err = errors.Join(err, os.WriteFile(out, []byte("# The last soak\n\nMade by `make soak`; see docs/torture.md.\n\n"+table.String()), 0o644))
	}
	return err
}

// run has the crowd at work for a time, and returns what the daemon holds when all have gone.
func (c *crowd) run(ctx context.Context, w io.Writer, began time.Time, length time.Duration) (lab.Held, error) {
	working, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		c.work(working)
		close(gone)
	}()
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for working.Err() == nil {
		select {
		case <-tick.C:
		case <-working.Done():
		}
		if err := c.row(w, began); err != nil {
			return lab.Held{}, err
		}
	}
	<-gone
	if ctx.Err() != nil {
		return lab.Held{}, ctx.Err()
	}
	return c.quiet()
}

// quiet waits until no channel is on air any more, and returns what is held then.
func (c *crowd) quiet() (held lab.Held, err error) {
	err = lab.Eventually(time.Minute, func() error {
		m, err := c.daemon.Metrics()
		if err != nil {
			return err
		}
		if n := m.Sum("mediad_broadcast_channels") + m.Sum("mediad_rtmp_connections"); n > 0 {
			return fmt.Errorf("%v channels and connections are left", n)
		}
		return nil
	})
	if err != nil {
		return held, err
	}
	time.Sleep(10 * time.Second) // what goes on in the background: files are finished, plugins started
	return c.daemon.Held()
}

// verdict compares what is held with what was, and tells what went wrong with healthy viewers.
func (c *crowd) verdict(w io.Writer, before, after lab.Held) error {
	var errs []error
	const goroutines, descriptors, heap = 5, 3, 8 << 20
	if after.Goroutines > before.Goroutines+goroutines || after.Descriptors > before.Descriptors+descriptors || after.Heap > before.Heap+heap {
		errs = append(errs, fmt.Errorf("it holds %v, after the warm-up it held %v", after, before))
	}
	for _, wrong := range c.wrongs() {
		errs = append(errs, errors.New(wrong))
	}
	if len(errs) == 0 {
		fmt.Fprintln(w, "Every frame that a healthy viewer should have seen was seen, and nothing is held that was not after the warm-up.")
		return nil
	}
	err := errors.Join(errs...)
	fmt.Fprintln(w, "What went wrong:\n\n"+err.Error())
	return err
}
