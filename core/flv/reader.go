// Reading of tags from a file: one after another, in large reads, and on again
// after damage.

package flv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/mediad/mediad/core/media"
	"github.com/yutopp/go-flv"
)

const (
	// window is how much is read at once, about a GOP.
	window = 512 << 10
	// skipWindow is how much a scan reads behind a body that it has skipped more
	// than skipAbove of.
	skipWindow = 4 << 10
	skipAbove  = 256 << 10
	// maxDataOffset is where the first tag may start at most; the header of
	// every known writer has 9 bytes.
	maxDataOffset = 64 << 10
	// resyncSpan is how far behind damage the next tag is looked for, which is
	// more than the largest tag that can be damaged.
	resyncSpan = 17 << 20
	// headLen is how much of a body is looked at to know what it is.
	headLen = 256

	tagHeadLen = 11 // E.4.1
	tagTailLen = 4  // PreviousTagSize
)

// A tagHead is the head of a tag. The body starts at at+tagHeadLen.
type tagHead struct {
	at    int64
	track media.Track
	size  int    // of the body
	time  uint32 // ms
}

func (t tagHead) body() int64 { return t.at + tagHeadLen }
func (t tagHead) next() int64 { return t.at + tagHeadLen + int64(t.size) + tagTailLen }

func parseTagHead(b []byte, at int64) tagHead {
	return tagHead{
		at:    at,
		track: media.Track(b[0]),
		size:  int(b[1])<<16 | int(b[2])<<8 | int(b[3]),
		time:  uint32(b[7])<<24 | uint32(b[4])<<16 | uint32(b[5])<<8 | uint32(b[6]),
	}
}

// known says whether the tag is one of the three types, and not encrypted.
func (t tagHead) known() bool {
	return t.track == media.Audio || t.track == media.Video || t.track == media.Data
}

// A tagReader reads tags one after another. What it returns is valid until the
// next call.
type tagReader struct {
	f     media.File
	at    int64  // of the next tag
	size  int64  // of the file when it was last asked for, -1 when not known
	buf   []byte // what was read last
	off   int64  // where buf lies in the file
	skips bool   // only heads are wanted
}

func newTagReader(f media.File, at int64) *tagReader {
	return &tagReader{f: f, at: at, size: f.Size()}
}

// bytes returns the n bytes at off, and io.EOF when the file ends before. As long
// as off only grows, so do the positions that it reads at.
func (r *tagReader) bytes(ctx context.Context, off int64, n int) ([]byte, error) {
	if end := r.off + int64(len(r.buf)); off < r.off || off+int64(n) > end {
		if !r.fits(off + int64(n)) {
			return nil, io.EOF
		}
		want := window
		if r.skips && off > end+skipAbove {
			want = skipWindow
		}
		if r.size >= 0 {
			want = int(min(int64(want), r.size-off))
		}
		want = max(want, n)
		var kept []byte
		if r.off <= off && off < end {
			kept = r.buf[off-r.off:]
		}
		buf := r.buf[:0]
		if cap(buf) < want || cap(buf) > 2*window && want <= window {
			buf = make([]byte, 0, want)
		}
		buf = append(buf, kept...)
		got, err := readFull(ctx, r.f, buf[len(buf):want], off+int64(len(buf)))
		r.buf, r.off = buf[:len(buf)+got], off
		if len(r.buf) < n {
			return nil, err
		}
	}
	at := int(off - r.off)
	return r.buf[at : at+n : at+n], nil
}

// fits says whether the file has end bytes, as far as is known. It may have
// grown since it was last asked.
func (r *tagReader) fits(end int64) bool {
	if r.size >= 0 && end > r.size {
		r.size = r.f.Size()
	}
	return r.size < 0 || end <= r.size
}

// readFull reads until p is full. It returns io.EOF when the file ends before.
func readFull(ctx context.Context, f media.File, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		m, err := f.ReadAt(ctx, p[n:], off+int64(n))
		n += m
		if n == len(p) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// head returns the head of the next whole tag, and io.EOF when there is none. r
// stays there until done is called.
func (r *tagReader) head(ctx context.Context) (tagHead, error) {
	for {
		b, err := r.bytes(ctx, r.at, tagHeadLen)
		if err != nil {
			return tagHead{}, err
		}
		t := parseTagHead(b, r.at)
		switch ok, err := r.sound(ctx, t); {
		case err != nil:
			return tagHead{}, err
		case ok && t.known():
			return t, nil
		case ok: // encrypted, or of a type that is none of ours
			r.done(t)
		default:
			if r.at, err = r.resync(ctx); err != nil {
				return tagHead{}, err
			}
		}
	}
}

// done goes on to what follows t.
func (r *tagReader) done(t tagHead) { r.at = t.next() }

// sound says whether a tag of t's size lies where t does: the file has all of it,
// and its PreviousTagSize is right or, since some muxers write nonsense there, a
// plausible tag follows.
func (r *tagReader) sound(ctx context.Context, t tagHead) (bool, error) {
	if !r.fits(t.next() - tagTailLen) {
		return false, nil
	}
	far := r.skips && t.size > skipAbove && t.next() > r.off+int64(len(r.buf))
	if !far { // the body is wanted, or near: it comes with the same read
		whole := tagHeadLen + t.size
		_, err := r.bytes(ctx, t.at, whole+tagTailLen+tagHeadLen)
		if errors.Is(err, io.EOF) {
			_, err = r.bytes(ctx, t.at, whole)
		}
		if err != nil {
			return false, notEOF(err)
		}
	}
	tail, err := r.tail(ctx, t, far)
	if err != nil {
		return t.known() && errors.Is(err, io.EOF), notEOF(err)
	}
	if int(binary.BigEndian.Uint32(tail)) == tagHeadLen+t.size {
		return true, nil
	}
	if !t.known() {
		return false, nil
	}
	b, err := r.bytes(ctx, t.next(), tagHeadLen)
	if err != nil {
		return errors.Is(err, io.EOF), notEOF(err)
	}
	next := parseTagHead(b, t.next())
	return next.known() && streamID(b) == 0 && r.fits(next.next()-tagTailLen), nil
}

// tail returns the PreviousTagSize behind t. A far one is not read through the
// window, which would move past t.
func (r *tagReader) tail(ctx context.Context, t tagHead, far bool) ([]byte, error) {
	at := t.next() - tagTailLen
	if !far {
		return r.bytes(ctx, at, tagTailLen)
	}
	tail := make([]byte, tagTailLen)
	_, err := readFull(ctx, r.f, tail, at)
	return tail, err
}

// streamID is 0 in every tag.
func streamID(head []byte) int { return int(head[8])<<16 | int(head[9])<<8 | int(head[10]) }

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// resync returns where the first tag behind the damage at r.at is whose
// PreviousTagSize is right, and io.EOF when the file ends before.
func (r *tagReader) resync(ctx context.Context) (int64, error) {
	for at := r.at + 1; at < r.at+resyncSpan; at++ {
		b, err := r.bytes(ctx, at, tagHeadLen)
		if err != nil {
			return r.at, err
		}
		t := parseTagHead(b, at)
		if !t.known() || t.size == 0 || streamID(b) != 0 || !r.fits(t.next()) {
			continue
		}
		var tail [tagTailLen]byte // not through the window, which would move
		if _, err := readFull(ctx, r.f, tail[:], t.next()-tagTailLen); notEOF(err) != nil {
			return r.at, err
		}
		if int(binary.BigEndian.Uint32(tail[:])) == tagHeadLen+t.size {
			return at, nil
		}
	}
	return r.at, fmt.Errorf("FLV is damaged at byte %d, and no tag starts in the %d bytes after it", r.at, resyncSpan)
}

// whole returns the next tag if it is without fault, and io.EOF if not.
func (r *tagReader) whole(ctx context.Context) (tagHead, error) {
	b, err := r.bytes(ctx, r.at, tagHeadLen)
	if err != nil {
		return tagHead{}, err
	}
	t := parseTagHead(b, r.at)
	if !t.known() || streamID(b) != 0 {
		return t, io.EOF
	}
	tail, err := r.bytes(ctx, t.next()-tagTailLen, tagTailLen)
	if err != nil {
		return t, err
	}
	if int(binary.BigEndian.Uint32(tail)) != tagHeadLen+t.size {
		return t, io.EOF
	}
	return t, nil
}

// prefix returns the first n bytes of t's body, or all of a shorter one.
func (r *tagReader) prefix(ctx context.Context, t tagHead, n int) ([]byte, error) {
	return r.bytes(ctx, t.body(), min(n, t.size))
}

// readHeader checks the file header and returns where the first tag is, and the
// tracks that it announces.
func readHeader(ctx context.Context, f media.File) (first int64, tracks byte, err error) {
	var h [flv.HeaderLength]byte
	n, err := readFull(ctx, f, h[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, err
	}
	if n < len(h) || string(h[:3]) != string(flv.HeaderSignature) {
		return 0, 0, fmt.Errorf("not an FLV file: it starts with %q", h[:n])
	}
	offset := binary.BigEndian.Uint32(h[5:])
	if offset < flv.HeaderLength || offset > maxDataOffset {
		return 0, 0, fmt.Errorf("FLV header announces its first tag at byte %d, allowed are %d to %d",
			offset, flv.HeaderLength, maxDataOffset)
	}
	return int64(offset) + tagTailLen, h[4], nil
}
