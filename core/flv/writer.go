// Writing of batches as FLV.

package flv

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/yutopp/go-flv"
)

// maxBody is the largest body that a tag can have.
const maxBody = 1<<24 - 1

// A Writer writes batches to a stream without an end, such as an HTTP response.
type Writer struct {
	w      io.Writer
	header *media.Header
	zero   time.Duration // the DTS that is time 0 in the stream
	buf    []byte
}

// NewWriter returns a writer of FLV to w. A frame at zero gets the time 0.
func NewWriter(w io.Writer, zero time.Duration) *Writer { return &Writer{w: w, zero: zero} }

// Write writes b in one call, after its header if that is not the one written
// last.
func (w *Writer) Write(b *media.Batch) error {
	if err := fits(b); err != nil {
		return err
	}
	buf := w.buf[:0]
	if w.header == nil {
		buf = appendFileHeader(buf, b.Header())
	}
	if h := b.Header(); h != w.header {
		if h.Meta != nil && (w.header == nil || string(h.Meta) != string(w.header.Meta)) {
			buf = appendTag(buf, media.Data, b.DTS()-w.zero, h.Meta)
		}
		buf = appendConfig(buf, w.header, h, b.DTS()-w.zero)
	}
	for _, f := range b.Frames() {
		buf = appendTag(buf, f.Track, f.DTS-w.zero, f.Body)
	}
	w.header, w.buf = b.Header(), buf
	_, err := w.w.Write(buf)
	return err
}

// fits says which frame of b is too large for FLV.
func fits(b *media.Batch) error {
	for _, f := range b.Frames() {
		if len(f.Body) > maxBody {
			return fmt.Errorf("%s frame at %v: %d bytes do not fit into an FLV tag", f.Track, f.DTS, len(f.Body))
		}
	}
	return nil
}

// The flags of the file header (E.2).
const hasAudio, hasVideo = 4, 1

// tracksOf returns the flags for the tracks of h.
func tracksOf(h *media.Header) (flags byte) {
	if h.Audio.Codec != "" {
		flags |= hasAudio
	}
	if h.Video.Codec != "" {
		flags |= hasVideo
	}
	return flags
}

// appendFileHeader appends the header of a file.
func appendFileHeader(dst []byte, h *media.Header) []byte {
	dst = append(append(dst, flv.HeaderSignature...), 1, tracksOf(h))
	dst = binary.BigEndian.AppendUint32(dst, flv.HeaderLength)
	return append(dst, 0, 0, 0, 0) // PreviousTagSize0
}

// appendConfig appends the codec configuration that h has and last has not.
func appendConfig(dst []byte, last, h *media.Header, at time.Duration) []byte {
	if last == nil {
		last = new(media.Header)
	}
	if h.Video.Config != nil && !sameFormat(h.Video, last.Video) {
		dst = appendTag(dst, media.Video, at, h.Video.Config)
	}
	if h.Audio.Config != nil && !sameFormat(h.Audio, last.Audio) {
		dst = appendTag(dst, media.Audio, at, h.Audio.Config)
	}
	return dst
}

// appendTag appends a whole tag. Times are modulo 2^32 ms.
func appendTag(dst []byte, track media.Track, at time.Duration, body []byte) []byte {
	ms, n := uint32(at.Milliseconds()), len(body)
	dst = append(dst, byte(track), byte(n>>16), byte(n>>8), byte(n), byte(ms>>16), byte(ms>>8), byte(ms), byte(ms>>24), 0, 0, 0)
	dst = append(dst, body...)
	return binary.BigEndian.AppendUint32(dst, uint32(tagHeadLen+n))
}
