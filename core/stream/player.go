// A player: its mailbox, its goroutine, and how events become steps of the table.

package stream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

const (
	// maxEvents is how many events may wait for a player that is writing.
	// What comes beyond is dropped and counted: no client sends that many.
	maxEvents = 64
	// maxList is how many plays may follow the one that is running.
	maxList = 64
)

var (
	errClosed  = errors.New("the client has left")
	errStopped = errors.New("the server is shutting down")
	errFull    = errors.New("the playlist is full")
)

// A player plays to one viewer. Its goroutine is the machine: it takes one event
// after another, and between them, while playing, sends what is due. While a round does
// that there is no goroutine.
type player struct {
	stage  *stream
	viewer Viewer
	prompt Prompt          // the viewer, or nil
	ctx    context.Context // ends with the viewer, by Close, or by the stage
	cancel context.CancelCauseFunc
	done   chan struct{} // closed by the stage when the goroutine has ended
	quiet  chan struct{} // closed when the stage drains and nothing plays

	mu    sync.Mutex
	inbox []event         // at most maxEvents, and a drain
	calm  context.Context // ends when an event comes in
	wake  context.CancelFunc

	// The rest belongs to the goroutine.
	state    state
	err      error // of the viewer; final
	draining bool
	buffer   time.Duration
	off      map[media.Track]bool // turned off by the client
	list     []*Request           // what to play next
	later    []event              // postponed until what is being opened is open
	offset   time.Duration        // client's time at which an appended play begins
	opening  *opening             // nil when none is under way
	current
	pace
}

func newPlayer(s *stream, v Viewer) *player {
	p := &player{
		stage:  s,
		viewer: v,
		done:   make(chan struct{}),
		quiet:  make(chan struct{}),
		buffer: defaultBuffer,
	}
	p.prompt, _ = v.(Prompt)
	p.ctx, p.cancel = context.WithCancelCause(v.Context())
	p.calm, p.wake = context.WithCancel(p.ctx)
	return p
}

// The methods of Player.

func (p *player) Play(r Request) {
	r.Start, r.Length = bound(r.Start), bound(r.Length)
	p.post(event{kind: play, req: &r})
}

func (p *player) Seek(to time.Duration)  { p.post(event{kind: seek, at: bound(to)}) }
func (p *player) Buffer(d time.Duration) { p.post(event{kind: buffer, at: d}) }

func (p *player) Receive(track media.Track, on bool) {
	p.post(event{kind: receive, track: track, on: on})
}

func (p *player) Pause(on bool, at time.Duration) {
	e := event{kind: unpause, at: bound(at)}
	if on {
		e.kind = pause
	}
	p.post(e)
}

func (p *player) Close() {
	p.cancel(errClosed)
	<-p.done
}

// bound keeps a time that a client names where sums of times do not overflow.
func bound(d time.Duration) time.Duration { return min(max(d, -longest), longest) }

// post puts e into the mailbox and wakes the goroutine.
func (p *player) post(e event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.inbox) >= maxEvents && e.kind != drain {
		p.stage.metrics.dropped.Inc()
		return
	}
	p.inbox = append(p.inbox, e)
	p.wake()
}

// take returns the next event if there is one. When there is none, p.calm ends
// as soon as there is.
func (p *player) take() (event, bool) {
	if p.opening == nil && len(p.later) > 0 {
		e := p.later[0]
		p.later = slices.Delete(p.later, 0, 1)
		return e, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.inbox) > 0 {
		e := p.inbox[0]
		p.inbox = slices.Delete(p.inbox, 0, 1)
		return e, true
	}
	if p.calm.Err() != nil {
		p.calm, p.wake = context.WithCancel(p.ctx)
	}
	return event{}, false
}

// run is the goroutine, from the beginning or since p has left a round.
func (p *player) run() {
	if p.round != nil {
		p.alight()
	}
	for p.ctx.Err() == nil && p.err == nil {
		e := p.next()
		if e.kind == riding {
			p.board()
			return
		}
		p.handle(e)
	}
	p.cancel(errClosed)
	p.leave()
	p.stage.forget(p)
	close(p.done)
}

// next waits for an event. While playing it waits by sending what is due.
func (p *player) next() event {
	if e, ok := p.take(); ok {
		return e
	}
	switch {
	case p.opening != nil:
		select {
		case <-p.calm.Done():
		case r := <-p.opening.done:
			return p.arrived(r)
		}
	case p.state == playing:
		return p.work()
	case p.state == paused && p.source != nil:
		return p.watch()
	default:
		<-p.calm.Done()
	}
	return event{kind: none}
}

func (p *player) arrived(r result) event {
	p.opening.cancel()
	p.opening = nil
	if r.purpose == toPlay {
		p.pass = r.pass
	}
	if v, ok := p.viewer.(Redirector); ok && r.elsewhere != "" {
		p.stage.metrics.redirects.Inc()
		p.say(v.Redirect(r.elsewhere))
	}
	if r.err != nil {
		return event{kind: refused, err: r.err}
	}
	return event{kind: opened, open: r}
}

// handle does what an event asks for.
func (p *player) handle(e event) {
	switch e = p.sort(e); e.kind {
	case none:
	case buffer:
		p.buffer = min(max(e.at, minBuffer), maxBuffer)
	case receive:
		p.receive(e)
	default:
		if step := table[p.state][e.kind]; step.do != nil {
			step.do(p, e)
			p.state = step.next
		}
	}
	if p.draining && p.opening == nil && p.state != playing {
		select {
		case <-p.quiet:
		default:
			close(p.quiet)
		}
	}
}

// sort tells apart the events that look alike to who sent them.
func (p *player) sort(e event) event {
	switch e.kind {
	case pause:
		if p.state == stopped && p.info.Live {
			e.kind = none // there will be nothing to go on with
		}
	case seek:
		if p.opening == nil && p.beyond(e.at) {
			e.kind = misseek
		}
	case play:
		switch {
		case p.draining:
			e.kind, e.err = deny, errStopped
		case e.req.Append && len(p.list) >= maxList:
			e.kind, e.err = deny, errFull
		case e.req.Append:
			e.kind = queue
		}
	case ended:
		if len(p.list) > 0 {
			e.kind = turned
		}
	case drain:
		p.draining = true
		return p.drained()
	}
	return e
}

// drained is what the stage's stopping comes to: live media end, and so does what
// waits for them, and recorded media go on.
func (p *player) drained() event {
	switch {
	case p.state == waiting && (p.opening.purpose == toPlay || p.info.Live):
		return event{kind: refused, err: errStopped}
	case p.on && p.info.Live:
		p.list = nil
		return event{kind: ended, err: errStopped}
	}
	return event{kind: none}
}

func (p *player) receive(e event) {
	switch {
	case e.on:
		delete(p.off, e.track)
	case p.off == nil:
		p.off = map[media.Track]bool{e.track: true}
	default:
		p.off[e.track] = true
	}
	p.fed = p.feeds(p.source)
	p.viewer.Receive(e.track, e.on)
}
