// Sending: what is due, as much of it at once as is sensible, and what of it the
// client is to have.

package stream

import (
	"errors"
	"io"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A Skipper is a Source that moves past frames when its reader is too slow, such
// as a cursor of a broadcast. Skips is how often it did: when that changes with a
// call of Next, the batch is no continuation of the one before.
type Skipper interface{ Skips() int }

// Recorded media are sent ahead of the client's clock by its buffer and slack.
//
// The buffer is what the client says it keeps, within bounds. The lower one keeps
// players from running dry that say 0 for "as soon as possible". The upper one is
// what rtmpdump says, which downloads and does not watch: a large buffer costs the
// server bandwidth but no memory, since at most one batch is read before it is due.
//
// What is due is sent on the next beat, which is within the slack.
const (
	slack         = time.Second
	beat          = slack / 10
	defaultBuffer = 3 * time.Second // as ffmpeg
	minBuffer     = 100 * time.Millisecond
	maxBuffer     = 10 * time.Hour
)

// maxWrite is the size in bytes from which no more batches are gathered into one write.
const maxWrite = 256 << 10

// pace is the state of sending from one source.
type pace struct {
	batch   *media.Batch // read, and not sent
	fresh   bool         // batch is no continuation of the one before
	skipper Skipper      // the source, or nil
	fed     Fed          // the source, or nil when it is none or nothing can be sent in a round
	owed    bool         // the viewer has something left to write
	round   *round       // which p is in, or has just left
	before  int          // what it had sent to others before p rode
	stay    func() bool  // keeps an event from taking p off the round; false: it has done so
	alone   bool         // the round has left what comes next to p
	dry     bool         // nothing has come for a while, which the client is to be told
	skips   int
	base    time.Duration  // the client plays, or is about to,
	since   time.Time      // at this time
	out     []*media.Batch // of the write under way
	jump    bool           // out is no continuation of what was sent
	kept    []media.Frame  // of the batch that is cut
}

// attach begins to send from s, whose first batch may have been read already. The
// client is about to play at start.
func (p *player) attach(s media.Source, first *media.Batch, start time.Duration) {
	p.batch, p.fresh, p.jump = first, false, true
	p.base, p.since = start, time.Now()
	if first != nil {
		p.base = max(start, first.DTS())
	}
	if p.skipper, _ = s.(Skipper); p.skipper != nil {
		p.skips = p.skipper.Skips()
	}
	p.fed = p.feeds(s)
}

func (p *player) detach() { p.batch, p.skipper, p.fed, p.dry = nil, nil, nil, false }

// feeds returns s if p can be sent in rounds what s reads: all of it, and without waiting.
func (p *player) feeds(s media.Source) Fed {
	if p.prompt == nil || len(p.off) > 0 {
		return nil
	}
	fed, _ := s.(Fed)
	return fed
}

// work sends what is due, and returns what came of it. It waits for that until
// p.calm ends.
func (p *player) work() event {
	if p.rides() && !p.alone {
		return event{kind: riding}
	}
	p.alone = false
	if p.dry {
		p.dry = false
		p.stage.metrics.dries.Inc()
		p.event(Dry)
	}
	if p.batch == nil {
		if err := p.fetch(); err != nil {
			return p.stuck(err)
		}
	}
	if !p.wait(p.early()) {
		return event{kind: none}
	}
	if p.jump || p.fresh {
		p.place(p.batch.DTS())
	}
	e := p.gather()
	if len(p.out) > 0 {
		p.send(p.out)
	}
	p.drop()
	if p.err != nil {
		return event{kind: none}
	}
	return e
}

// drop empties p.out: the batches are not kept alive by an idle viewer, nor is
// room for as many as a joiner is sent at first.
func (p *player) drop() {
	clear(p.out)
	if p.out = p.out[:0]; cap(p.out) > 32 {
		p.out = nil
	}
}

// gather moves what can be sent in one write to p.out.
func (p *player) gather() event {
	for size := 0; ; {
		b, last := p.cut(p.batch)
		p.jump = p.jump || p.fresh
		p.batch, p.fresh = nil, false
		if b != nil {
			p.out = append(p.out, b)
			size += b.Size()
		}
		if last {
			return event{kind: ended}
		}
		if size >= maxWrite || !p.more() {
			return event{kind: none}
		}
		if err := p.fetch(); err != nil {
			return p.stuck(err)
		}
		if p.fresh && len(p.out) > 0 || !p.info.Live && p.early() > 0 {
			return event{kind: none}
		}
	}
}

// more reports whether the source has a batch at hand.
func (p *player) more() bool {
	b, ok := p.source.(media.Buffered)
	return ok && b.Buffered() > 0
}

// fetch reads p.batch.
func (p *player) fetch() error {
	b, err := p.source.Next(p.calm)
	if err != nil {
		return err
	}
	p.batch = b
	if p.skipper != nil {
		if n := p.skipper.Skips(); n != p.skips {
			p.stage.metrics.skips.Add(float64(n - p.skips))
			if p.skips == 0 {
				p.stage.env.Log.Info("viewer is too slow and is moved to a newer keyframe, more of it is only counted", "name", p.req.Name, "remote", p.req.Remote)
			}
			p.skips, p.fresh = n, true
		}
	}
	return nil
}

// stuck is the event of an error of the source. One that is due to an event that
// came in meanwhile is none.
func (p *player) stuck(err error) event {
	switch {
	case p.calm.Err() != nil:
		return event{kind: none}
	case errors.Is(err, io.EOF):
		return event{kind: ended, err: io.EOF}
	}
	return event{kind: broken, err: err}
}

// early is how long it is until p.batch is due. Live media that go on wait for
// those with which they are written; where that is done in rounds, rounds do it.
func (p *player) early() time.Duration {
	switch {
	case !p.info.Live:
		return p.stage.beat(p.batch.DTS() - p.base - p.buffer - slack - time.Since(p.since))
	case p.fed == nil && !p.jump:
		if b, ok := p.source.(media.Buffered); ok && b.Buffered() == 0 {
			return p.stage.rounds.latency.hold(0)
		}
	}
	return 0
}

// beat puts off what is due in d until the next beat, which all players have in common: those
// that wake together cost less than those that wake one by one.
func (s *stream) beat(d time.Duration) time.Duration {
	if d <= 0 {
		return d
	}
	past := (time.Since(s.began) + d) % beat
	return d + (beat-past)%beat
}

// wait waits for d, and reports false when an event comes first.
func (p *player) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.calm.Done():
		return false
	}
}

// cut returns what of b is to be sent, nil when nothing is, and whether it is the last.
func (p *player) cut(b *media.Batch) (out *media.Batch, last bool) {
	if p.req.Length == 0 {
		return media.NewBatch(b.Header(), b.Prev(), b.Frames()[0]), true
	}
	prev := b.Prev()
	p.kept = p.kept[:0]
	for _, f := range b.Frames() {
		switch {
		case f.DTS <= *p.through.At(f.Track):
			*prev.At(f.Track) = f.DTS
		case f.DTS >= p.until:
			last = true
		default:
			p.kept = append(p.kept, f)
		}
	}
	switch len(p.kept) {
	case len(b.Frames()):
		out = b
	case 0:
	default:
		out = media.NewBatch(b.Header(), prev, p.kept...)
	}
	clear(p.kept)
	return out, last
}

// send writes batches that continue each other.
func (p *player) send(batches []*media.Batch) {
	if p.jump {
		p.viewer.Timeline(p.zero)
		p.jump = false
	}
	if p.say(p.viewer.Write(batches)); p.err != nil {
		return
	}
	frames, bytes := p.count(batches)
	p.stage.metrics.frames.Add(float64(frames))
	p.stage.metrics.bytes.Add(float64(bytes))
}

// count notes what was sent, and returns how much that is.
func (p *player) count(batches []*media.Batch) (frames, bytes int) {
	for _, b := range batches {
		for _, f := range b.Frames() {
			*p.sent.At(f.Track) = f.DTS
			if !p.off[f.Track] {
				frames++
				bytes += len(f.Body)
			}
		}
	}
	p.from = p.sent.Max()
	p.bytes += bytes
	return frames, bytes
}

// place puts live media on the client's timeline. What comes next begins at first.
func (p *player) place(first time.Duration) {
	if !p.info.Live {
		return
	}
	last := p.sent.Max()
	switch {
	case p.zero == media.None: // the client joins
		p.zero = first - p.offset
		p.limit(first)
	case last != media.None && first < last: // another publisher's timeline, after a pause
		p.zero += first - last
	}
	if p.origin == media.None {
		p.origin = first
	}
}
