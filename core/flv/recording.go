// Recordings: FLV files with room for the duration and a keyframe table, which
// are put in place when the file is finished. A file that was never finished is
// told by its duration of 0, and repaired.

package flv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
	// maxDamage is how much a repair cuts off at most: far more than can have
	// been under way when a machine stopped. More is left for a human.
	maxDamage = 64 << 20
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
	p := appendTag(appendFileHeader(nil), media.Data, 0, pad(body, r.reserved))
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
	}{{body, metaBody}, {duration, metaBody + durationAt}} {
		if _, err := r.f.WriteAt(p.bytes, p.at); err != nil {
			return err
		}
		if err := r.f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

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

// ErrNoRecording is the error for a file that no Recording has begun.
var ErrNoRecording = errors.New("not a recording of mediad")

// errNoHead says that not even the head of a recording has reached the disk.
var errNoHead = errors.New("not even its head is whole")

// Finished says whether the recording in f was finished. The error wraps
// ErrNoRecording when f is none.
func Finished(f io.ReaderAt) (bool, error) {
	begin := appendFileHeader(nil)
	meta := amf.Append(nil, "onMetaData", amf.ECMAArray{{Key: "duration", Value: 0}, {Key: "metadatacreator", Value: creator}})
	meta = meta[:len(meta)-3] // without the end of the object
	p := make([]byte, metaBody+len(meta))
	if _, err := f.ReadAt(p, 0); errors.Is(err, io.EOF) {
		return false, ErrNoRecording
	} else if err != nil {
		return false, err
	}
	body := p[metaBody:]
	copy(meta[14:18], body[14:18]) // the count of the array
	number := meta[durationAt : durationAt+8]
	finished := !bytes.Equal(number, body[durationAt:durationAt+8])
	copy(number, body[durationAt:])
	if !bytes.HasPrefix(p, begin) || media.Track(p[len(begin)]) != media.Data || !bytes.Equal(meta, body) {
		return false, ErrNoRecording
	}
	return finished, nil
}

// A Result is what a repair has found.
type Result struct {
	Duration time.Duration // of what is there
	Size     int64         // of the file now
	Cut      int64         // bytes cut off behind the last whole tag
	Empty    bool          // no frame is left
}

// Repair finishes a recording of size bytes that was not finished: it cuts off
// what is behind the last whole tag and puts the metadata in place. An empty one
// may be left unfinished.
func Repair(ctx context.Context, f Storage, size int64) (Result, error) {
	r, err := load(ctx, f, size)
	if errors.Is(err, errNoHead) {
		return Result{Size: size, Empty: true}, nil
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Duration: r.Duration(), Size: r.end, Cut: size - r.end, Empty: r.Empty()}, r.Close()
}

// Continue goes on with a recording of size bytes, finished or not. It counts as
// unfinished until it is closed.
func Continue(ctx context.Context, f Storage, size int64) (*Recording, error) {
	r, err := load(ctx, f, size)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(make([]byte, 8), metaBody+durationAt); err != nil {
		return nil, err
	}
	return r, f.Sync()
}

// load reads a recording up to its last whole tag, and cuts off what is behind.
func load(ctx context.Context, f Storage, size int64) (*Recording, error) {
	if _, err := Finished(f); err != nil {
		return nil, err
	}
	file := storageFile{f, size}
	first, err := readHeader(ctx, file)
	if err != nil {
		return nil, err
	}
	tags := newTagReader(file, first)
	meta, err := tags.whole(ctx)
	if errors.Is(err, io.EOF) {
		return nil, errNoHead
	}
	if err != nil {
		return nil, err
	}
	body, err := tags.prefix(ctx, meta, meta.size)
	if err != nil {
		return nil, err
	}
	r := &Recording{f: f, reserved: meta.size, meta: decodeMeta(body), header: new(media.Header)}
	tags.done(meta)
	tags.skips = true
	s := newScanner(change{tags.at, r.header})
	for {
		r.end = tags.at
		t, err := tags.whole(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := s.tag(ctx, tags, t); err != nil {
			return nil, err
		}
		r.configure(s.state.Header())
		r.tags++
		tags.done(t)
	}
	if size-r.end > maxDamage {
		return nil, fmt.Errorf("damaged at byte %d of %d: that is more than a crash leaves, so nothing is cut off", r.end, size)
	}
	if size > r.end {
		if err := f.Truncate(r.end); err != nil {
			return nil, err
		}
	}
	r.last, r.ends = s.last, s.ends
	if s.video {
		r.points = s.points
	}
	return r, nil
}

// A storageFile is a Storage of a size as a File.
type storageFile struct {
	Storage
	size int64
}

func (f storageFile) Size() int64 { return f.size }

func (f storageFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return f.Storage.ReadAt(p, off)
}
