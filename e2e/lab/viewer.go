// A viewer who counts the frames.

package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stream"
)

// A Viewer plays and expects each frame to have the number after the one before
// it on its track.
type Viewer struct {
	Client *rtmp.Client
	name   string
	film   int // its frames, which are played over and over; 0: live
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	seen   map[media.Track]int    // the last number, none before the first
	times  map[media.Track]uint32 // and its time
	last   time.Time              // when a frame came
	frames int
	plays  int
	err    error
}

// Watch plays the live channel APP/NAME.
func (d *Daemon) Watch(path string) (*Viewer, error) { return d.view(path, 0) }

// Screen plays the film APP/NAME over and over, as fast as it comes. It has a
// number of frames on each track.
func (d *Daemon) Screen(path string, frames int) (*Viewer, error) { return d.view(path, frames) }

func (d *Daemon) view(path string, film int) (*Viewer, error) {
	at := strings.LastIndexByte(path, '/')
	ctx, cancel := context.WithCancel(context.Background())
	c, err := rtmp.Dial(ctx, d.URL(path[:at]))
	if err != nil {
		cancel()
		return nil, err
	}
	v := &Viewer{Client: c, name: path[at+1:], film: film, cancel: cancel, done: make(chan struct{})}
	if err := v.play(ctx); err != nil {
		cancel()
		return nil, errors.Join(err, c.Close())
	}
	go v.run(ctx)
	return v, nil
}

func (v *Viewer) play(ctx context.Context) error {
	v.mu.Lock()
	v.seen, v.times = map[media.Track]int{}, map[media.Track]uint32{}
	v.mu.Unlock()
	start := stream.StartAny
	if v.film > 0 {
		start = 0
	}
	return v.Client.Play(ctx, v.name, start, -1, true)
}

func (v *Viewer) run(ctx context.Context) {
	defer close(v.done)
	for {
		m, err := v.Client.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = v.take(ctx, m)
		}
		if err != nil {
			v.mu.Lock()
			v.err = fmt.Errorf("the viewer of %s, after %d frames: %w", v.name, v.frames, err)
			v.mu.Unlock()
			return
		}
	}
}

func (v *Viewer) take(ctx context.Context, m rtmp.Message) error {
	switch {
	case m.Kind == rtmp.KindStatus && m.Status.Level == "error":
		return &rtmp.StatusError{Status: m.Status}
	case m.Kind == rtmp.KindStatus && m.Status.Code == "NetStream.Play.Stop" && v.film > 0:
		return v.again(ctx)
	case m.Kind == rtmp.KindStatus && m.Status.Code == "NetStream.Play.UnpublishNotify":
		return errors.New("the channel is off the air")
	case m.Kind == rtmp.KindMedia:
		return v.count(m)
	}
	return nil
}

// again begins the film again, which must have come whole.
func (v *Viewer) again(ctx context.Context) error {
	v.mu.Lock()
	seen := v.seen
	v.plays++
	v.mu.Unlock()
	for _, t := range []media.Track{media.Video, media.Audio} {
		if last, ok := seen[t]; !ok || last != v.film-1 {
			return fmt.Errorf("the film ends after %v frame %d, it has %d", t, last, v.film)
		}
	}
	return v.play(ctx)
}

func (v *Viewer) count(m rtmp.Message) error {
	n, ok := Number(m.Track, m.Body)
	if !ok {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	last, follows := v.seen[m.Track]
	begins := n == 0 || v.film == 0
	another := v.film == 0 && n%Epoch == 0 && n > last
	switch {
	case !follows && !begins, follows && n != last+1 && !another:
		return fmt.Errorf("%v frame %d came after frame %d", m.Track, n, last)
	case follows && m.Time-v.times[m.Track] > maxStep:
		return fmt.Errorf("%v frame %d is at %d ms, the one before it at %d", m.Track, n, m.Time, v.times[m.Track])
	}
	v.seen[m.Track], v.times[m.Track] = n, m.Time
	v.frames++
	v.last = time.Now()
	return nil
}

// maxStep is how much later a frame may be than the one before it, in milliseconds.
const maxStep = 60_000

// Seen is the number of the frame up to which all have come, -1 before the first.
func (v *Viewer) Seen() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := -1
	for _, last := range v.seen {
		if all < 0 || last < all {
			all = last
		}
	}
	return all
}

// Idle is how long no frame has come.
func (v *Viewer) Idle() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Since(v.last)
}

// Frames is how many frames have come.
func (v *Viewer) Frames() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.frames
}

// Plays is how often a film came to its end.
func (v *Viewer) Plays() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.plays
}

// Err is what went wrong: a frame that is missing or came twice, the end.
func (v *Viewer) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Until waits until frame n of the video has come.
func (v *Viewer) Until(n int, limit time.Duration) error {
	return Eventually(limit, func() error {
		seen := v.Seen()
		if seen >= n {
			return nil
		}
		if err := v.Err(); err != nil {
			return Final(err)
		}
		return fmt.Errorf("the viewer of %s has seen frame %d, not yet %d", v.name, seen, n)
	})
}

// Close leaves, and says what went wrong before.
func (v *Viewer) Close() error {
	v.cancel()
	_ = v.Client.Close()
	<-v.done
	return v.Err()
}
