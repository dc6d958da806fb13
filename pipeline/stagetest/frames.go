// Batches as readable lines, for `mediad stage run`, `mediad tap` and goldens.

package stagetest

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/mediad/mediad/core/media"
)

// A Printer writes batches as lines:
//
//	header video=h264:4f1c22a0 audio=aac:91b3e07d meta=274
//	batch join
//	  video key dts=0 pts=80 size=4995 hash=1c0ff3b2
//	  audio dts=12 pts=12 size=200 hash=77aa01fe
//
// Times are in milliseconds, sizes in bytes. A hash is the first four bytes of
// the SHA-256 of the body, or of the codec configuration. The header stands
// before the batches that it is in force for.
type Printer struct {
	w      io.Writer
	header *media.Header
}

// NewPrinter returns a printer onto w.
func NewPrinter(w io.Writer) *Printer { return &Printer{w: w} }

// Print writes a batch.
func (p *Printer) Print(b *media.Batch) error {
	var lines []byte
	if h := b.Header(); h != p.header {
		p.header = h
		lines = append(lines, "header"...)
		lines = appendFormat(lines, "video", h.Video)
		lines = appendFormat(lines, "audio", h.Audio)
		if len(h.Meta) > 0 {
			lines = fmt.Appendf(lines, " meta=%d", len(h.Meta))
		}
		lines = append(lines, '\n')
	}
	lines = append(lines, "batch"...)
	if b.Join() {
		lines = append(lines, " join"...)
	}
	lines = append(lines, '\n')
	for _, f := range b.Frames() {
		key := ""
		if f.Key {
			key = " key"
		}
		lines = fmt.Appendf(lines, "  %s%s dts=%d pts=%d size=%d hash=%s\n",
			f.Track, key, f.DTS.Milliseconds(), f.PTS.Milliseconds(), len(f.Body), short(f.Body))
	}
	_, err := p.w.Write(lines)
	return err
}

func appendFormat(lines []byte, track string, f media.Format) []byte {
	if f.Codec == "" {
		return lines
	}
	lines = fmt.Appendf(lines, " %s=%s", track, f.Codec)
	if len(f.Config) > 0 {
		lines = fmt.Appendf(lines, ":%s", short(f.Config))
	}
	return lines
}

func short(p []byte) string {
	sum := sha256.Sum256(p)
	return fmt.Sprintf("%x", sum[:4])
}
