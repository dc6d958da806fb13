// The index of a file: what ReadIndex finds out about it.

package flv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

const (
	// maxPoints bounds the index of a file: 4 MiB.
	maxPoints = 1 << 18
	// maxChanges is how often the configuration of one file may change.
	maxChanges = 1 << 10
	// maxDuration is the longest that metadata may claim.
	maxDuration = 10 * 365 * 24 * time.Hour
	// headTags and headSpan are how far into a file its tracks are looked for.
	headTags = 256
	headSpan = 1 << 20
)

// A point is where reading can start.
type point struct {
	dts time.Duration
	at  int64 // of the tag
}

// A change is where another header comes into force.
type change struct {
	at     int64
	header *media.Header
}

type index struct {
	first           int64 // where the first tag is
	start, duration time.Duration
	points          []point // in order of both time and place
	// complete says that every join point is in points, each one checked, and
	// every change of the configuration in changes. Points from metadata are not.
	complete bool
	changes  []change // the first is what is in force at the start
}

// ReadIndex returns the index of f. Where the file's own keyframe table holds, it
// reads the beginning and the end, else the heads of all tags.
func ReadIndex(ctx context.Context, f media.File) (media.Index, error) {
	first, tracks, err := readHeader(ctx, f)
	if err != nil {
		return nil, err
	}
	x := &index{first: first}
	r := newTagReader(f, first) // one for all, so that the beginning is read once
	meta, err := x.readHead(ctx, r)
	if err != nil {
		return nil, err
	}
	h := x.changes[0].header
	late := h.Video.Codec == "" || h.Audio.Codec == "" && tracks&hasAudio != 0
	if err := x.fill(ctx, r, meta, !late); err != nil {
		return nil, err
	}
	for i := range x.changes {
		x.changes[i].header = describe(x.changes[i].header, meta, x.duration)
	}
	return x, nil
}

// fill finds the points and the duration: from the file's own table if that
// holds and all tracks are known, else from the tags.
func (x *index) fill(ctx context.Context, r *tagReader, meta amf.Object, known bool) error {
	f := r.f
	claimed := seconds(meta.Get("duration"))
	if f.Size() < 0 { // it can only be read from front to back
		x.duration = claimed
		return nil
	}
	end, ok, err := lastTime(ctx, f)
	if err != nil {
		return err
	}
	// 32 bits of time do not tell whether a file of 49 days has come round.
	near := (end - x.start - claimed).Abs() < 2*time.Second
	if x.points = table(meta, f.Size()); known && ok && near && claimed > 0 && len(x.points) > 0 {
		holds, err := x.holds(ctx, f)
		if holds || err != nil {
			x.duration = claimed
			return err
		}
	}
	return x.scan(ctx, r, claimed)
}

// readHead finds out what tracks there are, from the tags up to the first frames
// of each, and returns the metadata.
func (x *index) readHead(ctx context.Context, r *tagReader) (amf.Object, error) {
	var state State
	var meta amf.Object
	var clock clock
	frames := 0
	for range headTags {
		t, err := r.head(ctx)
		if errors.Is(err, io.EOF) || err == nil && t.at > x.first+headSpan {
			break
		}
		if err != nil {
			return nil, err
		}
		body, err := r.prefix(ctx, t, t.size)
		if err != nil {
			return nil, err
		}
		r.done(t)
		if m, ok := metadata(body); ok && t.track == media.Data {
			if meta == nil {
				meta = decodeMeta(m)
			}
			continue
		}
		dts := clock.time(t.time)
		next := state
		if _, ok, err := next.Push(t.track, dts, body); err == nil && ok {
			if frames == 0 {
				x.start = dts
			}
			frames++
		}
		if replaced(state.Header(), next.Header()) {
			break
		}
		state = next
		if h := state.Header(); frames > 0 && h.Video.Codec != "" && h.Audio.Codec != "" {
			break
		}
	}
	x.changes = []change{{x.first, state.Header()}}
	return meta, nil
}

// replaced says whether a track of h has another format in next.
func replaced(h, next *media.Header) bool {
	return h != next && (h.Video.Codec != "" && !sameFormat(h.Video, next.Video) ||
		h.Audio.Codec != "" && !sameFormat(h.Audio, next.Audio))
}

func sameFormat(a, b media.Format) bool {
	return a.Codec == b.Codec && string(a.Config) == string(b.Config)
}

// decodeMeta returns the object of an onMetaData body.
func decodeMeta(body []byte) amf.Object {
	values, _ := amf.Decode(body)
	if len(values) < 2 {
		return nil
	}
	switch o := values[1].(type) {
	case amf.Object:
		return o
	case amf.ECMAArray:
		return amf.Object(o)
	}
	return nil
}

// seconds returns the duration that v, from metadata, stands for, 0 if for none.
func seconds(v any) time.Duration {
	s, ok := v.(float64)
	if !ok || !(s > 0) || s > maxDuration.Seconds() {
		return 0
	}
	return time.Duration(math.Round(s*1000)) * time.Millisecond
}

// table returns the keyframe table of the metadata (keyframes: {times,
// filepositions}, not in the specification, but written by many tools), up to
// where it makes no sense for a file of size bytes.
func table(meta amf.Object, size int64) []point {
	keyframes, _ := meta.Get("keyframes").(amf.Object)
	if a, ok := meta.Get("keyframes").(amf.ECMAArray); ok {
		keyframes = amf.Object(a)
	}
	times, _ := keyframes.Get("times").(amf.Array)
	places, _ := keyframes.Get("filepositions").(amf.Array)
	var points []point
	for i := range min(len(times), len(places)) {
		s, ok1 := times[i].(float64)
		at, ok2 := places[i].(float64)
		if !ok1 || !ok2 || !(s >= 0 && s < maxDuration.Seconds()) || !(at > 0 && at < float64(size)) {
			return nil
		}
		p := point{time.Duration(math.Round(s*1000)) * time.Millisecond, int64(at)}
		if n := len(points); n > 0 && (p.dts <= points[n-1].dts || p.at <= points[n-1].at) {
			continue // some tools list configuration tags too
		}
		points = append(points, p)
	}
	return points
}

// lastTime returns the time of the last tag, and whether there is one where the
// last PreviousTagSize says.
func lastTime(ctx context.Context, f media.File) (time.Duration, bool, error) {
	r := newTagReader(f, 0)
	r.skips = true
	size := f.Size()
	tail, err := r.bytes(ctx, size-tagTailLen, tagTailLen)
	if err != nil {
		return 0, false, notEOF(err)
	}
	n := int64(tail[0])<<24 | int64(tail[1])<<16 | int64(tail[2])<<8 | int64(tail[3])
	at := size - tagTailLen - n
	if n < tagHeadLen || at < 0 {
		return 0, false, nil
	}
	head, err := r.bytes(ctx, at, tagHeadLen)
	if err != nil {
		return 0, false, notEOF(err)
	}
	t := parseTagHead(head, at)
	return time.Duration(t.time) * time.Millisecond, t.known() && t.next() == size, nil
}

// holds says whether the last and the middle point of a table are keyframes at
// the time that it gives.
func (x *index) holds(ctx context.Context, f media.File) (bool, error) {
	for _, p := range []point{x.points[len(x.points)-1], x.points[len(x.points)/2]} {
		if ok, err := p.holds(ctx, f); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// holds says whether there is a keyframe at p, at p's time.
func (p point) holds(ctx context.Context, f media.File) (bool, error) {
	r := newTagReader(f, p.at)
	r.skips = true
	b, err := r.bytes(ctx, p.at, tagHeadLen)
	if err != nil {
		return false, notEOF(err)
	}
	t := parseTagHead(b, p.at)
	if t.track != media.Video || !r.fits(t.next()-tagTailLen) {
		return false, nil
	}
	body, err := r.prefix(ctx, t, headLen)
	if err != nil {
		return false, notEOF(err)
	}
	packet, err := ParsePacket(t.track, body)
	off := time.Duration(int32(t.time-uint32(p.dts.Milliseconds()))) * time.Millisecond
	return err == nil && packet.Key && off.Abs() < time.Second, nil
}

// scan fills the index from the heads of all tags.
func (x *index) scan(ctx context.Context, r *tagReader, claimed time.Duration) error {
	s := newScanner(x.changes[0])
	r.at, r.skips = x.first, true
	for {
		t, err := r.head(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := s.tag(ctx, r, t); err != nil {
			return err
		}
		r.done(t)
	}
	x.points, x.complete, x.changes = s.points, s.complete, s.changes
	if end := s.ends.Max(); end != media.None {
		x.duration = max(0, end-x.start)
	}
	if near := (x.duration - claimed).Abs() < time.Second; near && claimed > 0 {
		x.duration = claimed
	}
	return nil
}

// A skimmer finds out what the tags of a file are, and looks at no more of a body than it must.
type skimmer struct {
	clock clock
	state State
}

// frame returns the frame of t, with the beginning of its body, and false for a tag that is none.
func (s *skimmer) frame(ctx context.Context, r *tagReader, t tagHead) (f media.Frame, ok bool, err error) {
	body, err := r.prefix(ctx, t, headLen)
	if err != nil {
		return f, false, notEOF(err)
	}
	if _, meta := metadata(body); meta && t.track == media.Data {
		return f, false, nil
	}
	dts := s.clock.time(t.time)
	if t.track != media.Data {
		p, err := ParsePacket(t.track, body)
		if err != nil {
			return f, false, nil
		}
		if p.Kind == Config {
			if body, err = r.prefix(ctx, t, t.size); err != nil {
				return f, false, notEOF(err)
			}
		}
	}
	f, ok, err = s.state.Push(t.track, dts, body)
	return f, ok && err == nil, nil
}

// Skim calls add with each frame of f, as media.Outlined says, until that fails. It reads the
// file through, but makes nothing of it.
func (x *index) Skim(ctx context.Context, f media.File, add func(*media.Header, media.Frame, int) error) error {
	if f.Size() < 0 {
		return errors.ErrUnsupported
	}
	s := skimmer{state: State{x.header(x.first)}}
	r := newTagReader(f, x.first)
	r.skips = true
	for {
		t, err := r.head(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		before := s.state.Header()
		frame, ok, err := s.frame(ctx, r, t)
		if h := s.state.Header(); h != before {
			s.state = x.known(t.at, h)
		}
		if err == nil && ok {
			err = add(s.state.Header(), frame, t.size)
		}
		if err != nil {
			return err
		}
		r.done(t)
	}
}

// known is the state at a place where h comes into force: the index has a description of it.
func (x *index) known(at int64, h *media.Header) State {
	if known := x.header(at); sameFormat(known.Video, h.Video) && sameFormat(known.Audio, h.Audio) {
		return State{known}
	}
	return State{h}
}

// A scanner gathers what a scan finds.
type scanner struct {
	skimmer
	points   []point
	complete bool
	spacing  time.Duration // between points, at least
	video    bool          // there are keyframes; until then the points are of audio
	changes  []change
	last     media.Clock // see extend
	ends     media.Clock
}

func newScanner(start change) *scanner {
	return &scanner{skimmer: skimmer{state: State{start.header}}, complete: true, changes: []change{start},
		last: media.NoClock, ends: media.NoClock}
}

func (s *scanner) tag(ctx context.Context, r *tagReader, t tagHead) error {
	h := s.state.Header()
	frame, ok, err := s.frame(ctx, r, t)
	if err != nil {
		return err
	}
	if next := s.state.Header(); next != h {
		s.changes = append(s.changes, change{t.at, next})
		if len(s.changes) > maxChanges {
			return fmt.Errorf("FLV with more than %d changes of the codec configuration", maxChanges)
		}
	}
	if !ok {
		return nil
	}
	extend(&s.last, &s.ends, frame.Track, frame.DTS)
	s.point(frame, t.at)
	return nil
}

// extend takes note of a frame at a time: of the last frame of each track, and of
// where it ends if it is as long as the one before.
func extend(last, ends *media.Clock, track media.Track, at time.Duration) {
	before, end := last.At(track), ends.At(track)
	long := time.Duration(0)
	if *before != media.None && track != media.Data {
		long = min(max(0, at-*before), time.Second)
	}
	*before, *end = at, max(*end, at+long)
}

// point takes f, at a place, into the index if it is a join point.
func (s *scanner) point(f media.Frame, at int64) {
	least := s.spacing
	switch {
	case f.Key && !s.video:
		s.video, s.points = true, nil
	case f.Key:
	case s.video || f.Track != media.Audio || s.state.Header().Video.Codec != "":
		return
	default:
		least = max(least, media.MaxAudioSpan)
	}
	if n := len(s.points); n > 0 && f.DTS < s.points[n-1].dts+max(least, 1) {
		s.complete = s.complete && !f.Key
		return
	}
	s.points = append(s.points, point{f.DTS, at})
	if len(s.points) < maxPoints {
		return
	}
	s.complete = false
	s.spacing = 2 * (f.DTS - s.points[0].dts) / maxPoints
	s.points = thin(s.points, 2)
}

// thin returns every nth point.
func thin(points []point, n int) []point {
	var kept []point
	for i := 0; i < len(points); i += n {
		kept = append(kept, points[i])
	}
	return kept
}

// A clock makes a timeline of the 32 bits that tags have, which come round after
// 49 days.
type clock struct {
	ms      int64
	started bool
}

func (c *clock) time(ms uint32) time.Duration {
	if !c.started {
		c.started, c.ms = true, int64(ms)
	}
	c.ms += int64(int32(ms - uint32(c.ms)))
	return time.Duration(c.ms) * time.Millisecond
}

func (x *index) Span() (start, duration time.Duration) { return x.start, x.duration }

func (x *index) Bytes() int {
	n := 200 + len(x.points)*16
	for _, c := range x.changes {
		n += 200 + len(c.header.Meta) + len(c.header.Video.Config) + len(c.header.Audio.Config)
	}
	return n
}

// header returns what is in force at a place.
func (x *index) header(at int64) *media.Header {
	i := sort.Search(len(x.changes), func(i int) bool { return x.changes[i].at > at })
	return x.changes[max(0, i-1)].header
}

// before returns the points at or before from, the last first.
func (x *index) before(from time.Duration) []point {
	i := sort.Search(len(x.points), func(i int) bool { return x.points[i].dts > from })
	points := slices.Clone(x.points[max(0, i-4):i])
	slices.Reverse(points)
	return points
}

// describe returns h with the metadata that players are given: the file's own,
// with the true duration and without the places in it, or what there is to say
// if it has none.
func describe(h *media.Header, meta amf.Object, duration time.Duration) *media.Header {
	out := *h
	out.Meta = amf.Append(nil, "onMetaData", metaFor(h, meta, duration))
	return &out
}

// after returns the place of the first point behind at, at itself if there is none.
func (x *index) after(at int64) int64 {
	i := sort.Search(len(x.points), func(i int) bool { return x.points[i].at > at })
	if i == len(x.points) {
		return at
	}
	return x.points[i].at
}
