// Recordings: FLV files with room for the duration and a keyframe table, which
// are put in place when the file is finished. A file that was never finished is
// told by its duration of 0, and repaired.

package flv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

const (
	// tableSpace is left free in the metadata of a recording for its keyframe
	// table: 3640 keyframes, which is an hour with one a second. A longer table
	// is thinned out.
	tableSpace = 64 << 10
	pointSize  = 18 // two numbers
	tableSize  = 70 // the names around them
	// maxMeta is the largest metadata of a publisher that is kept.
	maxMeta = 1 << 20
	// earlyTags is how far into a recording a track may begin without the
	// keyframe table being left out. ReadIndex looks as far.
	earlyTags, earlySpan = headTags / 2, headSpan / 2

	creator  = "mediad"
	metaBody = 13 + tagHeadLen // where the body of the metadata tag is
)

// A Storage is what a recording lies in; *os.File is one.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
}

// A Recording is an FLV file that is being written. It is used by one goroutine.
type Recording struct {
	f        Storage
	reserved int   // size of the body of the metadata tag
	end      int64 // where the next tag goes
	shift    time.Duration
	shifted  bool        // shift is set
	last     media.Clock // the last frame of each track, in the file's time
	ends     media.Clock // as in scanner
	header   *media.Header
	meta     amf.Object // the publisher's
	points   []point
	noTable  bool // a reader could not know the configuration at each point
	tags     int
	buf      []byte
}

// NewRecording begins a recording in f, which is empty. It writes the file's head,
// with h's metadata.
func NewRecording(f Storage, h *media.Header) (*Recording, error) {
	r := &Recording{f: f, last: media.NoClock, ends: media.NoClock, header: new(media.Header)}
	if len(h.Meta) <= maxMeta {
		r.meta = decodeMeta(h.Meta)
	}
	known := &media.Header{Video: h.Video, Audio: h.Audio}
	body := amf.Append(nil, "onMetaData", fields(known, r.meta, 0))
	r.reserved = len(body) + tableSpace
	p := appendTag(appendFileHeader(nil, h), media.Data, 0, pad(body, r.reserved))
	if _, err := f.WriteAt(p, 0); err != nil {
		return nil, errors.Join(err, f.Truncate(0))
	}
	r.end = int64(len(p))
	return r, nil
}

// Size is the size of the file.
func (r *Recording) Size() int64 { return r.end }

// Duration is the time from the first frame to the end of the last.
func (r *Recording) Duration() time.Duration { return max(0, r.ends.Max()) }

// Empty says that no frame has been written.
func (r *Recording) Empty() bool { return r.ends == media.NoClock }

// Fits says whether media under h can go on in r without a change of the codec
// configuration.
func (r *Recording) Fits(h *media.Header) bool {
	return sameFormat(r.header.Video, h.Video) && sameFormat(r.header.Audio, h.Audio)
}

// Write appends b. Times in the file start at 0, and go on from the last frame
// where those of the batches run back. After an error the file ends with the
// batch before.
func (r *Recording) Write(b *media.Batch) error {
	if err := fits(b); err != nil {
		return err
	}
	before := *r
	r.buf = r.buf[:0]
	if b.Header() != r.header {
		r.setHeader(b)
	}
	for _, f := range b.Frames() {
		at := r.time(f)
		if f.Key {
			r.addPoint(point{at, r.end + int64(len(r.buf))})
		}
		r.buf = appendTag(r.buf, f.Track, at, f.Body)
		r.tags++
	}
	if _, err := r.f.WriteAt(r.buf, r.end); err != nil {
		*r = before
		return errors.Join(err, r.f.Truncate(r.end))
	}
	r.end += int64(len(r.buf))
	return nil
}

// setHeader appends what is new in the header of b.
func (r *Recording) setHeader(b *media.Batch) {
	h := b.Header()
	if h.Meta != nil && !bytes.Equal(h.Meta, r.header.Meta) && len(h.Meta) <= maxMeta {
		r.meta = decodeMeta(h.Meta)
	}
	r.buf = appendConfig(r.buf, r.header, h, r.Duration())
	r.configure(h)
}

func (r *Recording) configure(h *media.Header) {
	late := r.tags > earlyTags || r.end > metaBody+int64(r.reserved)+earlySpan
	if replaced(r.header, h) || late && !r.Fits(h) {
		r.noTable = true
	}
	r.header = h
}

// time returns the file's time of f.
func (r *Recording) time(f media.Frame) time.Duration {
	const back = time.Second // tracks run apart, and a little back
	last := r.last.At(f.Track)
	at := f.DTS + r.shift
	if !r.shifted || *last != media.None && at < *last-back {
		r.shift, r.shifted = r.Duration()-f.DTS, true
		at = r.Duration()
	}
	at = max(at, *last, 0)
	extend(&r.last, &r.ends, f.Track, at)
	return at
}

func (r *Recording) addPoint(p point) {
	if n := len(r.points); n > 0 && p.dts <= r.points[n-1].dts {
		return
	}
	r.points = append(r.points, p)
	if len(r.points) >= maxPoints {
		r.points = thin(r.points, 2)
	}
}

// Close finishes the file: it waits until all is on the disk, and then puts the
// metadata in place. It does not close the Storage.
func (r *Recording) Close() error {
	if err := r.f.Sync(); err != nil {
		return err
	}
	body := r.finished(r.meta)
	if len(body) > r.reserved { // the publisher has sent more since the start
		body = r.finished(nil)
	}
	body = pad(body, r.reserved)
	// The duration goes last: with it the file counts as finished.
	duration := bytes.Clone(body[durationAt : durationAt+8])
	clear(body[durationAt : durationAt+8])
	for _, p := range []struct {
		bytes []byte
		at    int64
	}{{[]byte{tracksOf(r.header)}, flagsAt}, {body, metaBody}, {duration, metaBody + durationAt}} {
		if _, err := r.f.WriteAt(p.bytes, p.at); err != nil {
			return err
		}
		if err := r.f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// flagsAt is where the file header names the tracks.
const flagsAt = 4

// durationAt is where the number is in the body of the metadata tag: behind the
// name, the marker and count of the array, and the field's own name and marker.
const durationAt = 13 + 5 + 10 + 1

// fields returns the metadata of a recording, up to those that tell of its end.
func fields(h *media.Header, meta amf.Object, duration time.Duration) amf.ECMAArray {
	list := metaFor(h, meta, duration)
	return append(amf.ECMAArray{list[0], {Key: "metadatacreator", Value: creator}}, list[1:]...)
}

// finished returns the body of the metadata tag, with as much of the keyframe
// table as there is room for.
func (r *Recording) finished(meta amf.Object) []byte {
	list := append(fields(r.header, meta, max(r.Duration(), time.Millisecond)),
		amf.Field{Key: "lasttimestamp", Value: max(0, r.last.Max()).Seconds()},
		amf.Field{Key: "filesize", Value: float64(r.end)})
	body := amf.Append(nil, "onMetaData", list)
	room := (r.reserved - len(body) - tableSize) / pointSize
	if r.noTable || len(r.points) == 0 || room < 1 {
		return body
	}
	points := thin(r.points, (len(r.points)+room-1)/room)
	var times, places amf.Array
	for _, p := range points {
		times = append(times, p.dts.Seconds())
		places = append(places, float64(p.at))
	}
	return amf.Append(nil, "onMetaData", append(list, amf.Field{Key: "keyframes",
		Value: amf.Object{{Key: "times", Value: times}, {Key: "filepositions", Value: places}}}))
}

// pad fills body up to size with values that nobody looks at, for they follow the
// object: a long string, or nulls where that does not fit.
func pad(body []byte, size int) []byte {
	const longString, null, head = 0x0c, 0x05, 5
	if n := size - len(body) - head; n >= 0 {
		body = binary.BigEndian.AppendUint32(append(body, longString), uint32(n))
		return append(body, bytes.Repeat([]byte(" "), n)...)
	}
	return append(body, bytes.Repeat([]byte{null}, size-len(body))...)
}
