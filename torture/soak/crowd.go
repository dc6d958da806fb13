// Who comes and what is done to the daemon meanwhile.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/e2e/lab"
)

const (
	films      = 20
	filmFrames = 750 // 30 s
)

func film(i int) string { return fmt.Sprintf("film%d.flv", i) }
func show(i int) string { return fmt.Sprintf("live/show%d", i) }

// A crowd is everybody who uses a daemon.
type crowd struct {
	daemon              *lab.Daemon
	viewers, publishers int

	frames, joins, screenings, seeks, stalls             atomic.Int64
	reconnects, jumps, kills, fills, reloads, difficulty atomic.Int64

	mu    sync.Mutex
	wrong []string // what must not be, a few lines
}

// work has everybody at work until ctx ends, and all go then.
func (c *crowd) work(ctx context.Context) {
	var all sync.WaitGroup
	onAir := make(chan struct{}, c.publishers)
	for i := range c.publishers {
		all.Go(func() { c.publish(ctx, i, onAir) })
	}
	for range c.publishers { // a viewer who comes too early is told that there is no such channel
		select {
		case <-onAir:
		case <-ctx.Done():
		}
	}
	for i := range c.viewers {
		do := map[int]func(context.Context) error{0: c.screen, 1: c.screen, 2: c.seek, 3: c.seek, 4: c.stall}[i%10]
		if do == nil {
			do = c.watch
		}
		all.Go(func() {
			for sleep(ctx, rand.N(3*time.Second)) {
				if err := do(ctx); err != nil && ctx.Err() == nil {
					c.tell(err)
				}
			}
		})
	}
	for every, do := range map[time.Duration]func(context.Context) error{
		25 * time.Second: c.kill, 70 * time.Second: c.fill, 45 * time.Second: c.reload,
	} {
		all.Go(func() {
			for sleep(ctx, every/2+rand.N(every)) {
				if err := do(ctx); err != nil {
					c.tell(err)
				}
			}
		})
	}
	all.Wait()
}

// sleep waits, and returns false when ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// tell takes note of something that must not be.
func (c *crowd) tell(err error) {
	c.difficulty.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) < 50 {
		line := time.Now().Format(time.TimeOnly) + " " + err.Error()
		c.wrong = append(c.wrong, line)
		fmt.Fprintln(os.Stderr, line) // an hour is long to wait for it
	}
}

func (c *crowd) wrongs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrong
}

// publish publishes a channel for as long as ctx goes on, and tells when it begins. Its
// connection breaks now and then, and its timestamps jump.
func (c *crowd) publish(ctx context.Context, i int, onAir chan<- struct{}) {
	for epoch := 0; ctx.Err() == nil; epoch++ {
		p, err := c.daemon.Publish(lab.Publication{Path: show(i), First: epoch * lab.Epoch, Size: 400})
		if err != nil { // the server may not have noticed yet that the one before has gone
			sleep(ctx, 200*time.Millisecond)
			continue
		}
		select {
		case onAir <- struct{}{}:
		default: // again
		}
		for range 1 + rand.IntN(4) {
			if !sleep(ctx, 10*time.Second+rand.N(20*time.Second)) {
				break
			}
			p.Jump(time.Duration(rand.IntN(7200)-3600) * time.Second)
			c.jumps.Add(1)
		}
		if ctx.Err() != nil {
			_ = p.Close()
			return
		}
		p.Drop()
		c.reconnects.Add(1)
	}
}

// watch is a healthy viewer of a channel, who must see every frame.
func (c *crowd) watch(ctx context.Context) error {
	v, err := c.daemon.Watch(show(rand.IntN(c.publishers)))
	if err != nil {
		return err
	}
	c.joins.Add(1)
	sleep(ctx, 5*time.Second+rand.N(2*time.Minute))
	if ctx.Err() == nil && v.Err() == nil && v.Idle() > 12*time.Second { // longer than it lingers
		return errors.Join(fmt.Errorf("nothing has come for %v", v.Idle()), v.Close())
	}
	err = v.Close()
	c.frames.Add(int64(v.Frames()))
	return err
}

// screen is a healthy viewer of a film, who must see it whole, however often the reader
// is killed.
func (c *crowd) screen(ctx context.Context) error {
	v, err := c.daemon.Screen("vod/"+film(rand.IntN(films)), filmFrames)
	if err != nil {
		return err
	}
	for v.Plays() == 0 && v.Err() == nil && sleep(ctx, 100*time.Millisecond) {
	}
	err = v.Close()
	if v.Plays() > 0 {
		c.screenings.Add(1)
		err = nil // of what began again
	}
	c.frames.Add(int64(v.Frames()))
	return err
}

// seek goes from one place of a film to another, and must come to keyframes.
func (c *crowd) seek(ctx context.Context) error {
	client, err := rtmp.Dial(ctx, c.daemon.URL("vod"))
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Play(ctx, film(rand.IntN(films)), 0, -1, true); err != nil {
		return err
	}
	for range 3 + rand.IntN(20) {
		to := rand.N(filmFrames * lab.Step)
		if err := client.Seek(to); err != nil {
			return err
		}
		if err := arrives(ctx, client, int(to/lab.Step)/lab.GOP*lab.GOP); err != nil {
			return err
		}
		c.seeks.Add(1)
		if !sleep(ctx, rand.N(2*time.Second)) {
			return nil
		}
	}
	return nil
}

// arrives waits for the answer to a seek and the frame that must follow it.
func arrives(ctx context.Context, client *rtmp.Client, want int) error {
	for sought := false; ; {
		m, err := client.Next(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("seek: %w", err)
		case m.Kind == rtmp.KindStatus && m.Status.Level == "error":
			return &rtmp.StatusError{Status: m.Status}
		case m.Kind == rtmp.KindStatus && strings.HasPrefix(m.Status.Code, "NetStream.Seek."):
			sought = m.Status.Code == "NetStream.Seek.Notify"
		case m.Kind == rtmp.KindMedia && m.Track == media.Video && sought:
			if n, ok := lab.Number(m.Track, m.Body); ok && n != want {
				return fmt.Errorf("a seek to frame %d leads to frame %d", want, n)
			} else if ok {
				return nil
			}
		}
	}
}

// stall asks for all of a film at once, and takes nothing of it.
func (c *crowd) stall(ctx context.Context) error {
	client, err := rtmp.Dial(ctx, c.daemon.URL("vod"))
	if err != nil {
		return err
	}
	defer client.Close()
	if err := errors.Join(client.Play(ctx, film(rand.IntN(films)), 0, -1, true), client.SetBuffer(time.Hour)); err != nil {
		return err
	}
	c.stalls.Add(1)
	sleep(ctx, rand.N(30*time.Second)) // it is ended after ten
	return nil
}

// kill kills one of the plugins.
func (c *crowd) kill(context.Context) error {
	pids, err := c.daemon.Plugins()
	if err != nil || len(pids) == 0 {
		return err
	}
	c.kills.Add(1)
	return syscall.Kill(pids[rand.IntN(len(pids))], syscall.SIGKILL)
}

// fill takes all room on the disk for a while.
func (c *crowd) fill(ctx context.Context) error {
	path := c.daemon.Path("small", "filler")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for err == nil {
		_, err = f.Write(make([]byte, 64<<10))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(err, f.Close())
	}
	c.fills.Add(1)
	sleep(ctx, 10*time.Second)
	return errors.Join(f.Close(), os.Remove(path))
}

// reload changes a stage that nobody uses.
func (c *crowd) reload(context.Context) error {
	n := c.reloads.Add(1)
	if err := c.daemon.Configure(fmt.Sprintf(pipelines, 16+n%2)); err != nil {
		return err
	}
	return c.daemon.Reload()
}

const heading = `| minute | frames seen | joins | films | seeks | stalls | reconnects | jumps | kills | disk full | reloads | ended as slow | not recorded: disk full | writer | too slow | no keyframe | wrong | goroutines | descriptors | heap MB | resident MB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |`

// row prints what there is now.
func (c *crowd) row(w io.Writer, began time.Time) error {
	if err := c.daemon.Lives(); err != nil {
		return err
	}
	held, err := c.daemon.Held()
	if err != nil {
		return err
	}
	m, err := c.daemon.Metrics()
	if err != nil {
		return err
	}
	lost := func(cause string) float64 {
		return m.Sum(fmt.Sprintf("mediad_archiver_lost_frames_total{cause=%q}", cause))
	}
	fmt.Fprintf(w, "| %.1f | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %.0f | %.0f | %.0f | %.0f | %.0f | %d | %d | %d | %.1f | %.0f |\n", time.Since(began).Minutes(),
		c.frames.Load(), c.joins.Load(), c.screenings.Load(), c.seeks.Load(), c.stalls.Load(), c.reconnects.Load(), c.jumps.Load(),
		c.kills.Load(), c.fills.Load(), c.reloads.Load(), m.Sum(`mediad_rtmp_closed_total{cause="slow"}`),
		lost("full"), lost("writer"), lost("slow"), lost("no keyframe"), c.difficulty.Load(), held.Goroutines, held.Descriptors, float64(held.Heap)/1e6, m["process_resident_memory_bytes"]/1e6)
	return nil
}
