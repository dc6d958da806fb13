// A viewer that keeps what it is told, and readers with media made for it.

package stream

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

var header = &media.Header{
	Video: media.Format{Codec: "h264", Config: []byte{0x17, 0}},
	Audio: media.Format{Codec: "aac", Config: []byte{0xaf, 0}},
}

// screen is a Viewer.
type screen struct {
	ctx   context.Context
	leave context.CancelFunc

	mu     sync.Mutex
	lines  []string // what was sent, one line each
	shown  []shot   // the frames
	zero   time.Duration
	begun  bool          // frames may be sent
	floor  time.Duration // of the first frame since the last play or seek; None before it
	aim    time.Duration // where the next first frame has to be; None when it may be anywhere
	wrong  string        // what may never be
	broken error         // what calls return
	stall  chan struct{} // Write waits for it
}

// A shot is a frame that was sent, with the client's time.
type shot struct {
	media.Frame
	client time.Duration
	at     time.Time
}

func newScreen() *screen {
	v := &screen{floor: media.None, aim: media.None}
	v.ctx, v.leave = context.WithCancel(context.Background())
	return v
}

func (v *screen) Context() context.Context { return v.ctx }

func (v *screen) log(format string, args ...any) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lines = append(v.lines, fmt.Sprintf(format, args...))
	return v.broken
}

func (v *screen) Event(e Event) error {
	switch e {
	case Begin:
		v.begun = true
	case EOF:
		v.begun = false
	}
	return v.log("event %s", map[Event]string{Begin: "Begin", EOF: "EOF", Dry: "Dry", Recorded: "Recorded"}[e])
}

func (v *screen) Status(s Status) error {
	if s.Code == codeStart || s.Code == codeSeek {
		v.floor = media.None
	}
	return v.log("%s %s", s.Level, strings.TrimPrefix(s.Code, "NetStream."))
}

func (v *screen) Access() error { return v.log("access") }

func (v *screen) Complete(d time.Duration, bytes int64) error {
	return v.log("complete %v %d bytes", d, bytes)
}

func (v *screen) Timeline(zero time.Duration) {
	v.zero = zero
	_ = v.log("timeline %v", zero)
}

func (v *screen) Leave(why error) { _ = v.log("leave: %v", why) }

func (v *screen) Redirect(url string) error { return v.log("redirect %s", url) }

func (v *screen) Receive(t media.Track, on bool) { _ = v.log("receive %v %v", t, on) }

// Write logs a batch by the client's time of its first and last frame.
func (v *screen) Write(batches []*media.Batch) error {
	if v.stall != nil {
		<-v.stall
	}
	for _, b := range batches {
		frames := b.Frames()
		v.mu.Lock()
		if !v.begun {
			v.wrong = "frames outside of Begin and EOF"
		}
		for _, f := range frames {
			switch {
			case v.floor == media.None && !f.Key:
				v.wrong = fmt.Sprintf("the first frame is %v at %v, no keyframe", f.Track, f.DTS)
			case v.floor == media.None && v.aim != media.None && f.DTS != v.aim:
				v.wrong = fmt.Sprintf("a seek led to %v and not to %v", f.DTS, v.aim)
			case v.floor == media.None:
				v.floor, v.aim = f.DTS, media.None
			case f.DTS < v.floor:
				v.wrong = fmt.Sprintf("a frame at %v is from before the seek to %v", f.DTS, v.floor)
			}
			v.shown = append(v.shown, shot{f, f.DTS - v.zero, time.Now()})
		}
		v.mu.Unlock()
		what := frames[0].Track.String()
		if frames[0].Key {
			what += " key"
		}
		what += fmt.Sprintf(" %v", frames[0].DTS-v.zero)
		if n := len(frames); n > 1 {
			what += fmt.Sprintf(" to %v", frames[n-1].DTS-v.zero)
		}
		if err := v.log("%s", what); err != nil {
			return err
		}
	}
	return nil
}

// fail makes all calls fail.
func (v *screen) fail(err error) {
	v.mu.Lock()
	v.broken = err
	v.mu.Unlock()
}

// said returns what was sent since the last call.
func (v *screen) said() string {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	s := strings.Join(v.lines, "\n")
	v.lines = nil
	return s
}

// frames returns all frames that were sent.
func (v *screen) frames() []shot {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.shown
}

// statuses is said with only the statuses left in.
func (v *screen) statuses() string {
	var out []string
	for line := range strings.SplitSeq(v.said(), "\n") {
		if strings.HasPrefix(line, "status") || strings.HasPrefix(line, "error") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// A film is recorded media: a keyframe each second, video and audio frames each 100 ms.
type film struct {
	info media.Info
	gops []*media.Batch
	fail map[int]error // of reading a GOP
}

func newFilm(name string, start time.Duration, seconds int) *film {
	f := &film{info: media.Info{Name: name, Start: start, Duration: time.Duration(seconds) * time.Second}}
	b := media.NewBuilder(media.NoClock)
	for i := range 10 * seconds {
		at := start + time.Duration(i)*100*ms
		if i%10 == 0 && i > 0 {
			f.gops = append(f.gops, b.Batch(header))
		}
		b.Copy(video(at, i%10 == 0))
		b.Copy(audio(at + 50*ms))
	}
	f.gops = append(f.gops, b.Batch(header))
	return f
}

func video(at time.Duration, key bool) media.Frame {
	return media.Frame{Track: media.Video, Key: key, DTS: at, PTS: at, Body: make([]byte, 10)}
}

func audio(at time.Duration) media.Frame {
	return media.Frame{Track: media.Audio, DTS: at, PTS: at, Body: make([]byte, 5)}
}

// library is a Reader of films and channels.
type library struct {
	mu       sync.Mutex
	films    map[string]*film
	channels map[string]*channel
	delay    time.Duration // of Open
	err      error         // of Open
	redirect string        // where clients are sent that can follow
	open     int           // sources that are
	opens    int           // calls
}

func (l *library) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	l.mu.Lock()
	l.opens++
	delay, err, f, c := l.delay, l.err, l.films[req.Name], l.channels[req.Name]
	l.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case err != nil:
		return nil, err
	case l.redirect != "" && req.Redirects:
		return nil, &media.RedirectError{URL: l.redirect}
	case f != nil && !req.LiveOnly:
		s := &reel{film: f, library: l}
		for s.next+1 < len(f.gops) && f.gops[s.next+1].DTS() <= req.From {
			s.next++
		}
		l.count(1)
		return s, nil
	case c != nil && !req.RecordedOnly:
		return c.open(ctx, l, req)
	}
	return nil, fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
}

// set is how long Open takes from now on, and its error.
func (l *library) set(delay time.Duration, err error) {
	l.mu.Lock()
	l.delay, l.err = delay, err
	l.mu.Unlock()
}

func (l *library) count(n int) {
	l.mu.Lock()
	l.open += n
	l.mu.Unlock()
}

// A reel is an open film.
type reel struct {
	*film
	library *library
	next    int
	once    sync.Once
}

func (s *reel) Info() media.Info { return s.info }
func (s *reel) Buffered() int    { return len(s.gops) - s.next }

func (s *reel) Next(context.Context) (*media.Batch, error) {
	if err := s.fail[s.next]; err != nil {
		return nil, err
	}
	if s.next == len(s.gops) {
		return nil, io.EOF
	}
	s.next++
	return s.gops[s.next-1], nil
}

func (s *reel) Close() error {
	s.once.Do(func() { s.library.count(-1) })
	return nil
}

// A channel is live media. Every batch has one frame.
type channel struct {
	mu     sync.Mutex
	onAir  bool
	over   bool
	frames []*media.Batch
	change chan struct{} // closed when any of these changes
	skip   int           // cursors are moved by it to the end
}

func newChannel() *channel { return &channel{change: make(chan struct{})} }

func (c *channel) update(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	close(c.change)
	c.change = make(chan struct{})
}

func (c *channel) end() { c.update(func() { c.over = true }) }

// push adds frames as a film has them, from one time to another.
func (c *channel) push(from, to time.Duration) {
	c.update(func() {
		c.onAir = true
		for at := from; at < to; at += 100 * ms {
			c.frames = append(c.frames,
				media.NewBatch(header, media.NoClock, video(at, at%time.Second == 0)),
				media.NewBatch(header, media.NoClock, audio(at+50*ms)))
		}
	})
}

func (c *channel) open(ctx context.Context, l *library, req media.OpenRequest) (media.Source, error) {
	for {
		c.mu.Lock()
		onAir, change := c.onAir, c.change
		c.mu.Unlock()
		if onAir {
			break
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Second):
			return nil, fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
		}
	}
	l.count(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &cursor{channel: c, library: l, skips: c.skip, closed: make(chan struct{})}
	for i, b := range c.frames {
		if b.Join() && (req.From == media.Newest || b.DTS() <= req.From) {
			s.next = i
		}
	}
	return s, nil
}

// A cursor is an open channel.
type cursor struct {
	*channel
	library *library
	next    int
	skips   int
	closed  chan struct{}
	once    sync.Once
}

func (s *cursor) Info() media.Info { return media.Info{Name: "channel", Live: true} }
func (s *cursor) Skips() int       { return s.skips }

func (s *cursor) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.frames) - s.next
}

func (s *cursor) Next(ctx context.Context) (*media.Batch, error) {
	for {
		s.mu.Lock()
		if s.skip > s.skips {
			s.skips = s.skip
			for i, b := range s.frames {
				if b.Join() {
					s.next = i
				}
			}
		}
		if s.next < len(s.frames) {
			b := s.frames[s.next]
			s.next++
			s.mu.Unlock()
			return b, nil
		}
		over, change := s.over, s.change
		s.mu.Unlock()
		if over {
			return nil, io.EOF
		}
		select {
		case <-change:
		case <-s.closed:
			return nil, media.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *cursor) Close() error {
	s.once.Do(func() { close(s.closed); s.library.count(-1) })
	return nil
}

// door is a Front with one app.
type door struct {
	app       string
	newPlayer func(Viewer) Player
	removed   bool
}

func (d *door) HandlePlay(app string, newPlayer func(Viewer) Player) (func(), error) {
	d.app, d.newPlayer = app, newPlayer
	return func() { d.removed = true }, nil
}

// house is a running stage.
type house struct {
	*library
	*door
	stage *stream
	stop  context.CancelFunc
	done  chan error
}

// newHouse serves films "film" (10 s), "odd" (5 s from 1 h) and the channel "live".
func newHouse(t *testing.T) *house {
	t.Helper()
	l := &library{
		films:    map[string]*film{"film": newFilm("film", 0, 10), "odd": newFilm("odd", time.Hour, 5)},
		channels: map[string]*channel{"live": newChannel()},
	}
	h := &house{library: l, door: &door{}, done: make(chan error, 1)}
	env := stage.Env{
		Name:    "test/stream",
		Log:     hclog.NewNullLogger(),
		Metrics: prometheus.NewRegistry(),
		Inputs:  []stage.Input{{Name: "test/library", Reader: l}},
		Drain:   10 * time.Second,
	}
	s, err := Kind(h.door, nil).New(env, &settings{App: "vod", Serve: []Form{RTMP}, Latency: Auto, Access: access.Defaults()})
	if err != nil {
		t.Fatal(err)
	}
	h.stage = s.(*stream)
	var ctx context.Context
	ctx, h.stop = context.WithCancel(context.Background())
	go func() { h.done <- s.Serve(ctx) }()
	synctest.Wait()
	return h
}

// close ends the stage, after which no source may be open.
func (h *house) close(t *testing.T) {
	t.Helper()
	h.stop()
	if err := <-h.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if h.open != 0 {
		t.Errorf("%d sources are open after the end", h.open)
	}
	if !h.removed {
		t.Error("the app is still served after the end")
	}
}

// watch connects a viewer.
func (h *house) watch() (Player, *screen) {
	v := newScreen()
	return h.newPlayer(v), v
}

// ask is a request for name from its start to its end.
func ask(name string) Request { return Request{App: "vod", Name: name, Start: StartAny, Length: -1} }
