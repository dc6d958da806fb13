// The moov box: the tracks and their sample tables.

package mp4

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/mediad/mediad/core/media"
)

// A movie is the tracks of a file that can be played, one of each sort.
type movie struct {
	size         int64 // of the file
	scale        int64 // units a second of what is not in a track
	video, audio *track
	others       []string // what is left out, and why
	fragmented   bool
	fragments    int // seen so far
}

// A track is one track and its samples in decode order.
type track struct {
	id      uint32
	kind    media.Track
	scale   int64 // units a second
	offset  int64 // from the track's time to the movie's, in units: its edit list
	delay   int64 // that DTS are earlier than the tables say, in units
	coding  coding
	samples []sample
	end     int64    // DTS behind the last sample, in units
	trex    defaults // of the fragments
}

// A sample is one frame in the file. Times are in the track's units.
type sample struct {
	pos  int64
	dts  int64
	cts  int32
	size uint32
	key  bool
}

// parseMovie reads the moov of a file of size bytes.
func parseMovie(moov []byte, size int64) (*movie, error) {
	m := &movie{size: size, scale: 1}
	mvhd, err := find(moov, "mvhd")
	if err != nil {
		return nil, err
	}
	if mvhd != nil {
		if m.scale, err = parseTimescale(mvhd); err != nil {
			return nil, fmt.Errorf("mvhd: %w", err)
		}
	}
	n := 0
	for b, err := range boxes(moov) {
		if err != nil {
			return nil, err
		}
		if b.kind == "trak" {
			n++
			if err := m.parseTrack(b.body); err != nil {
				return nil, fmt.Errorf("track %d: %w", n, err)
			}
		}
	}
	if m.video == nil && m.audio == nil {
		return nil, fmt.Errorf("no track can be played, of %d: %s", n, strings.Join(m.others, ", "))
	}
	mvex, err := find(moov, "mvex")
	if err != nil || mvex == nil {
		return m, err
	}
	m.fragmented = true
	return m, m.parseDefaults(mvex)
}

// parseTimescale reads the timescale of an mvhd or mdhd (8.2.2, 8.4.2).
func parseTimescale(p []byte) (int64, error) {
	f := fields{p: p}
	version, _ := f.full()
	f.word(version == 1) // creation
	f.word(version == 1) // modification
	scale := int64(f.uint32())
	if f.short || scale == 0 || scale > maxScale {
		return 0, fmt.Errorf("the timescale is %d", scale)
	}
	return scale, nil
}

// parseTrack adds a track to m, or names it among the others.
func (m *movie) parseTrack(trak []byte) error {
	hdlr, err := find(trak, "mdia", "hdlr")
	if err != nil {
		return err
	}
	f := fields{p: hdlr}
	f.full()
	f.skip(4)
	var slot **track
	kind := media.Video
	switch handler := string(f.take(4)); handler {
	case "vide":
		slot = &m.video
	case "soun":
		slot, kind = &m.audio, media.Audio
	default:
		m.leaveOut("a track of kind %q", handler)
		return nil
	}
	t := &track{kind: kind}
	stbl, err := find(trak, "mdia", "minf", "stbl")
	if err != nil {
		return err
	}
	stsd, err := find(stbl, "stsd")
	if err != nil {
		return err
	}
	t.coding, err = parseCoding(kind, stsd)
	var codec unsupported
	switch {
	case errors.As(err, &codec):
		m.leaveOut("%s in %s", kind, string(codec))
		return nil
	case err != nil:
		return fmt.Errorf("stsd: %w", err)
	case *slot != nil:
		m.leaveOut("a second %s track", kind)
		return nil
	}
	*slot = t
	return t.parse(trak, stbl, m)
}

// leaveOut notes what will not be played, at most maxOthers times.
func (m *movie) leaveOut(format string, args ...any) {
	if len(m.others) < maxOthers {
		m.others = append(m.others, fmt.Sprintf(format, args...))
	}
}

const maxOthers = 8

// parse reads a track of m that will be played.
func (t *track) parse(trak, stbl []byte, m *movie) error {
	tkhd, err := find(trak, "tkhd")
	if err != nil {
		return err
	}
	f := fields{p: tkhd}
	version, _ := f.full() // 8.3.2
	f.word(version == 1)
	f.word(version == 1)
	t.id = f.uint32()
	if f.short {
		return errors.New("there is no tkhd")
	}
	mdhd, err := find(trak, "mdia", "mdhd")
	if err != nil {
		return err
	}
	if t.scale, err = parseTimescale(mdhd); err != nil {
		return fmt.Errorf("mdhd: %w", err)
	}
	elst, err := find(trak, "edts", "elst")
	if err != nil {
		return err
	}
	if elst != nil {
		if err := t.parseEdits(elst, m.scale); err != nil {
			return fmt.Errorf("elst: %w", err)
		}
	}
	return t.parseSamples(stbl, m.size)
}

// parseEdits reads how the track's time begins (8.6.6): empty edits that delay it, then
// the time in the track that is the movie's start. Samples before that time
// have to be decoded, so they stay, at earlier times. Further edits are not followed.
func (t *track) parseEdits(elst []byte, scale int64) error {
	f := fields{p: elst}
	version, _ := f.full()
	long := version == 1
	size := 12
	if long {
		size = 20
	}
	edits, err := f.table(size)
	if err != nil {
		return err
	}
	for i := range edits.len() {
		e := edits.at(i)
		duration, start := e.word(long), int64(e.word(long))
		if !long {
			start = int64(int32(start))
		}
		switch {
		case start >= 0 && start <= maxSeconds*t.scale:
			t.offset -= start
			return nil
		case start < 0 && duration <= uint64(maxSeconds*scale):
			t.offset += rescale(int64(duration), t.scale, scale)
		}
		if start >= 0 || t.offset > maxSeconds*t.scale {
			return fmt.Errorf("edit %d is out of reach", i+1)
		}
	}
	return nil
}

// Bounds on times, so that sums in units do not overflow: 68 years, as there are
// recordings that count from 1970, in nanoseconds.
const (
	maxSeconds = 1 << 31
	maxScale   = 1 << 30
)

// rescale returns t*to/from, rounded to the nearest, halves away from zero.
func rescale(t, to, from int64) int64 {
	if t < 0 {
		return -rescale(-t, to, from)
	}
	return t/from*to + (t%from*to+from/2)/from
}

// parseSamples reads the sample tables (8.6, 8.7) of a file of size bytes.
func (t *track) parseSamples(stbl []byte, size int64) error {
	tables, err := parseTables(stbl)
	if err != nil {
		return err
	}
	sizes, n, err := tables.sizes(size)
	if err != nil || n == 0 {
		return err
	}
	t.samples = make([]sample, 0, n)
	dts, deltas, offsets := int64(0), runs{table: tables.stts}, runs{table: tables.ctts}
	key, keys := 0, tables.stss
	err = tables.chunks(func(pos int64, count int) error {
		for ; count > 0 && len(t.samples) < n; count-- {
			i := len(t.samples)
			s := sample{pos: pos, dts: dts, size: sizes(i), key: keys.size == 0}
			if int64(s.size) > size-pos {
				return fmt.Errorf("sample %d ends behind the end of the file", i+1)
			}
			if key < keys.len() && int(keys.at(key).uint32()) == i+1 {
				s.key = true
				key++
			}
			if tables.ctts.size != 0 {
				cts, _ := offsets.next() // those that are missing are zero
				s.cts = int32(cts)       // in version 0 too: writers are lax, and none means 2^31
			}
			delta, ok := deltas.next()
			if !ok {
				return fmt.Errorf("stts has the times of %d samples, there are %d", i, n)
			}
			if err := t.add(s, int64(delta)); err != nil {
				return err
			}
			dts = t.end
			pos += int64(s.size)
		}
		return nil
	})
	if err == nil && len(t.samples) < n {
		err = fmt.Errorf("the chunks hold %d samples, there are %d", len(t.samples), n)
	}
	return err
}

// add appends a sample that lasts for delta units.
func (t *track) add(s sample, delta int64) error {
	if s.size > maxSample {
		return fmt.Errorf("sample %d has %d bytes, at most %d fit into a message", len(t.samples)+1, s.size, maxSample)
	}
	if len(t.samples) == maxSamples {
		return fmt.Errorf("there are more than %d samples", maxSamples)
	}
	if s.dts > maxSeconds*t.scale {
		return fmt.Errorf("the time of sample %d is out of reach", len(t.samples)+1)
	}
	if n := len(t.samples); n > 0 {
		s.dts = max(s.dts, t.samples[n-1].dts)
	}
	t.samples = append(t.samples, s)
	t.end = s.dts + delta
	return nil
}

// tables are the boxes of a stbl that tell of its samples.
type tables struct {
	stts, ctts, stss, stsc table
	stco                   table // or co64
	stsz                   []byte
}

// parseTables finds the tables and checks their sizes.
func parseTables(stbl []byte) (*tables, error) {
	ts := &tables{}
	for b, err := range boxes(stbl) {
		if err != nil {
			return nil, err
		}
		f := fields{p: b.body}
		f.full()
		switch b.kind {
		case "stts":
			ts.stts, err = f.table(8)
		case "ctts":
			ts.ctts, err = f.table(8)
		case "stss":
			ts.stss, err = f.table(4)
		case "stsc":
			ts.stsc, err = f.table(12)
		case "stco":
			ts.stco, err = f.table(4)
		case "co64":
			ts.stco, err = f.table(8)
		case "stsz":
			ts.stsz = f.p
		case "stz2":
			err = errors.New("compact sample sizes are not supported")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b.kind, err)
		}
	}
	return ts, nil
}

// sizes reads stsz (8.7.3): the number of samples and the size of each.
func (ts *tables) sizes(file int64) (size func(i int) uint32, n int, err error) {
	f := fields{p: ts.stsz}
	each := f.uint32()
	if each == 0 {
		t, err := f.table(4)
		if err != nil {
			return nil, 0, fmt.Errorf("stsz: %w", err)
		}
		if t.len() > maxSamples {
			return nil, 0, fmt.Errorf("stsz: there are %d samples, at most %d are read", t.len(), maxSamples)
		}
		return func(i int) uint32 { return t.at(i).uint32() }, t.len(), nil
	}
	count := int64(f.uint32())
	if count > maxSamples || count*int64(each) > file {
		return nil, 0, fmt.Errorf("stsz: %d samples of %d bytes are more than the file holds", count, each)
	}
	return func(int) uint32 { return each }, int(count), nil
}

// chunks calls do with the position and the number of samples of each chunk (8.7.4, 8.7.5).
func (ts *tables) chunks(do func(pos int64, count int) error) error {
	for run := range ts.stsc.len() {
		r := ts.stsc.at(run)
		first, count, description := r.uint32(), r.uint32(), r.uint32()
		last := uint32(ts.stco.len())
		if run+1 < ts.stsc.len() {
			last = ts.stsc.at(run+1).uint32() - 1
		}
		switch {
		case first == 0 || first > last+1 || int64(last) > int64(ts.stco.len()):
			return fmt.Errorf("stsc: run %d is of chunks %d to %d, there are %d", run+1, first, last, ts.stco.len())
		case description != 1:
			return errors.New("stsc: the codec configuration changes midway, which is not supported")
		}
		for chunk := first; chunk <= last; chunk++ {
			pos := ts.stco.at(int(chunk) - 1).word(ts.stco.size == 8)
			if pos > math.MaxInt64 {
				return fmt.Errorf("chunk %d is at byte %d", chunk, pos)
			}
			if err := do(int64(pos), int(count)); err != nil {
				return err
			}
		}
	}
	return nil
}

// runs reads a table of (count, value) value by value.
type runs struct {
	table table
	entry int
	left  uint32
	value uint32
}

func (r *runs) next() (uint32, bool) {
	for r.left == 0 {
		if r.entry == r.table.len() {
			return 0, false
		}
		e := r.table.at(r.entry)
		r.left, r.value = e.uint32(), e.uint32()
		r.entry++
	}
	r.left--
	return r.value, true
}
