// Package mp4 reads MP4 and QuickTime files, fragmented ones too, into the frames
// of FLV: H.264, HEVC or AV1 with AAC, MP3 or Opus. It follows ISO/IEC 14496-12
// for the boxes (the sections named in comments are its), 14496-14 and -15 for the codecs.
//
// Files may come from anyone. No table is believed before it has been compared
// with the size of its box, only the boxes that are named here are entered, and the
// tables are folded into an Index of some five bytes a sample.
package mp4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/mediad/mediad/core/media"
)

// Bounds on what is held while an index is read. A film of three hours has a moov
// of about 8 MiB and 500 000 audio samples.
const (
	maxMoov    = 64 << 20
	maxMoof    = 16 << 20
	maxSamples = 1 << 22 // of a track: 24 hours of AAC at 48 kHz
	maxBoxes   = 1 << 20 // at the top of a file
	maxSample  = 1<<24 - 64
)

// ReadIndex reads the tables of f: from its moov, wherever it lies, and from the
// head of each fragment.
func ReadIndex(ctx context.Context, f media.File) (media.Index, error) {
	m, err := readMovie(ctx, f)
	if err != nil {
		return nil, err
	}
	x, err := newIndex(m)
	if err != nil {
		return nil, err
	}
	return x, nil
}

// readMovie walks the boxes at the top of f.
func readMovie(ctx context.Context, f media.File) (*movie, error) {
	size := f.Size()
	known := size >= 0
	if !known {
		size = math.MaxInt64 // reading tells
	}
	w := &window{ctx: ctx, file: f}
	var m *movie
	for at, n := int64(0), 0; size-at >= 8; n++ {
		b, err := w.box(at)
		switch {
		case errors.Is(err, io.EOF) && !known:
			return m, m.whole()
		case err != nil:
			return nil, fmt.Errorf("box at byte %d: %w", at, err)
		case n == maxBoxes:
			return nil, fmt.Errorf("there are more than %d boxes", maxBoxes)
		case b.size == 0 && b.kind == "mdat": // to the end of the file (4.2)
			return m, m.whole()
		case b.size < b.head:
			return nil, fmt.Errorf("box %q at byte %d says that it has %d bytes", b.kind, at, b.size)
		case b.size > size-at && m != nil && m.fragments > 0:
			return m, nil // a recording that goes on, or was cut: its whole fragments play
		case b.size > size-at:
			return nil, fmt.Errorf("box %q at byte %d has %d bytes, but the file only %d: it is not whole", b.kind, at, b.size, size)
		}
		switch b.kind {
		case "moov":
			if m != nil {
				return nil, fmt.Errorf("there is a second moov box, at byte %d", at)
			}
			body, err := w.body(at, b, maxMoov)
			if err == nil {
				m, err = parseMovie(body, size)
			}
			if err != nil {
				return nil, fmt.Errorf("moov at byte %d: %w", at, err)
			}
			if !known && !m.fragmented {
				return m, nil // do not wait for what follows
			}
		case "moof":
			if m == nil {
				return nil, fmt.Errorf("there is a fragment at byte %d, before the moov", at)
			}
			body, err := w.body(at, b, maxMoof)
			if err == nil {
				err = m.parseFragment(body, at)
			}
			if errors.Is(err, errCut) {
				return m, nil
			}
			if err != nil {
				return nil, fmt.Errorf("moof at byte %d: %w", at, err)
			}
		}
		at += b.size
	}
	return m, m.whole()
}

// whole returns an error when there is nothing that could be played.
func (m *movie) whole() error {
	if m == nil {
		return errors.New("there is no moov box: the file is not whole, or was never finished")
	}
	return nil
}
