// Package dump writes batches for people and for other programs: as readable lines
// and as JSON, for `mediad stage run`, `mediad tap` and goldens.
package dump

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
)

// Format returns what writes batches to w in a format: lines, json or flv.
func Format(format string, w io.Writer) (func(*media.Batch) error, error) {
	switch format {
	case "lines":
		return NewPrinter(w).Print, nil
	case "json":
		return NewJSONWriter(w).Write, nil
	case "flv":
		return flv.NewWriter(w, 0).Write, nil
	}
	return nil, fmt.Errorf("%q is not one of the formats lines, json, flv", format)
}

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

// A batch as JSON, one a line: what a printer leaves out, the bodies, is in it.
type jsonBatch struct {
	Header *jsonHeader `json:"header,omitempty"` // when it is not that of the line before
	Frames []jsonFrame `json:"frames"`
}

type jsonHeader struct {
	Meta  []byte     `json:"meta,omitempty"`
	Video jsonFormat `json:"video"`
	Audio jsonFormat `json:"audio"`
}

type jsonFormat struct {
	Codec  string `json:"codec,omitempty"`
	Config []byte `json:"config,omitempty"`
}

type jsonFrame struct {
	Track string `json:"track"`
	Key   bool   `json:"key,omitempty"`
	DTS   int64  `json:"dts"` // milliseconds
	PTS   int64  `json:"pts"`
	Body  []byte `json:"body"`
}

// A JSONWriter writes batches as lines of JSON, with times in milliseconds and
// bytes in base64.
type JSONWriter struct {
	enc    *json.Encoder
	header *media.Header
}

// NewJSONWriter returns a writer onto w.
func NewJSONWriter(w io.Writer) *JSONWriter { return &JSONWriter{enc: json.NewEncoder(w)} }

// Write writes a batch.
func (w *JSONWriter) Write(b *media.Batch) error {
	var line jsonBatch
	if h := b.Header(); h != w.header {
		w.header = h
		line.Header = &jsonHeader{h.Meta, jsonFormat(h.Video), jsonFormat(h.Audio)}
	}
	for _, f := range b.Frames() {
		line.Frames = append(line.Frames, jsonFrame{f.Track.String(), f.Key, f.DTS.Milliseconds(), f.PTS.Milliseconds(), f.Body})
	}
	return w.enc.Encode(line)
}

// ReadJSON reads what a JSONWriter has written.
func ReadJSON(r io.Reader) ([]*media.Batch, error) {
	var list []*media.Batch
	h := new(media.Header)
	builder := media.NewBuilder(media.NoClock)
	for dec := json.NewDecoder(r); ; {
		var line jsonBatch
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return list, fmt.Errorf("line %d: %w", len(list)+1, err)
		}
		if line.Header != nil {
			h = &media.Header{Meta: line.Header.Meta, Video: media.Format(line.Header.Video), Audio: media.Format(line.Header.Audio)}
		}
		for i, f := range line.Frames {
			track, ok := tracks[f.Track]
			if !ok {
				return list, fmt.Errorf("line %d: frame %d: there is no track %q", len(list)+1, i, f.Track)
			}
			builder.Copy(media.Frame{
				Track: track, Key: f.Key, Body: f.Body,
				DTS: time.Duration(f.DTS) * time.Millisecond, PTS: time.Duration(f.PTS) * time.Millisecond,
			})
		}
		if b := builder.Batch(h); b != nil {
			list = append(list, b)
		}
	}
}

var tracks = map[string]media.Track{"audio": media.Audio, "video": media.Video, "data": media.Data}
