// The timeline of a channel, made from the timestamps that publishers send.

package ingest

import (
	"time"

	"github.com/mediad/mediad/core/media"
)

// A timestamp that leads out of this range around where its track should be has
// jumped: the encoder was restarted, its clock was set. All others are left as
// they are.
const (
	maxForward = 10 * time.Second // beyond the time that has really passed
	maxBack    = 3 * time.Second
)

// timeline turns 32-bit millisecond timestamps, which wrap after 49 days, start
// anywhere and jump, into the DTS of a channel that only goes on.
type timeline struct {
	audio, video, data place
	newest             place // the largest DTS given out, and when the last frame came
	started            bool

	// A timestamp plus offset is a DTS. When timestamps jump, the tracks do so
	// one after the other, so the offset from before is kept as well.
	offset, previous time.Duration
	last             uint32        // the last timestamp that fitted offset
	lastLong         time.Duration // the same, unwrapped

	jumps, reordered int
}

// place is where a track is: its last DTS and when that frame came, the zero
// time when none came yet.
type place struct {
	dts time.Duration
	at  time.Time
}

// startAt returns a timeline whose first frame has the given DTS.
func startAt(dts time.Duration) timeline { return timeline{newest: place{dts: dts}} }

func (t *timeline) track(track media.Track) *place {
	switch track {
	case media.Audio:
		return &t.audio
	case media.Video:
		return &t.video
	}
	return &t.data
}

// dts returns the DTS of a frame with the timestamp, which arrived now.
func (t *timeline) dts(track media.Track, timestamp uint32, now time.Time) time.Duration {
	// The difference modulo 2^32 as a signed number takes both the wrap and
	// small steps back for what they are.
	long := t.lastLong + time.Duration(int32(timestamp-t.last))*time.Millisecond
	if !t.started {
		t.started = true
		long = time.Duration(timestamp) * time.Millisecond
		t.offset = t.newest.dts - long
		t.previous = t.offset
		t.newest.at = now
	}
	p := t.track(track)
	expected := *p
	if p.at.IsZero() {
		expected = t.newest
	}
	passed := now.Sub(t.newest.at)
	switch {
	case expected.fits(long+t.offset, now):
		t.last, t.lastLong = timestamp, long
		return t.put(p, long+t.offset, now)
	case expected.fits(long+t.previous, now):
		return t.put(p, long+t.previous, now)
	case track == media.Data: // cue points and the like often come with timestamp 0
		return t.put(p, t.newest.dts, now)
	}
	t.jumps++
	t.previous = t.offset
	t.offset = t.newest.dts + min(max(passed.Truncate(time.Millisecond), time.Millisecond), maxForward) - long
	t.last, t.lastLong = timestamp, long
	return t.put(p, long+t.offset, now)
}

// fits reports whether dts is about where the time that has passed leads to.
func (p place) fits(dts time.Duration, now time.Time) bool {
	return dts >= p.dts-maxBack && dts <= p.dts+now.Sub(p.at)+maxForward
}

// put moves the track to dts. Within a track the DTS never run backwards: a
// frame that would is put at the time of the one before it.
func (t *timeline) put(p *place, dts time.Duration, now time.Time) time.Duration {
	if !p.at.IsZero() && dts < p.dts {
		t.reordered++
		dts = p.dts
	}
	*p = place{dts, now}
	t.newest = place{max(t.newest.dts, dts), now}
	return dts
}
