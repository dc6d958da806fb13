// What the steps of the table do: the conversation with the client, in the order
// that clients rely on.

package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/media"
)

// current is the play under way, or the last one.
//
// Two timelines meet here. The media's own is that of the frames; the client's
// time is the media's minus zero. Recorded media have zero at the position that
// play asked for: librtmp adds that to the timestamps itself, and resumes a download
// only if the keyframe there has the time 0. Live media have it where the client
// joined. What is appended to a list goes on where the one before it ended.
type current struct {
	req   *Request  // nil before the first play
	on    bool      // the play has not ended
	began time.Time // zero before that
	bytes int       // sent
	pass  *access.Pass

	source  media.Source // nil while paused
	info    media.Info   // of the source that was opened last
	zero    time.Duration
	listed  bool          // recorded, and not the first of its list
	origin  time.Duration // of the first frame since the last seek; None before it
	target  time.Duration // where the opening under way is to lead
	from    time.Duration // where to go on after a pause; may be media.Newest
	until   time.Duration // frames from here on are not sent
	sent    media.Clock   // since the last seek
	through media.Clock   // frames up to here are not sent: the client has them
}

// forever is the until of a play to the end; longest is the longest time that a
// client can name.
const (
	forever time.Duration = math.MaxInt64
	longest time.Duration = math.MaxInt64 / 4
)

// Codes of onStatus (RTMP 1.0, 7.2.2, and Flash Media Server for those it leaves out).
const (
	codeReset     = "NetStream.Play.Reset"
	codeStart     = "NetStream.Play.Start"
	codeStop      = "NetStream.Play.Stop"
	codeUnpublish = "NetStream.Play.UnpublishNotify"
	codeNotFound  = "NetStream.Play.StreamNotFound"
	codeFailed    = "NetStream.Play.Failed"
	codePause     = "NetStream.Pause.Notify"
	codeUnpause   = "NetStream.Unpause.Notify"
	codeSeek      = "NetStream.Seek.Notify"
	codeNoSeek    = "NetStream.Seek.Failed"
	codeNoTime    = "NetStream.Seek.InvalidTime"
)

// say keeps the first error of the viewer, which ends the player.
func (p *player) say(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *player) event(e Event) { p.say(p.viewer.Event(e)) }

func (p *player) status(code, format string, args ...any) {
	p.say(p.viewer.Status(Status{"status", code, fmt.Sprintf(format, args...), nil}))
}

// refuse sends a status of level error, on which many clients leave.
func (p *player) refuse(name, code, reason string, err error) {
	p.say(p.viewer.Status(Status{"error", code, fmt.Sprintf("cannot play %s: %s", name, reason), err}))
}

// begin is a play that replaces what there is.
func (p *player) begin(e event) {
	p.end("replaced", nil)
	p.list, p.later = nil, nil
	if !e.req.Append {
		p.offset = 0
	}
	p.request(e.req)
}

func (p *player) request(r *Request) {
	p.current = current{
		req: r, on: true,
		target: max(r.Start, 0), until: forever, zero: media.None, origin: media.None,
		sent: media.NoClock, through: media.NoClock,
	}
	p.stage.metrics.plays.Inc()
	p.open(toPlay, requests(r)...)
}

// append puts a play into the list.
func (p *player) append(e event) { p.list = append(p.list, e.req) }

// deny refuses a play and leaves the one under way alone.
func (p *player) deny(e event) { p.refuse(e.req.Name, codeFailed, e.err.Error(), e.err) }

// postpone keeps a pause or a seek until the media are open. One that follows
// another of its sort takes its place: of a row of seeks only the last matters.
func (p *player) postpone(e event) {
	if last := len(p.later) - 1; last >= 0 && (p.later[last].kind == seek) == (e.kind == seek) {
		p.later[last] = e
		return
	}
	if len(p.later) == maxEvents {
		p.stage.metrics.dropped.Inc()
		return
	}
	p.later = append(p.later, e)
}

// start begins to play what was opened, or goes on with it. GStreamer wants
// Play.Reset or Play.Start as the first status; ffmpeg wants Seek.Notify before
// any frame of the new place.
func (p *player) start(e event) {
	p.seat(e.open)
	switch e.open.purpose {
	case toPlay:
		if !p.info.Live {
			p.event(Recorded)
		}
		p.event(Begin)
		if !p.req.Append {
			p.status(codeReset, "playing and resetting %s", p.req.Name)
		}
		p.status(codeStart, "playing %s", p.req.Name)
		p.say(p.viewer.Access())
		p.announce()
	case toSeek:
		p.status(codeSeek, "seeking %s", p.req.Name)
		p.event(Begin)
		p.status(codeStart, "playing %s", p.req.Name)
	case toResume:
		p.event(Begin)
		p.status(codeUnpause, "playing %s", p.req.Name)
	}
}

// announce counts and logs that play begins.
func (p *player) announce() {
	p.began = time.Now()
	p.stage.watching(p.req, 1)
	p.stage.env.Log.Info("play begins", "name", p.req.Name, "remote", p.req.Remote, "live", p.info.Live)
}

// align puts recorded media on the client's timeline. For live ones place does it.
func (p *player) align() {
	p.target += p.info.Start
	p.zero = p.target
	if p.listed = p.offset > 0; p.listed {
		p.zero = p.origin - p.offset
	}
	p.limit(p.target)
}

// limit sets where a play with a length ends that starts at start.
func (p *player) limit(start time.Duration) {
	if p.req.Length >= 0 {
		p.until = start + max(p.req.Length, time.Millisecond)
	}
}

// seat makes what was opened the source, in place of the one there was.
func (p *player) seat(r result) {
	p.release()
	p.source, p.info = r.source, r.source.Info()
	if r.purpose != toResume {
		p.sent, p.through, p.origin = media.NoClock, media.NoClock, media.None
		if r.first != nil {
			p.origin = r.first.DTS()
		}
		switch {
		case r.purpose == toPlay && !p.info.Live:
			p.align()
		case r.purpose == toSeek && p.target < p.zero: // before the client's time 0: that begins again
			p.zero = p.origin
		}
		p.from = p.target
	}
	p.attach(r.source, r.first, p.from)
}

// release closes the source.
func (p *player) release() {
	p.detach()
	if p.source != nil {
		_ = p.source.Close()
		p.source = nil
	}
}

// pause stops sending. A paused film has no source, since it may be so for days.
// Live media go on from the newest keyframe; their source tells when they end.
func (p *player) pause(e event) {
	p.stage.metrics.pauses.Inc()
	p.confirmPause(e)
	p.event(EOF)
	if !p.info.Live {
		p.release()
		return
	}
	p.detach()
	p.from = media.Newest
}

// watch waits for the end of live media that are paused, or until p.calm ends.
func (p *player) watch() event {
	for {
		_, err := p.source.Next(p.calm)
		if err == nil {
			continue
		}
		e := p.stuck(err)
		if e.kind == broken { // found again, or not, when the pause ends
			p.release()
			e.kind = none
		}
		return e
	}
}

func (p *player) confirmPause(event) { p.status(codePause, "%s is paused", p.req.Name) }

func (p *player) confirmUnpause(event) { p.status(codeUnpause, "playing %s", p.req.Name) }

// resume opens the media where the client was when it paused. It has thrown away
// what was sent for later, so everything after that time is sent (RTMP 1.0,
// 7.2.2.9). A client cannot be before the first frame that it was given.
func (p *player) resume(e event) {
	p.through = media.NoClock
	if p.from != media.Newest {
		at := max(p.position(e.at), p.origin)
		p.from = min(p.from, at)
		for _, t := range []media.Track{media.Audio, media.Video, media.Data} {
			*p.through.At(t) = min(at, *p.sent.At(t))
		}
		p.sent = p.through
	}
	p.open(toResume, p.again(p.from))
}

// position is the client's time at on the media's timeline.
func (p *player) position(at time.Duration) time.Duration {
	if p.zero == media.None {
		return media.Newest // no frame of live media has come yet
	}
	return p.zero + at
}

// again asks for the same media at another position.
func (p *player) again(from time.Duration) media.OpenRequest {
	return media.OpenRequest{
		Name: p.req.Name, From: from,
		LiveOnly: p.info.Live, RecordedOnly: !p.info.Live,
	}
}

// seek opens the media at another position.
func (p *player) seek(e event) {
	p.stage.metrics.seeks.Inc()
	p.target = p.aim(e.at)
	if !p.info.Live {
		p.target = max(p.target, p.info.Start)
	}
	p.open(toSeek, p.again(p.target))
}

// replay is a seek after the end.
func (p *player) replay(e event) {
	p.revive()
	p.seek(e)
}

// pauseEnd is a pause after the end.
func (p *player) pauseEnd(e event) {
	p.revive()
	p.pause(e)
}

// revive makes the play that has ended one that is under way.
func (p *player) revive() {
	p.on, p.bytes = true, 0
	p.stage.metrics.plays.Inc()
	p.announce()
}

// aim is where a seek to at leads. It counts from the start of recorded media
// even when the client's time does not, as librtmp takes it; in a list, where
// several have a start, and in live media it counts in the client's time.
func (p *player) aim(at time.Duration) time.Duration {
	if p.info.Live || p.listed {
		return p.position(at)
	}
	return p.info.Start + at
}

// beyond reports whether there is nothing that a seek to at could lead to.
func (p *player) beyond(at time.Duration) bool {
	if p.info.Live {
		return p.state == stopped
	}
	return p.info.Duration > 0 && p.aim(at) > p.info.Start+p.info.Duration
}

// land goes on from where a seek has led to.
func (p *player) land(e event) {
	p.event(EOF)
	p.status(codeSeek, "seeking %s", p.req.Name)
	p.event(Begin)
	p.status(codeStart, "playing %s", p.req.Name)
	p.seat(e.open)
}

// show is the end of a seek while paused: the client gets the picture there.
func (p *player) show(e event) {
	p.status(codeSeek, "seeking %s", p.req.Name)
	p.seat(e.open)
	first := e.open.first
	p.place(first.DTS())
	if f := first.Frames()[0]; f.Track == media.Video && f.DTS < p.until {
		p.event(Begin)
		p.send([]*media.Batch{media.NewBatch(first.Header(), first.Prev(), f)})
		p.event(EOF)
	}
	p.from = p.target
	p.release()
}

// failSeek refuses a seek. The level is status, since ffmpeg leaves on an error.
func (p *player) failSeek(e event) {
	switch e.kind {
	case misseek:
		p.status(codeNoTime, "there is nothing at that time")
	case refused:
		_, _, reason := describe(e.err)
		p.status(codeNoSeek, "cannot seek: %s", reason)
	default:
		p.status(codeNoSeek, "cannot seek: nothing is played")
	}
}

// finish is the end of the list: the media have ended, as e.err says, or what was
// asked for of them has been sent.
func (p *player) finish(e event) {
	p.event(EOF)
	p.offset = p.endTime()
	if p.info.Live && e.err != nil {
		p.status(codeUnpublish, "%s is off the air", p.req.Name)
		cause := "unpublished"
		if errors.Is(e.err, errStopped) {
			cause = "drained"
		}
		p.end(cause, nil)
		return
	}
	duration := p.info.Duration
	if duration == 0 || p.until != forever {
		duration = max(p.sent.Max(), p.origin) - p.origin
	}
	p.say(p.viewer.Complete(duration, int64(p.bytes)))
	p.status(codeStop, "%s has ended", p.req.Name)
	p.end("completed", nil)
}

// turn goes on to the next of the list. Play.Stop and Play.Complete are left for
// its end, since clients take them for the end of everything.
func (p *player) turn(event) {
	p.event(EOF)
	p.offset = p.endTime()
	p.end("completed", nil)
	next := p.list[0]
	p.list = p.list[1:]
	p.request(next)
}

// turnPaused does so for a client that has paused: it gets nothing of the next either
// until it goes on.
func (p *player) turnPaused(e event) {
	p.turn(e)
	p.postpone(event{kind: pause})
}

// endTime is the client's time at which what comes next begins.
func (p *player) endTime() time.Duration {
	last := p.sent.Max()
	if last == media.None {
		return p.offset
	}
	end := last
	if p.info.Duration > 0 {
		end = min(p.info.Start+p.info.Duration, p.until)
	}
	return max(end, last+time.Millisecond) - p.zero
}

// fail is a play that could not be opened, or that broke off.
func (p *player) fail(e event) {
	cause, code, reason := describe(e.err)
	p.refuse(p.req.Name, code, reason, e.err)
	p.list, p.later = nil, nil
	p.end(cause, e.err)
}

// leave is the end of the player.
func (p *player) leave() {
	why := context.Cause(p.ctx)
	kicked := errors.Is(why, access.ErrKicked)
	switch {
	case errors.Is(p.err, os.ErrDeadlineExceeded):
		p.end("slow", p.err)
	case p.err != nil:
		p.end("left", p.err)
	case p.on && (kicked || errors.Is(why, errStopped)):
		p.fail(event{err: why})
	default:
		p.end("left", nil)
	}
	if v, ok := p.viewer.(Leaver); ok && kicked { // it may have nothing else on its connection
		v.Leave(why)
	}
}

// end ends the play under way, if there is one.
func (p *player) end(cause string, err error) {
	p.abandon()
	p.release()
	if !p.on {
		return
	}
	p.on = false
	p.pass.Done(int64(p.bytes))
	p.pass = nil
	p.stage.metrics.ends.WithLabelValues(cause).Inc()
	log := p.stage.env.Log.With("name", p.req.Name, "remote", p.req.Remote, "reason", cause)
	if err != nil {
		log = log.With("error", err)
	}
	if p.began.IsZero() {
		log.Info("play did not begin")
		return
	}
	p.stage.watching(p.req, -1)
	log.Info("play ends", "seconds", time.Since(p.began).Seconds(), "bytes", p.bytes)
	p.began = time.Time{}
}

// describe says what an error is counted as, its code, and what a client may know
// of it: neither paths nor addresses.
func describe(err error) (cause, code, reason string) {
	var redirect *media.RedirectError
	var refusal *access.Refusal
	switch {
	case errors.As(err, &refusal):
		return "refused", codeFailed, refusal.Error()
	case errors.Is(err, media.ErrNotFound):
		return "not_found", codeNotFound, "there is no such stream"
	case errors.Is(err, media.ErrDenied):
		return "denied", codeFailed, "it is not allowed"
	case errors.Is(err, media.ErrUnavailable):
		return "unavailable", codeFailed, "it is not available at this time"
	case errors.Is(err, media.ErrChanged):
		return "changed", codeFailed, "it has changed while it was played"
	case errors.Is(err, errStopped):
		return "drained", codeFailed, errStopped.Error()
	case errors.Is(err, access.ErrKicked):
		return "kicked", codeFailed, access.ErrKicked.Error()
	case errors.As(err, &redirect):
		return "redirected", codeFailed, "it is at " + redirect.URL
	}
	return "failed", codeFailed, "the server could not read it"
}
