// Folding of codec configuration and metadata into headers.

package flv

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

// ErrNoConfig is the error for a frame that came before the codec configuration
// without which it cannot be decoded.
var ErrNoConfig = errors.New("no codec configuration has come yet")

// State is what stands in the headers of the media that passes through it. Its
// zero value is ready. It is used by one goroutine; the headers may be shared.
type State struct{ header *media.Header }

// Header is what is in force for the frame that Push returned last. Its pointer
// changes when, and only when, its content does. It is never nil.
func (s *State) Header() *media.Header {
	if s.header == nil {
		s.header = new(media.Header)
	}
	return s.header
}

// Push takes a tag body or message payload. Configuration and onMetaData go into
// the header: ok is false. All else is a frame, whose Body is body. The error
// wraps ErrNoConfig for a frame that cannot be decoded yet, and else says what is
// wrong with it; s is as before then. Push keeps nothing of body.
func (s *State) Push(track media.Track, dts time.Duration, body []byte) (f media.Frame, ok bool, err error) {
	f = media.Frame{Track: track, DTS: dts, PTS: dts, Body: body}
	if track == media.Data {
		switch meta, ok := metadata(body); {
		case ok:
			return media.Frame{}, false, s.pushMeta(meta)
		case len(body) == 0:
			return media.Frame{}, false, errors.New("data message without content")
		}
		return f, true, nil
	}
	p, err := ParsePacket(track, body)
	if err != nil {
		return media.Frame{}, false, err
	}
	format := &s.Header().Audio
	if track == media.Video {
		format = &s.Header().Video
	}
	switch {
	case p.Kind == Config:
		if format.Codec != p.Codec || !bytes.Equal(format.Config, body) {
			s.setFormat(track, media.Format{Codec: p.Codec, Config: bytes.Clone(body)})
		}
		return media.Frame{}, false, nil
	case p.Kind != Coded && format.Codec == "",
		p.Kind != Other && needsConfig[p.Codec] && (format.Codec != p.Codec || format.Config == nil):
		return media.Frame{}, false, fmt.Errorf("%s frame at %v: %w", track, dts, ErrNoConfig)
	case p.Kind == Coded && format.Codec != p.Codec:
		s.setFormat(track, media.Format{Codec: p.Codec})
	}
	f.Key = p.Key
	f.PTS += p.CTS
	return f, true, nil
}

// needsConfig are the codecs that no decoder can start without configuration.
var needsConfig = map[string]bool{"h264": true, "hevc": true, "vvc": true, "av1": true, "aac": true, "flac": true}

func (s *State) setFormat(track media.Track, f media.Format) {
	h := *s.Header()
	if track == media.Video {
		h.Video = f
	} else {
		h.Audio = f
	}
	s.header = &h
}

// pushMeta takes the body of an onMetaData. What is behind the name and its
// object is left out when it makes no sense.
func (s *State) pushMeta(body []byte) error {
	if bytes.Equal(s.Header().Meta, body) {
		return nil
	}
	values, err := amf.Decode(body)
	switch {
	case err != nil && len(values) >= 2:
		body = amf.Append(nil, values[:2]...)
	case err != nil:
		return fmt.Errorf("onMetaData of %d bytes: %w", len(body), err)
	default:
		body = bytes.Clone(body)
	}
	if bytes.Equal(s.Header().Meta, body) {
		return nil
	}
	h := *s.Header()
	h.Meta = body
	s.header = &h
	return nil
}

var (
	setDataFrame = amf.Append(nil, "@setDataFrame")
	onMetaData   = amf.Append(nil, "onMetaData")
)

// metadata returns the body of an onMetaData without the "@setDataFrame" that
// publishers put in front, and whether it is one.
func metadata(body []byte) ([]byte, bool) {
	body = bytes.TrimPrefix(body, setDataFrame)
	return body, bytes.HasPrefix(body, onMetaData)
}
