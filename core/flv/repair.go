// Repair of recordings that were cut short, and going on with recordings.

package flv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

// maxDamage is how much a repair cuts off at most: far more than can have been
// under way when a machine stopped. More is left for a human.
const maxDamage = 64 << 20

// ErrNoRecording is the error for a file that no Recording has begun.
var ErrNoRecording = errors.New("not a recording of mediad")

// errNoHead says that not even the head of a recording has reached the disk.
var errNoHead = errors.New("not even its head is whole")

// Finished says whether the recording in f was finished. The error wraps
// ErrNoRecording when f is none.
func Finished(f io.ReaderAt) (bool, error) {
	begin := appendFileHeader(nil, new(media.Header))
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
	begin[flagsAt] = p[flagsAt]
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

// Rest is what is left of b behind the frames with which r ends already, nil when that
// is all of it: when a process is killed, what it was just writing may be there, or a
// part of it. Frames like some just before them, as those of silence, tell nothing.
func (r *Recording) Rest(b *media.Batch) (*media.Batch, error) {
	const before = 16
	frames := b.Frames()
	tail, err := r.tail(len(frames) + before)
	if err != nil {
		return nil, err
	}
	same := func(a, b media.Frame) bool { return a.Track == b.Track && bytes.Equal(a.Body, b.Body) }
	for n := min(len(frames), len(tail)); n > 0; n-- {
		at := len(tail) - n
		known := slices.ContainsFunc(tail[:at], func(f media.Frame) bool { return same(f, frames[0]) })
		if known || !slices.EqualFunc(tail[at:], frames[:n], same) {
			continue
		}
		if n == len(frames) {
			return nil, nil
		}
		clock := b.Prev()
		for _, f := range frames[:n] {
			*clock.At(f.Track) = f.DTS
		}
		return media.NewBatch(b.Header(), clock, frames[n:]...), nil
	}
	return b, nil
}

// tail returns the last n tags of r, or what there are, without their times.
func (r *Recording) tail(n int) (tags []media.Frame, err error) {
	first := int64(metaBody + r.reserved + tagTailLen)
	for end := r.end; len(tags) < n && end > first; {
		var back [tagTailLen]byte
		if _, err := r.f.ReadAt(back[:], end-tagTailLen); err != nil {
			return nil, err
		}
		size := int64(binary.BigEndian.Uint32(back[:]))
		begin := end - tagTailLen - size
		if size < tagHeadLen || begin < first {
			return nil, fmt.Errorf("the tag that ends at byte %d is said to have %d bytes", end, size)
		}
		tag := make([]byte, size)
		if _, err := r.f.ReadAt(tag, begin); err != nil {
			return nil, err
		}
		tags = append(tags, media.Frame{Track: media.Track(tag[0]), Body: tag[tagHeadLen:]})
		end = begin
	}
	slices.Reverse(tags)
	return tags, nil
}

// load reads a recording up to its last whole tag, and cuts off what is behind.
func load(ctx context.Context, f Storage, size int64) (*Recording, error) {
	if _, err := Finished(f); err != nil {
		return nil, err
	}
	file := storageFile{f, size}
	first, _, err := readHeader(ctx, file)
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
