// Publishers and viewers, as many as the lab needs, in this process.

package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stream"
)

// A publisher sends frames in real time until it is stopped or told to end.
type publisher struct {
	by     byte
	client *rtmp.Client
	bytes  atomic.Int64 // of frames
	stop   context.CancelFunc
	done   chan struct{} // closed when it has ended

	// Of a publisher that has ended:
	err   error // why; nil when it was stopped
	ended time.Time
}

// A show is what a publisher sends.
type show struct {
	name string
	by   byte
	bits int // a second; each frame has as many
}

// publish begins to publish on a node, which must take it.
func (n *node) publish(s show) *publisher {
	n.t.Helper()
	p, err := n.offer(s)
	if err != nil {
		n.t.Fatalf("publish %s on %s: %v", s.name, n.name, err)
	}
	return p
}

// offer begins to publish if the node takes it, and else fails with its answer.
func (n *node) offer(s show) (*publisher, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	c, err := rtmp.Dial(ctx, n.url("live"))
	if err != nil {
		return nil, err
	}
	if err := c.Publish(ctx, s.name, "live"); err != nil {
		_ = c.Close()
		return nil, err
	}
	ctx, cancel = context.WithCancel(context.Background())
	p := &publisher{by: s.by, client: c, stop: cancel, done: make(chan struct{})}
	answers := make(chan error, 1)
	go func() { answers <- p.listen() }()
	go p.run(ctx, s, answers)
	n.t.Cleanup(p.end)
	return p, nil
}

// standby offers the show again and again, as an encoder does, until it is taken.
func (n *node) standby(s show) *publisher {
	n.t.Helper()
	var p *publisher
	eventually(n.t, s.name+" is taken by "+n.name, func() (err error) {
		p, err = n.offer(s)
		return err
	})
	return p
}

// run sends the frames; answers ends it.
func (p *publisher) run(ctx context.Context, s show, answers <-chan error) {
	defer close(p.done)
	defer func() { p.ended = time.Now() }()
	defer p.client.Close()
	if p.err = p.client.WriteMessage(media.Video, 0, config); p.err != nil {
		return
	}
	began := time.Now()
	for n := 0; ; n++ {
		at := time.Duration(n) * span
		due := began.Add(at)
		select {
		case <-ctx.Done():
			return
		case p.err = <-answers:
			return
		case <-time.After(time.Until(due)):
		}
		frame := body(s.by, n, s.bits/8/rate, due)
		if p.err = p.client.WriteMessage(media.Video, uint32(at.Milliseconds()), frame); p.err != nil {
			select {
			case p.err = <-answers: // a word of the node says more
			case <-time.After(time.Second):
			}
			return
		}
		p.bytes.Add(int64(len(frame)))
	}
}

// sent is how many bytes of frames have been sent.
func (p *publisher) sent() int64 { return p.bytes.Load() }

// listen returns what the node says against the publisher.
func (p *publisher) listen() error {
	for {
		m, err := p.client.Next(context.Background())
		if err != nil {
			return err
		}
		if m.Kind == rtmp.KindStatus && m.Status.Level == "error" {
			return &rtmp.StatusError{Status: m.Status}
		}
	}
}

// end stops the publisher and waits for that.
func (p *publisher) end() {
	p.stop()
	<-p.done
}

// told waits for the publisher to be ended by its node, and returns when that was.
func (p *publisher) told(t *testing.T) time.Time {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("publisher %c is not told within %v", p.by, patience)
	}
	if p.err == nil {
		t.Fatalf("publisher %c was stopped, not told", p.by)
	}
	return p.ended
}

// onAir reports whether the publisher still sends.
func (p *publisher) onAir() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// A viewer watches a channel until it is closed.
type viewer struct {
	t      *testing.T
	where  string
	client *rtmp.Client
	done   chan struct{}

	mu   sync.Mutex
	seen []frame // in the order of their coming
	err  error   // why it ended: errStopped by the node's word, another for a connection that broke
}

var errStopped = errors.New("the node says that the channel has ended")

// watch begins to watch a channel.
func (n *node) watch(name string) *viewer {
	n.t.Helper()
	v, err := n.tune(name)
	if err != nil {
		n.t.Fatalf("watch %s on %s: %v", name, n.name, err)
	}
	return v
}

func (n *node) tune(name string) (*viewer, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	c, err := rtmp.Dial(ctx, n.url("live"))
	if err != nil {
		return nil, err
	}
	if err := c.Play(ctx, name, stream.StartAny, -1, true); err != nil {
		_ = c.Close()
		return nil, err
	}
	v := &viewer{t: n.t, where: name + " on " + n.name, client: c, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		err := v.run()
		v.mu.Lock()
		v.err = err
		v.mu.Unlock()
	}()
	n.t.Cleanup(v.close)
	return v, nil
}

// crowd is so many viewers of a channel.
func (n *node) crowd(name string, size int) []*viewer {
	n.t.Helper()
	list := make([]*viewer, size)
	var all sync.WaitGroup
	for part := range slices.Chunk(list, (size+9)/10) { // ten connect at a time
		all.Go(func() {
			for i := range part {
				part[i] = n.watch(name)
			}
		})
	}
	all.Wait()
	return list
}

func (v *viewer) run() error {
	for {
		m, err := v.client.Next(context.Background())
		if err != nil {
			return err
		}
		if m.Kind == rtmp.KindStatus {
			switch {
			case m.Status.Level == "error":
				return &rtmp.StatusError{Status: m.Status}
			case m.Status.Code == "NetStream.Play.Stop", m.Status.Code == "NetStream.Play.UnpublishNotify":
				return errStopped
			}
		}
		f, ok, err := read(m)
		if err != nil {
			return err
		}
		if ok {
			v.mu.Lock()
			v.seen = append(v.seen, f)
			v.mu.Unlock()
		}
	}
}

// close ends the viewer and waits for that.
func (v *viewer) close() {
	_ = v.client.Close()
	<-v.done
}

// frames returns what has come since a time; the zero time is the beginning.
func (v *viewer) frames(since time.Time) []frame {
	v.mu.Lock()
	defer v.mu.Unlock()
	i, _ := slices.BinarySearchFunc(v.seen, since, func(f frame, t time.Time) int { return f.came.Compare(t) })
	return slices.Clone(v.seen[i:])
}

// ended is why the viewer has ended, nil while it watches.
func (v *viewer) ended() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// from waits until the viewer has a frame of a publisher that was sent after a
// time, and returns it.
func (v *viewer) from(by byte, after time.Time) (got frame) {
	v.t.Helper()
	eventually(v.t, fmt.Sprintf("%s has frames of publisher %c", v.where, by), func() error {
		frames := v.frames(after)
		i := slices.IndexFunc(frames, func(f frame) bool { return f.by == by && f.sent.After(after) })
		if i < 0 {
			return fmt.Errorf("%d frames since, ended: %v", len(frames), v.ended())
		}
		got = frames[i]
		return nil
	})
	return got
}

// ends waits until the node ends the viewer in order.
func (v *viewer) ends() {
	v.t.Helper()
	eventually(v.t, v.where+" ends", func() error {
		if v.ended() == nil {
			return errors.New("it is still watching")
		}
		return nil
	})
	if !errors.Is(v.ended(), errStopped) {
		v.t.Errorf("%s: %v", v.where, v.ended())
	}
}

// whole checks that the viewer is there and that what it has got since a time has no gap and no jump in
// time: all of it from one publisher.
func (v *viewer) whole(since time.Time) {
	v.t.Helper()
	frames := v.frames(since)
	if err := v.ended(); err != nil || len(frames) == 0 {
		v.t.Errorf("%s: %d frames, ended: %v", v.where, len(frames), err)
		return
	}
	v.unbroken(frames)
}

func (v *viewer) unbroken(frames []frame) {
	v.t.Helper()
	for i, f := range frames[1:] {
		if before := frames[i]; f.by != before.by || f.n != before.n+1 || f.dts != before.dts+span {
			v.t.Errorf("%s: frame %c%d at %v follows on %c%d at %v", v.where, f.by, f.n, f.dts, before.by, before.n, before.dts)
			return
		}
	}
}

// steady checks that the viewer is there, that its time has only gone on since a time, and by what has
// really passed, within two seconds; it returns the longest time without a frame.
func (v *viewer) steady(since time.Time) (pause time.Duration) {
	v.t.Helper()
	frames := v.frames(since)
	if err := v.ended(); err != nil || len(frames) == 0 {
		v.t.Errorf("%s: %d frames, ended: %v", v.where, len(frames), err)
		return 0
	}
	first := frames[0]
	for i, f := range frames[1:] {
		before := frames[i]
		if f.dts <= before.dts {
			v.t.Errorf("%s: time goes from %v (%c%d) to %v (%c%d)", v.where, before.dts, before.by, before.n, f.dts, f.by, f.n)
		}
		pause = max(pause, f.came.Sub(before.came))
		if drift := f.dts - first.dts - f.sent.Sub(first.sent); drift.Abs() > 2*time.Second {
			v.t.Errorf("%s: frame %c%d is at %v, %v from the time that has passed", v.where, f.by, f.n, f.dts, drift)
			return pause
		}
	}
	return pause
}
