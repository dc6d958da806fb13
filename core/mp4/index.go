// The index: what to read for each batch, packed small.

package mp4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

// An Index knows the batches of a file. It implements media.Index.
type Index struct {
	header       *media.Header
	video, audio coding
	notes        []string
	start, end   int64 // ms
	parts        []part
	// plan has the frames of all parts. Each is uvarints: its size with two bits
	// below it, for a keyframe and for the track; and varints: how much later it is
	// than the frame before in ms, how far behind the end of the track's last sample it lies, and
	// for video its composition time in ms. Each part starts anew, at its own
	// time and at byte 0 of the file.
	plan []byte
}

// A part is one batch.
type part struct {
	dts  int64 // ms
	at   uint32
	join bool
}

// A frame is what the plan has of a frame.
type frame struct {
	track media.Track
	key   bool
	size  int
	pos   int64
	dts   int64 // ms
	cts   int64 // ms, video only
}

// The two bits below a frame's size.
const (
	keyBit   = 1
	audioBit = 2
	sizeBits = 2
)

// frameCost is what a frame adds to a batch besides its body. It bounds the
// frames in a batch.
const frameCost = 64

// newIndex puts the samples of a movie into one order and divides them into parts.
func newIndex(m *movie) (*Index, error) {
	x := &Index{notes: m.others, end: math.MinInt64}
	meta := amf.ECMAArray{{Key: "duration"}}
	header := &media.Header{}
	if t := m.video; t != nil {
		t.delay = t.mostNegative()
		x.video, header.Video = t.coding, t.coding.format
		meta = append(meta, t.videoMeta()...)
	}
	if t := m.audio; t != nil {
		x.audio, header.Audio = t.coding, t.coding.format
		meta = append(meta, t.audioMeta()...)
	}
	// Times before zero come from edit lists. FLV cannot have them, so all tracks are
	// moved alike, as ffmpeg does.
	shift := -min(m.video.ms(0), m.audio.ms(0), 0)
	p := packer{index: x, joins: m.video == nil}
	for v, a := 0, 0; ; {
		video, audio := m.video.ms(v), m.audio.ms(a)
		if min(video, audio) == none {
			break
		}
		t, i := m.video, &v
		if audio < video {
			t, i = m.audio, &a
		}
		f := t.frame(*i)
		f.dts += shift
		if err := p.add(f); err != nil {
			return nil, fmt.Errorf("%s sample %d: %w", t.kind, *i+1, err)
		}
		if *i++; *i == len(t.samples) {
			x.end = max(x.end, t.toMS(t.end)+shift)
		}
	}
	if len(x.parts) == 0 {
		return nil, errors.New("there are no samples")
	}
	x.start = x.parts[0].dts
	meta[0].Value = float64(x.end-x.start) / 1000
	header.Meta = amf.Append(nil, "onMetaData", meta)
	x.header = header
	x.plan, x.parts = slices.Clone(x.plan), slices.Clone(x.parts) // without room to grow
	return x, nil
}

// none is a time behind all others.
const none = math.MaxInt64

// ms is the DTS of sample i, none behind the last and when there is no track.
func (t *track) ms(i int) int64 {
	if t == nil || i >= len(t.samples) {
		return none
	}
	return t.toMS(t.samples[i].dts)
}

// toMS returns a DTS in ms. It rounds each time, not the steps between them, so
// that nothing adds up.
func (t *track) toMS(dts int64) int64 { return rescale(dts+t.offset-t.delay, 1000, t.scale) }

// frame returns sample i.
func (t *track) frame(i int) frame {
	s := t.samples[i]
	f := frame{track: t.kind, key: s.key, size: int(s.size), pos: s.pos, dts: t.toMS(s.dts)}
	if t.kind == media.Video {
		f.cts = t.toMS(s.dts+int64(s.cts)+t.delay) - f.dts
	}
	return f
}

// mostNegative is how far a composition offset goes below zero. DTS have to be so
// much earlier, as no frame is presented before it is decoded.
func (t *track) mostNegative() int64 {
	least := int32(0)
	for _, s := range t.samples {
		least = min(least, s.cts)
	}
	return -int64(least)
}

func (t *track) videoMeta() []amf.Field {
	meta := []amf.Field{
		{Key: "width", Value: float64(t.coding.width)},
		{Key: "height", Value: float64(t.coding.height)},
		{Key: "videocodecid", Value: t.coding.id},
	}
	if n := len(t.samples); n > 0 && t.end > t.samples[0].dts {
		rate := float64(n) * float64(t.scale) / float64(t.end-t.samples[0].dts)
		meta = append(meta, amf.Field{Key: "framerate", Value: math.Round(rate*1000) / 1000})
	}
	return meta
}

func (t *track) audioMeta() []amf.Field {
	meta := []amf.Field{
		{Key: "audiocodecid", Value: t.coding.id},
		{Key: "stereo", Value: t.coding.channels > 1},
	}
	if t.coding.rate > 0 {
		meta = append(meta, amf.Field{Key: "audiosamplerate", Value: float64(t.coding.rate)})
	}
	return meta
}

// A packer adds frames to the plan of an index.
type packer struct {
	index *Index
	joins bool // every part is a join point
	bytes int  // of the part
	dts   int64
	ends  [2]int64 // of the last sample of each track in the file
}

// maxCTS is the longest composition time of FLV, 24 bits with a sign.
const maxCTS = 1<<23 - 1

// add adds the next frame. Frames without content are left out.
func (p *packer) add(f frame) error {
	if f.size == 0 {
		return nil
	}
	if f.cts > maxCTS || f.cts < -maxCTS {
		return fmt.Errorf("it is presented %d ms after it is decoded, which FLV cannot say", f.cts)
	}
	x := p.index
	key := f.track == media.Video && f.key
	last := len(x.parts) - 1
	if last < 0 || key || p.bytes+f.size+frameCost > media.MaxBatchBytes ||
		p.joins && f.dts-x.parts[last].dts >= media.MaxAudioSpan.Milliseconds() {
		x.parts = append(x.parts, part{dts: f.dts, at: uint32(len(x.plan)), join: key || p.joins})
		*p = packer{index: x, joins: p.joins, dts: f.dts}
	}
	bits, end := 0, &p.ends[0]
	if f.track == media.Audio {
		bits, end = audioBit, &p.ends[1]
	}
	if key {
		bits |= keyBit
	}
	x.plan = binary.AppendUvarint(x.plan, uint64(f.size<<sizeBits|bits))
	x.plan = binary.AppendVarint(x.plan, f.dts-p.dts)
	x.plan = binary.AppendVarint(x.plan, f.pos-*end)
	if f.track == media.Video {
		x.plan = binary.AppendVarint(x.plan, f.cts)
	}
	p.dts, *end = f.dts, f.pos+int64(f.size)
	p.bytes += f.size + frameCost
	return nil
}

// unpack appends the frames of part i to frames.
func (x *Index) unpack(frames []frame, i int) []frame {
	plan := x.plan[x.parts[i].at:]
	if i+1 < len(x.parts) {
		plan = x.plan[x.parts[i].at:x.parts[i+1].at]
	}
	varint := func() int64 {
		v, n := binary.Varint(plan)
		plan = plan[n:]
		return v
	}
	dts := x.parts[i].dts
	var ends [2]int64
	for len(plan) > 0 {
		size, n := binary.Uvarint(plan)
		plan = plan[n:]
		f := frame{track: media.Video, key: size&keyBit != 0, size: int(size >> sizeBits)}
		end := &ends[0]
		if size&audioBit != 0 {
			f.track, end = media.Audio, &ends[1]
		}
		dts += varint()
		f.dts = dts
		f.pos = *end + varint()
		*end = f.pos + int64(f.size)
		if f.track == media.Video {
			f.cts = varint()
		}
		frames = append(frames, f)
	}
	return frames
}

// Outline calls add with each frame, as media.Outlined says, until that fails.
func (x *Index) Outline(add func(*media.Header, media.Frame, int) error) error {
	var frames []frame
	for i := range x.parts {
		frames = x.unpack(frames[:0], i)
		for _, f := range frames {
			coding := x.coding(f.track)
			head := make([]byte, coding.headSize())
			coding.putHead(head, f.key, f.cts)
			if err := add(x.header, f.in(head), len(head)+f.size); err != nil {
				return err
			}
		}
	}
	return nil
}

// in returns f with a body.
func (f frame) in(body []byte) media.Frame {
	return media.Frame{
		Track: f.track,
		Key:   f.key,
		DTS:   time.Duration(f.dts) * time.Millisecond,
		PTS:   time.Duration(f.dts+f.cts) * time.Millisecond,
		Body:  body,
	}
}

// Span implements media.Index.
func (x *Index) Span() (start, duration time.Duration) {
	return time.Duration(x.start) * time.Millisecond, time.Duration(x.end-x.start) * time.Millisecond
}

// Bytes implements media.Index.
func (x *Index) Bytes() int {
	n := len(x.plan) + len(x.parts)*16 + len(x.header.Meta) + 512
	for _, note := range x.notes {
		n += len(note)
	}
	return n
}

// Notes say what of the file is not played.
func (x *Index) Notes() []string { return x.notes }

// find returns the last part at or before from that is a join point, the first
// part when there is none.
func (x *Index) find(from time.Duration) int {
	after := sort.Search(len(x.parts), func(i int) bool { return x.parts[i].dts > from.Milliseconds() })
	for i := after - 1; i > 0; i-- {
		if x.parts[i].join {
			return i
		}
	}
	return 0
}
