// Recorded media as HLS and MP4. Both need to know all frames of a film before the
// first byte: the durations of the segments, and the sizes and times in the moov.
// Some sources know them (media.Outlined); else a film is read through once. What is kept of it are
// tables; its frames are read again, from the cache if there is one, where a
// request begins.

package web

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

const (
	maxFrames = 1 << 22 // of a film: 24 hours with AAC
	unitSize  = 1 << 20
	unitSpan  = time.Second // where there is no video
	scans     = 4           // films read through at a time
	maxNext   = 30 * time.Second
)

// A film is what is kept of one version of recorded media.
type film struct {
	version string
	tag     string // in URLs and as ETag: another one for other tables
	tracks  []track
	start   time.Duration
	head    []byte // of the MP4: ftyp, moov, and the head of the media data
	size    int64  // of the media data
	units   []unit
	parts   []part
}

// A unit is what is read and written at a time: the frames from a keyframe to the next
// one, or to unitSize. In the media data, its samples of one track follow those of the other.
type unit struct {
	from   time.Duration // the join point to open at
	skip   int           // frames after it
	frames int
	start  time.Duration // of the first frame
	join   bool
	at     int64            // in the media data
	ends   [2]time.Duration // of the last sample of each track
}

// A part is units that are a segment of HLS.
type part struct {
	first, last int // the last one excluded
	duration    time.Duration
}

// partTarget is the least duration of a segment; it ends with a GOP.
const partTarget = 4 * time.Second

// A scanner makes a film of the frames that it is given.
type scanner struct {
	film
	header *media.Header
	tables []*table
	from   time.Duration
	count  int // frames after from
	total  int
	bytes  [2]int64 // of the last unit, by track
	first  [2]int   // samples before the last unit, by track
	before [][2]int // first of all units
}

// scan makes the film of a source: of its outline if it has one, else it is read through.
func scan(ctx context.Context, source media.Source) (*film, error) {
	s := newScanner(source)
	err := media.Outline(ctx, source, s.add)
	var own *httpError
	switch {
	case err == nil:
		return s.finish()
	case errors.As(err, &own), ctx.Err() != nil:
		return nil, err
	}
	s = newScanner(source)
	for {
		next, cancel := context.WithTimeout(ctx, maxNext)
		b, err := source.Next(next)
		cancel()
		if errors.Is(err, io.EOF) {
			return s.finish()
		}
		if err == nil {
			err = s.addAll(b)
		}
		if err != nil {
			return nil, err
		}
	}
}

func newScanner(source media.Source) *scanner {
	return &scanner{film: film{version: source.Info().Version}}
}

func (s *scanner) addAll(b *media.Batch) error {
	for _, f := range b.Frames() {
		if err := s.add(b.Header(), f, len(f.Body)); err != nil {
			return err
		}
	}
	return nil
}

// add takes the next frame, whose body has a size and may be cut off behind the codec header.
func (s *scanner) add(h *media.Header, f media.Frame, size int) error {
	switch {
	case s.header == nil:
		if err := s.begin(h, f.DTS); err != nil {
			return err
		}
	case h != s.header && (!sameFormat(h.Video, s.header.Video) || !sameFormat(h.Audio, s.header.Audio)):
		return notAcceptable("the codec configuration changes at %v: it can only be watched as FLV", f.DTS-s.start)
	case s.total == maxFrames:
		return notAcceptable("it has more than %d frames, too many for HLS and MP4", maxFrames)
	}
	if f.Key && f.DTS > s.from && s.video() {
		s.from, s.count = f.DTS, 0
	}
	if s.full(f) {
		s.cut(f)
	}
	s.sample(f, size)
	return nil
}

func notAcceptable(format string, args ...any) error {
	return &httpError{http.StatusNotAcceptable, fmt.Sprintf(format, args...)}
}

func (s *scanner) begin(h *media.Header, at time.Duration) (err error) {
	s.header, s.start, s.from = h, at, at
	if s.tracks, _, err = tracksOf(s.header); err != nil {
		return err
	}
	for _, t := range s.tracks {
		s.tables = append(s.tables, &table{track: t})
	}
	s.units = []unit{{from: s.from, start: s.from, join: true}}
	s.before = [][2]int{{}}
	return nil
}

// video says whether there is any. Sound alone has join points wherever its reader divides
// it, so its units are found by their time.
func (f *film) video() bool { return f.tracks[0].kind == media.Video }

// full says whether f begins another unit.
func (s *scanner) full(f media.Frame) bool {
	u := &s.units[len(s.units)-1]
	switch {
	case u.frames == 0:
		return false
	case !s.video():
		return f.DTS-u.start >= unitSpan
	}
	return f.Key || s.bytes[0]+s.bytes[1] > unitSize
}

// cut begins another unit with f.
func (s *scanner) cut(f media.Frame) {
	s.endChunks()
	u := unit{from: s.from, skip: s.count, start: f.DTS, join: f.Key, at: s.size}
	if !s.video() {
		u.from, u.skip, u.join = f.DTS, 0, true
	}
	s.units = append(s.units, u)
	s.before = append(s.before, s.first)
}

// endChunks lays out the last unit.
func (s *scanner) endChunks() {
	for i, t := range s.tables {
		if n := len(t.sizes) - s.first[i]; n > 0 {
			t.chunks = append(t.chunks, chunk{s.size, uint32(n)})
			s.size += s.bytes[i]
		}
		s.bytes[i], s.first[i] = 0, len(t.sizes)
	}
}

// sample puts f into the tables. Decoding times do not go back there.
func (s *scanner) sample(f media.Frame, size int) {
	s.count++
	s.total++
	s.units[len(s.units)-1].frames++
	for i, t := range s.tables {
		if t.kind != f.Track {
			continue
		}
		n, ok := t.sampleSize(f, size)
		if !ok {
			return
		}
		at := max((f.DTS - s.start).Milliseconds(), 0)
		if n := len(t.times); n > 0 {
			at = max(at, t.times[n-1])
		}
		t.times = append(t.times, at)
		t.offsets = append(t.offsets, int32((f.PTS-s.start).Milliseconds()-at))
		t.sizes = append(t.sizes, uint32(n))
		if f.Key {
			t.keys = append(t.keys, uint32(len(t.sizes)))
		}
		s.bytes[i] += int64(n)
	}
}

func (s *scanner) finish() (*film, error) {
	if s.header == nil {
		return nil, fmt.Errorf("%w: it has no frames", media.ErrNotFound)
	}
	s.endChunks()
	s.before = append(s.before, s.first)
	var length int64
	for i, t := range s.tables {
		if n := len(t.times); n > 0 {
			t.end = t.times[n-1]
			if n > 1 {
				t.end += t.times[n-1] - t.times[n-2]
			}
		}
		length = max(length, t.end)
		for j := range s.units {
			end := t.end
			if next := s.before[j+1][i]; next < len(t.times) {
				end = t.times[next]
			}
			s.units[j].ends[i] = s.start + time.Duration(end)*time.Millisecond
		}
	}
	s.divide(s.start + time.Duration(length)*time.Millisecond)
	data := mdatHead(s.size)
	// The places of the chunks count from the end of the head, whose size does not depend on them.
	size := len(movie(s.tables, 0)) + len(data)
	s.head = append(movie(s.tables, int64(size)), data...)
	sum := fnv.New64a()
	_, _ = sum.Write(append([]byte(s.version), s.head...))
	s.tag = fmt.Sprintf("%016x", sum.Sum64())
	film := s.film
	return &film, nil
}

// divide makes the segments of media that end at end.
func (s *scanner) divide(end time.Duration) {
	begin := 0
	for i, u := range s.units {
		if i == 0 || !u.join || u.start-s.units[begin].start < partTarget {
			continue
		}
		s.parts = append(s.parts, part{begin, i, u.start - s.units[begin].start})
		begin = i
	}
	s.parts = append(s.parts, part{begin, len(s.units), max(end-s.units[begin].start, time.Millisecond)})
}

// bytes is the memory that f holds.
func (f *film) bytes() int { return len(f.head) + len(f.units)*88 + len(f.parts)*24 }

// A projector reads the units of a film one after another.
type projector struct {
	film   *film
	source media.Source
	next   int // unit
	frames []media.Frame
	runs   [2]run
}

// project opens name, of which f was made, at a unit. What has changed meanwhile is an error.
func (a *app) project(ctx context.Context, f *film, name string, at int) (*projector, error) {
	u := f.units[at]
	source, err := a.Reader.Open(ctx, media.OpenRequest{Name: name, From: u.from, RecordedOnly: true})
	if err != nil {
		return nil, err
	}
	p := &projector{film: f, source: source, next: at}
	if err := p.seek(ctx, u); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *projector) seek(ctx context.Context, u unit) error {
	if v := p.source.Info().Version; v != p.film.version {
		return fmt.Errorf("%w: it is another version", media.ErrChanged)
	}
	if err := p.read(ctx); err != nil {
		return err
	}
	if p.film.video() && p.frames[0].DTS != u.from {
		return fmt.Errorf("%w: it begins at %v, not at %v", media.ErrChanged, p.frames[0].DTS, u.from)
	}
	for skip := u.skip; ; {
		n := min(skip, len(p.frames))
		p.frames, skip = p.frames[n:], skip-n
		for !p.film.video() && len(p.frames) > 0 && p.frames[0].DTS < u.from {
			p.frames = p.frames[1:]
		}
		if len(p.frames) > 0 {
			return nil
		}
		if err := p.read(ctx); err != nil {
			return err
		}
	}
}

// read reads the next batch.
func (p *projector) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxNext)
	defer cancel()
	b, err := p.source.Next(ctx)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends before its tables do", media.ErrChanged)
	}
	if err != nil {
		return err
	}
	p.frames = b.Frames()
	return nil
}

// unit returns the samples of the next unit, by track. They are valid until the next call.
func (p *projector) unit(ctx context.Context) ([]run, error) {
	f := p.film
	u, end := f.units[p.next], f.size
	if p.next+1 < len(f.units) {
		end = f.units[p.next+1].at
	}
	for i := range p.runs {
		p.runs[i] = run{p.runs[i].samples[:0], u.ends[i]}
	}
	size := int64(0)
	for left := u.frames; left > 0; left-- {
		if len(p.frames) == 0 {
			if err := p.read(ctx); err != nil {
				return nil, err
			}
		}
		frame := p.frames[0]
		p.frames = p.frames[1:]
		for i := range f.tracks {
			if f.tracks[i].kind != frame.Track {
				continue
			}
			if data, ok := f.tracks[i].sample(frame); ok {
				p.runs[i].samples = append(p.runs[i].samples, sample{frame.DTS, frame.PTS, frame.Key || frame.Track == media.Audio, data})
				size += int64(len(data))
			}
		}
	}
	if size != end-u.at {
		return nil, fmt.Errorf("%w: from %v on it has other frames", media.ErrChanged, u.start)
	}
	p.next++
	return p.runs[:len(f.tracks)], nil
}

func (p *projector) close() { _ = p.source.Close() }

// films are those whose tables are kept, within a bound on their memory.
type films struct {
	max     int
	metrics *metrics
	scans   chan struct{} // a slot for each

	mu    sync.Mutex
	bytes int
	known map[filmKey]*filmEntry
}

type filmKey struct {
	app  *app
	name string
}

// A filmEntry is a film, or the reading of it.
type filmEntry struct {
	version string
	used    time.Time
	done    chan struct{} // closed when the rest is set
	film    *film
	err     error
	at      time.Time // of err
}

func newFilms(limit int, m *metrics) *films {
	return &films{max: limit, metrics: m, scans: make(chan struct{}, scans), known: map[filmKey]*filmEntry{}}
}

// film returns the film of source, which it closes, and which is read through when that
// has not been done. That goes on when ctx ends: somebody will ask again.
func (a *app) film(ctx context.Context, name string, source media.Source) (*film, error) {
	x, l := a.server.films, a.server.limits
	key, version := filmKey{a, name}, source.Info().Version
	x.mu.Lock()
	e := x.known[key]
	if e == nil || e.version != version || e.err != nil && time.Since(e.at) > l.Idle {
		x.drop(key)
		e = &filmEntry{version: version, done: make(chan struct{})}
		x.known[key] = e
		a.work.Go(func() { x.scan(a, key, e, source) })
	} else {
		_ = source.Close()
	}
	e.used = time.Now()
	x.mu.Unlock()
	timer := time.NewTimer(l.Wait)
	defer timer.Stop()
	select {
	case <-e.done:
		return e.film, e.err
	case <-timer.C:
		return nil, fmt.Errorf("%w: it is being read through", media.ErrUnavailable)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// find returns the film with a tag, if its tables are kept.
func (x *films) find(key filmKey, tag string) *film {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.known[key]
	if e == nil || e.film == nil || e.film.tag != tag {
		return nil
	}
	e.used = time.Now()
	return e.film
}

// scan fills e, and makes room for it.
func (x *films) scan(a *app, key filmKey, e *filmEntry, source media.Source) {
	defer source.Close()
	var f *film
	var err error
	select {
	case x.scans <- struct{}{}:
		f, err = scan(a.ctx, source)
		<-x.scans
	case <-a.ctx.Done():
		err = a.ctx.Err()
	}
	if err != nil {
		a.server.log.Info("a film cannot be watched as HLS or MP4", "app", a.name, "name", key.name, "error", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	e.film, e.err, e.at = f, err, time.Now()
	close(e.done)
	if err != nil || x.known[key] != e {
		return
	}
	x.bytes += f.bytes()
	for x.bytes > x.max {
		oldest := key
		for k, other := range x.known {
			if other.film != nil && other.used.Before(x.known[oldest].used) {
				oldest = k
			}
		}
		x.drop(oldest)
		if oldest == key {
			break
		}
	}
	x.count()
}

// drop forgets a film. Those who have it, and those who wait for it, go on.
func (x *films) drop(key filmKey) {
	e := x.known[key]
	if e == nil {
		return
	}
	delete(x.known, key)
	if e.film != nil {
		x.bytes -= e.film.bytes()
	}
	x.count()
}

// forget drops the films of an app, and a film that has changed.
func (x *films) forget(which func(filmKey) bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key := range x.known {
		if which(key) {
			x.drop(key)
		}
	}
}

func (x *films) count() {
	x.metrics.films.Set(float64(len(x.known)))
	x.metrics.filmBytes.Set(float64(x.bytes))
}
