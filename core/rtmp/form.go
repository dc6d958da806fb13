// The RTMP form of a batch: its chunks, made once and written to all viewers.
//
// The chunks are the slab of the batch itself. A message header of type 1, with
// the delta to the last frame of the same track, is written into the headroom
// before each body. It has no message stream id and no absolute time, so it is
// right for every viewer whose track stands where the delta counts from; for any
// other the first message of the track is written with a header of its own.

package rtmp

import (
	"math"
	"time"

	"github.com/mediad/mediad/core/media"
)

// maxPayload is the largest message that a header can announce.
const maxPayload = 1<<24 - 1

// noTime is a time that no frame has.
const noTime int64 = math.MinInt64

// A form is the chunks of a batch.
type form struct {
	messages []shared
	chunks   [][]byte // all messages
	// has says which tracks there are, start and end where they stand before and after the batch.
	has        [tracks]bool
	start, end [tracks]int64
	// whole says that within the batch every message follows from the one before it.
	whole bool
}

// A shared message is one frame of a form.
type shared struct {
	*media.Frame
	from  int64  // where the track must stand for the header to be right; noTime: nowhere
	time  int64  // where the track stands then
	bytes []byte // the header and the body, not divided into chunks
}

// formOf returns the form of b, which is made when the first viewer needs it.
func formOf(b *media.Batch) *form { return b.Form(media.FormRTMP, makeForm).(*form) }

func makeForm(b *media.Batch) any {
	frames, slab, prev := b.Frames(), b.Slab(), b.Prev()
	f := &form{messages: make([]shared, 0, len(frames)), whole: true}
	for t, dts := range [tracks]time.Duration{prev.Audio, prev.Video, prev.Data} {
		f.end[t] = noTime
		if dts != media.None {
			f.end[t] = dts.Milliseconds()
		}
	}
	run, at := 0, 0 // what is not yet in chunks begins at run
	for i := range frames {
		length := len(frames[i].Body)
		end := at + media.Headroom + length
		if length > maxPayload { // no message can hold it
			f.chunks = appendRun(f.chunks, slab[run:at])
			run, at = end, end
			continue
		}
		f.add(&frames[i], slab[at:end])
		for n := media.Headroom + chunkSize; end-at > n; n = chunkSize {
			f.chunks = append(f.chunks, slab[run:at+n], type3[csidOf[index(frames[i].Track)]])
			at += n
			run = at
		}
		at = end
	}
	f.chunks = appendRun(f.chunks, slab[run:at])
	return f
}

func appendRun(chunks [][]byte, run []byte) [][]byte {
	if len(run) == 0 {
		return chunks
	}
	return append(chunks, run)
}

// add adds the message of a frame and writes its header, of type 1 (RTMP 1.0,
// 5.3.1.2.2), into the headroom.
func (f *form) add(frame *media.Frame, bytes []byte) {
	t := index(frame.Track)
	m := shared{Frame: frame, from: f.end[t], time: frame.DTS.Milliseconds(), bytes: bytes}
	var delta int64
	if m.from != noTime {
		m.time = max(m.time, m.from) // deltas are not negative
		delta = m.time - m.from
	}
	if delta >= extended {
		m.from = noTime
	}
	if !f.has[t] {
		f.has[t], f.start[t] = true, m.from
	} else if m.from == noTime {
		f.whole = false
	}
	f.end[t] = m.time
	f.messages = append(f.messages, m)

	length := len(frame.Body)
	_ = append(bytes[:0], 1<<6|csidOf[t],
		byte(delta>>16), byte(delta>>8), byte(delta),
		byte(length>>16), byte(length>>8), byte(length), byte(frame.Track))
}
