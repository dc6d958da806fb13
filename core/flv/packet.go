// Package flv reads and writes FLV: the heads of audio and video packets, which
// FLV tags and RTMP messages share, files that are served, and recordings that
// survive a crash. It follows Adobe's Video File Format Specification 10.1,
// annex E, and Enhanced RTMP v2 (Veovera) for the packets with a FourCC.
package flv

import (
	"errors"
	"fmt"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/yutopp/go-flv/tag"
)

// A PacketKind is what an audio or video packet holds.
type PacketKind uint8

// The kinds. Other is what a player may want but no decoder starts from: colour
// metadata, commands, and all packets of a further track of multitrack media.
const (
	Coded PacketKind = iota
	Config
	End
	Other
)

// A Packet is what the head of a tag body tells.
type Packet struct {
	Codec string // as ffprobe prints it, "" for commands and metadata
	Kind  PacketKind
	Key   bool // a video frame from which a decoder can start
	CTS   time.Duration
}

var errShort = errors.New("it ends within its head")

// ParsePacket reads the head of an audio or video tag body. In multitrack media
// it tells of the first track.
func ParsePacket(track media.Track, body []byte) (Packet, error) {
	parse := parseAudio
	if track == media.Video {
		parse = parseVideo
	}
	p, err := parse(body)
	if err != nil {
		return Packet{}, fmt.Errorf("%s packet of %d bytes: %w", track, len(body), err)
	}
	return p, nil
}

// videoCodecs are the codec ids (E.4.3.1). 12 is no part of the specification but
// what encoders and CDNs in China use for HEVC, laid out as AVC is.
var videoCodecs = map[tag.CodecID]string{
	tag.CodecIDSorensonH263:           "flv1",
	tag.CodecIDScreenVideo:            "flashsv",
	tag.CodecIDOn2VP6:                 "vp6f",
	tag.CodecIDOn2VP6WithAlphaChannel: "vp6a",
	tag.CodecIDScreenVideoVersion2:    "flashsv2",
	tag.CodecIDAVC:                    "h264",
	codecHEVC:                         "hevc",
}

const codecHEVC tag.CodecID = 12

// fourCCs are the codecs of the enhanced heads.
var fourCCs = map[string]string{
	"vp08": "vp8", "vp09": "vp9", "av01": "av1", "avc1": "h264", "hvc1": "hevc", "vvc1": "vvc",
	"ac-3": "ac3", "ec-3": "eac3", "Opus": "opus", ".mp3": "mp3", "fLaC": "flac", "mp4a": "aac",
}

// The packet types of AVC and AAC, which those of the enhanced heads go on from.
const (
	typeConfig     = 0 // sequence start
	typeFrames     = 1
	typeEnd        = 2 // sequence end
	typeFramesX    = 3 // video: frames without composition time
	typeMetadata   = 4 // video
	typeMultitrack = 5 // audio; 6 for video
	typeModEx      = 7
)

func parseVideo(b []byte) (Packet, error) {
	if len(b) == 0 {
		return Packet{}, errShort
	}
	frame := tag.FrameType(b[0] >> 4 & 7)
	if b[0]&0x80 != 0 {
		return parseEnhancedVideo(frame, b)
	}
	id := tag.CodecID(b[0] & 15)
	codec, ok := videoCodecs[id]
	switch {
	case frame == tag.FrameTypeVideoInfoCommandFrame:
		return Packet{Kind: Other}, nil
	case !ok:
		return Packet{}, fmt.Errorf("video codec %d is not known", id)
	}
	p := Packet{Codec: codec, Key: frame == tag.FrameTypeKeyFrame}
	if id != tag.CodecIDAVC && id != codecHEVC {
		return p, nil
	}
	if len(b) < 2 {
		return Packet{}, errShort
	}
	return p.video(b[1], b[2:], true)
}

// video fills in what an AVC packet type, and the enhanced one, says of p; rest
// is what follows, with the composition time in front where cts says so.
func (p Packet) video(typ byte, rest []byte, cts bool) (Packet, error) {
	switch typ {
	case typeConfig:
		p.Kind, p.Key = Config, false
	case typeFrames, typeFramesX:
	case typeEnd:
		p.Kind, p.Key = End, false
		return p, nil
	default:
		return Packet{}, fmt.Errorf("video packet type %d is not known", typ)
	}
	if !cts {
		return p, nil
	}
	if len(rest) < 3 {
		return Packet{}, errShort
	}
	if p.Kind == Coded {
		ms := int32(uint32(rest[0])<<24|uint32(rest[1])<<16|uint32(rest[2])<<8) >> 8
		p.CTS = time.Duration(ms) * time.Millisecond
	}
	return p, nil
}

func parseEnhancedVideo(frame tag.FrameType, b []byte) (Packet, error) {
	typ, rest, err := skipModEx(b[0]&15, b[1:])
	if err != nil {
		return Packet{}, err
	}
	if typ == typeMetadata || frame == tag.FrameTypeVideoInfoCommandFrame {
		return Packet{Kind: Other}, nil
	}
	h, err := parseFourCC(typ, typeMultitrack+1, rest)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Codec: h.codec, Key: frame == tag.FrameTypeKeyFrame}
	switch h.typ {
	case typeMetadata, typeMetadata + 1: // 5 is a sequence start for MPEG-2 TS
		return Packet{Codec: h.codec, Kind: Other}, nil
	}
	cts := h.typ == typeFrames && (h.codec == "h264" || h.codec == "hevc" || h.codec == "vvc")
	p, err = p.video(h.typ, h.rest, cts)
	if h.further {
		p.Kind, p.Key = Other, false
	}
	return p, err
}

func parseAudio(b []byte) (Packet, error) {
	if len(b) == 0 {
		return Packet{}, errShort
	}
	format := tag.SoundFormat(b[0] >> 4)
	switch format {
	case tag.SoundFormatReserved:
		return parseEnhancedAudio(b)
	case tag.SoundFormatAAC:
		if len(b) < 2 {
			return Packet{}, errShort
		}
		return Packet{Codec: "aac"}.audio(b[1])
	}
	codec := audioCodecs[format]
	if eightBit := b[0]&2 == 0; codec == "pcm_s16le" && eightBit {
		codec = "pcm_u8"
	}
	if codec == "" {
		return Packet{}, fmt.Errorf("audio format %d is not known", format)
	}
	return Packet{Codec: codec}, nil
}

// audioCodecs are the sound formats (E.4.2.1) that have no packet type.
var audioCodecs = map[tag.SoundFormat]string{
	tag.SoundFormatLinearPCMPlatformEndian: "pcm_s16le",
	tag.SoundFormatADPCM:                   "adpcm_swf",
	tag.SoundFormatMP3:                     "mp3",
	tag.SoundFormatLinearPCMLittleEndian:   "pcm_s16le",
	tag.SoundFormatNellymoser16kHzMono:     "nellymoser",
	tag.SoundFormatNellymoser8kHzMono:      "nellymoser",
	tag.SoundFormatNellymoser:              "nellymoser",
	tag.SoundFormatG711ALawLogarithmicPCM:  "pcm_alaw",
	tag.SoundFormatG711muLawLogarithmicPCM: "pcm_mulaw",
	tag.SoundFormatSpeex:                   "speex",
	tag.SoundFormatMP3_8kHz:                "mp3",
}

// audio fills in what an AAC packet type, and the enhanced one, says of p.
func (p Packet) audio(typ byte) (Packet, error) {
	switch typ {
	case typeConfig:
		p.Kind = Config
	case typeFrames:
	case typeEnd:
		p.Kind = End
	default:
		return Packet{}, fmt.Errorf("audio packet type %d is not known", typ)
	}
	return p, nil
}

func parseEnhancedAudio(b []byte) (Packet, error) {
	typ, rest, err := skipModEx(b[0]&15, b[1:])
	if err != nil {
		return Packet{}, err
	}
	h, err := parseFourCC(typ, typeMultitrack, rest)
	if err != nil {
		return Packet{}, err
	}
	if h.typ == 4 { // the order of the channels
		return Packet{Codec: h.codec, Kind: Other}, nil
	}
	p, err := Packet{Codec: h.codec}.audio(h.typ)
	if h.further {
		p.Kind = Other
	}
	return p, err
}

// skipModEx skips the modifiers in front of an enhanced head and returns the
// packet type behind them.
func skipModEx(typ byte, b []byte) (byte, []byte, error) {
	for typ == typeModEx {
		if len(b) < 1 {
			return 0, nil, errShort
		}
		n := int(b[0]) + 1
		b = b[1:]
		if n == 256 {
			if len(b) < 2 {
				return 0, nil, errShort
			}
			n = int(b[0])<<8 + int(b[1]) + 1
			b = b[2:]
		}
		if len(b) < n+1 {
			return 0, nil, errShort
		}
		typ, b = b[n]&15, b[n+1:]
	}
	return typ, b, nil
}

// A fourCC is the part of an enhanced head from the FourCC on.
type fourCC struct {
	typ     byte // of the track's packet
	codec   string
	further bool // the only track inside is not the first
	rest    []byte
}

// How tracks lie in a multitrack packet.
const (
	oneTrack             = 0
	manyTracksManyCodecs = 2
)

func parseFourCC(typ, multitrack byte, b []byte) (fourCC, error) {
	h := fourCC{typ: typ}
	var layout byte
	if typ == multitrack {
		if len(b) < 1 {
			return h, errShort
		}
		layout, h.typ, b = b[0]>>4, b[0]&15, b[1:]
		if layout > manyTracksManyCodecs || h.typ == multitrack {
			return h, fmt.Errorf("a multitrack packet of layout %d and type %d", layout, h.typ)
		}
	}
	if len(b) < 4 {
		return h, errShort
	}
	h.codec = fourCCs[string(b[:4])]
	if h.codec == "" {
		return h, fmt.Errorf("codec %q is not known", b[:4])
	}
	h.rest = b[4:]
	if typ != multitrack {
		return h, nil
	}
	if len(h.rest) < 1 {
		return h, errShort
	}
	h.further = layout == oneTrack && h.rest[0] != 0
	h.rest = h.rest[1:]
	if layout == oneTrack {
		return h, nil
	}
	if len(h.rest) < 3 {
		return h, errShort
	}
	h.rest = h.rest[3:] // the size of the track's packet
	return h, nil
}
