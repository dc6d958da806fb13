// The tracks of media in the terms of MP4 and HLS: how a header is configured, and
// what of a frame's body is the sample.

package web

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/opus"
	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
)

// A track is one track of media.
type track struct {
	kind   media.Track
	codec  string
	config []byte // the decoder's configuration, as in avcC, hvcC, av1C, esds, or an OpusHead

	width, height int

	rate, channels int

	// Of H.264 and HEVC: the parameter sets, in the order in which they stand before
	// a keyframe, and the size of the length in front of each NAL unit.
	params     [][]byte
	lengthSize int
}

var errShort = errors.New("it is cut off")

// tracksOf returns the tracks of h, the video first, that MP4 and HLS have here, and
// the codec of one that is left out.
func tracksOf(h *media.Header) (tracks []track, left string, err error) {
	for _, f := range []struct {
		kind media.Track
		media.Format
	}{{media.Video, h.Video}, {media.Audio, h.Audio}} {
		if f.Codec == "" {
			continue
		}
		configure := codecs[f.Codec]
		if configure == nil {
			left = f.Codec
			continue
		}
		t := track{kind: f.kind, codec: f.Codec, config: f.Config[headSize(f.kind, f.Config):]}
		if err := configure(&t); err != nil {
			return nil, "", fmt.Errorf("configuration of %s: %w", f.Codec, err)
		}
		tracks = append(tracks, t)
	}
	if len(tracks) == 0 {
		return nil, left, &httpError{406, fmt.Sprintf("the codec %q can only be watched as FLV", left)}
	}
	return tracks, left, nil
}

var codecs = map[string]func(*track) error{
	"h264": (*track).configureAVC,
	"hevc": (*track).configureHEVC,
	"av1":  (*track).configureAV1,
	"aac":  (*track).configureAAC,
	"opus": (*track).configureOpus,
}

// configureAVC reads an avcC (14496-15, 5.3.3.1).
func (t *track) configureAVC() error {
	r := reader{p: t.config}
	r.take(4)
	t.lengthSize = int(r.uint(1)&3) + 1
	for range 2 { // SPS and PPS
		for n := r.uint(1) & 31; n > 0 && !r.short; n-- {
			t.params = append(t.params, r.take(int(r.uint(2))))
		}
	}
	if r.short || len(t.params) < 2 || slices.ContainsFunc(t.params, empty) {
		return errShort
	}
	var sps h264.SPS
	if err := sps.Unmarshal(t.params[0]); err != nil {
		return err
	}
	t.width, t.height = sps.Width(), sps.Height()
	return nil
}

func empty(p []byte) bool { return len(p) == 0 }

// configureHEVC reads an hvcC (14496-15, 8.3.3.1).
func (t *track) configureHEVC() error {
	r := reader{p: t.config}
	r.take(21)
	t.lengthSize = int(r.uint(1)&3) + 1
	for arrays := r.uint(1); arrays > 0 && !r.short; arrays-- {
		kind := h265.NALUType(r.uint(1) & 63)
		for n := r.uint(2); n > 0 && !r.short; n-- {
			p := r.take(int(r.uint(2)))
			t.params = append(t.params, p)
			if kind != h265.NALUType_SPS_NUT || t.width > 0 {
				continue
			}
			var sps h265.SPS
			if err := sps.Unmarshal(p); err != nil {
				return err
			}
			t.width, t.height = sps.Width(), sps.Height()
		}
	}
	if r.short || t.width == 0 || slices.ContainsFunc(t.params, empty) {
		return errShort
	}
	return nil
}

// configureAV1 reads an av1C (AV1 in ISOBMFF, 2.3.3).
func (t *track) configureAV1() error {
	r := reader{p: t.config}
	r.take(4)
	if r.short || len(r.p) == 0 {
		return errShort
	}
	var obus av1.Bitstream
	if err := obus.Unmarshal(r.p); err != nil {
		return err
	}
	var sequence av1.SequenceHeader
	if err := sequence.Unmarshal(obus[0]); err != nil {
		return err
	}
	t.params = obus[:1]
	t.width, t.height = sequence.Width(), sequence.Height()
	return nil
}

// configureAAC reads an AudioSpecificConfig (14496-3, 1.6.2.1).
func (t *track) configureAAC() error {
	var c mpeg4audio.AudioSpecificConfig
	if err := c.Unmarshal(t.config); err != nil {
		return err
	}
	if len(t.config) > 64 { // more does not fit into the short form of its descriptors
		return fmt.Errorf("it has %d bytes", len(t.config))
	}
	t.rate, t.channels = c.SampleRate, int(c.ChannelConfig)
	if t.channels == 7 {
		t.channels = 8
	}
	return nil
}

// configureOpus reads an OpusHead (RFC 7845, 5.1).
func (t *track) configureOpus() error {
	var head opus.IDHeader
	if err := head.Unmarshal(t.config); err != nil {
		return err
	}
	t.rate, t.channels = 48000, int(head.ChannelCount)
	return nil
}

// sample returns the sample of a frame of the track t, and false for one that is none:
// of another codec, a command, or of a further track.
func (t *track) sample(f media.Frame) ([]byte, bool) {
	n, ok := t.sampleSize(f, len(f.Body))
	return f.Body[len(f.Body)-n:], ok
}

// sampleSize is the size of the sample in a body of which f has the codec header at least.
func (t *track) sampleSize(f media.Frame, size int) (int, bool) {
	p, err := flv.ParsePacket(f.Track, f.Body)
	if err != nil || p.Kind != flv.Coded || p.Codec != t.codec {
		return 0, false
	}
	n := size - headSize(f.Track, f.Body)
	return n, n > 0
}

// headSize is how many bytes of a tag body come before the sample or the configuration
// (FLV 10.1, E.4; Enhanced RTMP v2), all for one that cannot be told.
func headSize(kind media.Track, body []byte) int {
	switch {
	case len(body) == 0:
		return 0
	case kind == media.Video && body[0]&0x80 == 0:
		return min(5, len(body)) // with packet type and composition time
	case kind == media.Audio && body[0]>>4 != 9:
		return min(2, len(body))
	}
	r := reader{p: body}
	typ := r.uint(1) & 15
	for typ == 7 { // ModEx
		n := r.uint(1) + 1
		if n == 256 {
			n = r.uint(2) + 1
		}
		r.take(int(n))
		typ = r.uint(1) & 15
	}
	multitrack := kind == media.Video && typ == 6 || kind == media.Audio && typ == 5
	if multitrack {
		layout := r.uint(1)
		if layout>>4 != 0 { // several tracks in one body
			return len(body)
		}
		typ = layout & 15
	}
	codec := string(r.take(4))
	if multitrack {
		r.take(1)
	}
	if kind == media.Video && typ == 1 && (codec == "avc1" || codec == "hvc1" || codec == "vvc1") {
		r.take(3)
	}
	if r.short {
		return len(body)
	}
	return len(body) - len(r.p)
}

// units divides a sample of H.264 or HEVC into its NAL units. Empty ones are left out.
func (t *track) units(sample []byte) ([][]byte, error) {
	var units [][]byte
	for r := (reader{p: sample}); len(r.p) > 0; {
		unit := r.take(int(r.uint(t.lengthSize)))
		if r.short {
			return nil, errShort
		}
		if len(unit) > 0 {
			units = append(units, unit)
		}
	}
	return units, nil
}

// A reader takes bytes from the front of p; short says that there were not enough.
type reader struct {
	p     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.p) {
		r.p, r.short = nil, true
		return nil
	}
	p := r.p[:n:n]
	r.p = r.p[n:]
	return p
}

func (r *reader) uint(n int) uint32 {
	var b [4]byte
	copy(b[4-n:], r.take(n))
	return binary.BigEndian.Uint32(b[:])
}
