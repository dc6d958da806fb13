// Frames, the batches that carry them, and the builder that lays a batch out in
// memory so that the wire forms need no copy.

package media

import (
	"math"
	"sync"
	"time"
)

// Track says what a frame is a unit of. The values are the FLV tag types and
// RTMP message types of the three (FLV 10.1, E.4.1; RTMP 1.0, 7.1).
type Track uint8

// The tracks. Several tracks of one type (Enhanced RTMP multitrack) share one
// Track; their frames are told apart inside the body.
const (
	Audio Track = 8
	Video Track = 9
	Data  Track = 18
)

func (t Track) String() string {
	switch t {
	case Audio:
		return "audio"
	case Video:
		return "video"
	case Data:
		return "data"
	}
	return "unknown"
}

// A Frame is one audio, video or data unit. Codec configuration is no frame: it
// stands in the Header of the batch.
type Frame struct {
	Track Track
	// Key marks a video frame from which a decoder can start.
	Key bool
	// DTS and PTS are the decoding and presentation time on the media's own
	// timeline, which may start anywhere. In RTMP and FLV they have whole
	// milliseconds.
	DTS, PTS time.Duration
	// Body is the FLV tag body (RTMP message payload), codec header included. It
	// belongs to the batch and is read-only.
	Body []byte
}

// A Header is what a decoder must have before it can use the frames of a batch,
// and what a player wants to know before it starts. Headers are immutable and
// shared: batches under the same configuration have the same pointer, so a
// consumer sends the header whenever the pointer is not the one it sent last.
type Header struct {
	// Meta is the body of the onMetaData script data (AMF0, the name first), or nil.
	Meta         []byte
	Video, Audio Format
}

// Format is how the frames of a track are coded.
type Format struct {
	// Codec is the short name that ffprobe prints (h264, hevc, av1, aac,
	// opus...), "" when there is no such track.
	Codec string
	// Config is the tag body with the codec configuration (AVC and AAC sequence
	// headers and their kin), nil for a codec that needs none.
	Config []byte
}

// A Batch is frames in decode order, immutable once built and shared by all who
// read it. A video keyframe is always the first frame of its batch, so to join,
// to skip and to cache one need only look at batches. A live batch is what has
// arrived since the last one, often one frame; an on-demand batch is a GOP,
// divided above MaxBatchBytes.
type Batch struct {
	header *Header
	frames []Frame
	slab   []byte
	prev   Clock
	join   bool
	forms  [numForms]form
}

// Bounds of an on-demand batch. A reader ends a batch before each video keyframe
// and at MaxBatchBytes of bodies; where there is no video, after MaxAudioSpan.
const (
	MaxBatchBytes = 2 << 20
	MaxAudioSpan  = time.Second
)

// Headroom is the number of free bytes that lie before each body in a batch's
// slab: room for an RTMP message header of type 1, so that the chunks of a
// batch are its slab and not a copy of it.
const Headroom = 8

// Header returns what is in force for the frames of b; never nil.
func (b *Batch) Header() *Header { return b.header }

// Frames returns the frames, which must not be changed; at least one.
func (b *Batch) Frames() []Frame { return b.frames }

// Join reports whether a decoder that has the header can start with this batch:
// it begins with a video keyframe, or there is no video.
func (b *Batch) Join() bool { return b.join }

// DTS is the time of the first frame.
func (b *Batch) DTS() time.Duration { return b.frames[0].DTS }

// Prev is when each track's last frame before this batch was, as far as the
// maker of the batch knew. It is what the deltas in the RTMP form count from.
func (b *Batch) Prev() Clock { return b.prev }

// Slab is the memory of the bodies: for each frame in turn Headroom bytes and
// its body. Only the maker of the RTMP form may write into the headroom, once.
func (b *Batch) Slab() []byte { return b.slab }

// Size is the memory that the batch holds, in bytes, its wire forms left out.
func (b *Batch) Size() int { return len(b.slab) + len(b.frames)*frameSize + batchSize }

const (
	frameSize = 56
	batchSize = 200
)

// FormID names a wire form that is made once per batch and shared.
type FormID int

// The wire forms. Each belongs to the package that makes it.
const (
	FormRTMP FormID = iota
	FormFLV
	numForms
)

type form struct {
	once  sync.Once
	value any
}

// Form returns the wire form id of b, made by the first call with make.
// All callers of one id pass the same function.
func (b *Batch) Form(id FormID, make func(*Batch) any) any {
	f := &b.forms[id]
	f.once.Do(func() { f.value = make(b) })
	return f.value
}

// Clock is the DTS of each track's last frame; None where there was none. The
// zero Clock is not empty, NoClock is.
type Clock struct{ Audio, Video, Data time.Duration }

// None is a time that no frame has.
const None time.Duration = math.MinInt64

// NoClock is the clock before the first frame.
var NoClock = Clock{None, None, None}

// At returns a pointer to the track's time in c.
func (c *Clock) At(t Track) *time.Duration {
	switch t {
	case Audio:
		return &c.Audio
	case Video:
		return &c.Video
	}
	return &c.Data
}

// Max is the latest time in c, None when it is empty.
func (c Clock) Max() time.Duration { return max(c.Audio, c.Video, c.Data) }

// minSpare is how much room in a slab is not worth a copy.
const minSpare = 4 << 10

// A Builder lays out one batch after another. Its zero value is not ready: use
// NewBuilder. It is used by one goroutine.
type Builder struct {
	clock  Clock
	frames []Frame
	slab   []byte
}

// NewBuilder returns a builder for batches that follow a frame at clock on each
// track, NoClock at a start or when it is not known.
func NewBuilder(clock Clock) *Builder { return &Builder{clock: clock} }

// Reserve makes room for a batch of frames with bytes of bodies in all. It is
// only an optimisation: the builder grows by itself.
func (b *Builder) Reserve(frames, bytes int) {
	if need := bytes + frames*Headroom; cap(b.slab)-len(b.slab) < need {
		b.grow(need)
	}
	if cap(b.frames) == 0 {
		b.frames = make([]Frame, 0, frames)
	}
}

// Body returns n bytes in the slab for the body of the next frame: fill them and
// put them into the Frame that is given to Add, before anything else is called.
func (b *Builder) Body(n int) []byte {
	if cap(b.slab)-len(b.slab) < Headroom+n {
		b.grow(Headroom + n)
	}
	at := len(b.slab) + Headroom
	b.slab = b.slab[:at+n]
	return b.slab[at : at+n : at+n]
}

// grow moves the slab to where there is room for n more bytes.
func (b *Builder) grow(n int) {
	size := len(b.slab) + n
	if len(b.slab) > 0 {
		size = max(size, 2*cap(b.slab))
	}
	b.move(size)
}

// move moves the slab to where there is room for size bytes.
func (b *Builder) move(size int) {
	slab := make([]byte, len(b.slab), size)
	copy(slab, b.slab)
	at := 0
	for i := range b.frames {
		at += Headroom
		end := at + len(b.frames[i].Body)
		b.frames[i].Body = slab[at:end:end]
		at = end
	}
	b.slab = slab
}

// Add appends a frame whose body came from Body.
func (b *Builder) Add(f Frame) { b.frames = append(b.frames, f) }

// Copy appends a frame with a copy of its body.
func (b *Builder) Copy(f Frame) {
	body := b.Body(len(f.Body))
	copy(body, f.Body)
	f.Body = body
	b.Add(f)
}

// Len is the number of frames added since the last batch.
func (b *Builder) Len() int { return len(b.frames) }

// Bytes is the size of the bodies added since the last batch.
func (b *Builder) Bytes() int { return len(b.slab) - len(b.frames)*Headroom }

// Batch ends the batch and returns it, nil when nothing was added. h is the
// header in force; frames that are added from now on belong to the next batch. What was
// reserved and not used, or made by growing, is given back if it is more than an eighth.
func (b *Builder) Batch(h *Header) *Batch {
	if len(b.frames) == 0 {
		return nil
	}
	if cap(b.slab)-len(b.slab) > max(len(b.slab)/8, minSpare) {
		b.move(len(b.slab))
	}
	first := b.frames[0]
	batch := &Batch{
		header: h,
		frames: b.frames,
		slab:   b.slab,
		prev:   b.clock,
		join:   h.Video.Codec == "" || first.Track == Video && first.Key,
	}
	for _, f := range b.frames {
		*b.clock.At(f.Track) = f.DTS
	}
	b.frames, b.slab = nil, nil
	return batch
}

// Clock is the time of each track's last frame in the batches made so far.
func (b *Builder) Clock() Clock { return b.clock }

// NewBatch returns a batch with copies of the frames, after clock.
func NewBatch(h *Header, clock Clock, frames ...Frame) *Batch {
	b := NewBuilder(clock)
	bytes := 0
	for _, f := range frames {
		bytes += len(f.Body)
	}
	b.Reserve(len(frames), bytes)
	for _, f := range frames {
		b.Copy(f)
	}
	return b.Batch(h)
}

// Take appends a frame and its slab, Headroom free bytes and the body, without a
// copy. It is for live frames: the only frame of its batch, in memory that the
// caller gives away.
func (b *Builder) Take(f Frame, slab []byte) {
	if len(b.frames) > 0 {
		f.Body = slab[Headroom:]
		b.Copy(f)
		return
	}
	f.Body = slab[Headroom:len(slab):len(slab)]
	b.slab = slab
	b.Add(f)
}
