// The metadata that players and recordings get.

package flv

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

// metaFor returns meta with the duration, and with what codecs h has where meta
// does not say. What only holds for the file that meta comes from is left out.
func metaFor(h *media.Header, meta amf.Object, duration time.Duration) amf.ECMAArray {
	out := amf.ECMAArray{{Key: "duration", Value: duration.Seconds()}}
	for _, f := range meta {
		if !slices.Contains(ofTheFile, f.Key) {
			out = append(out, f)
		}
	}
	for _, c := range []struct {
		key   string
		track media.Track
		codec string
	}{{"videocodecid", media.Video, h.Video.Codec}, {"audiocodecid", media.Audio, h.Audio.Codec}} {
		if id, ok := codecID(c.track, c.codec); ok && out.Get(c.key) == nil {
			out = append(out, amf.Field{Key: c.key, Value: id})
		}
	}
	return out
}

// ofTheFile are the fields that are true of one file only.
var ofTheFile = []string{"duration", "keyframes", "hasKeyframes", "filesize", "datasize", "videosize", "audiosize",
	"lasttimestamp", "lastkeyframetimestamp", "lastkeyframelocation", "canSeekToEnd", "metadatacreator"}

// codecID returns what metadata calls a codec: its id, or its FourCC as a number
// where it has none (Enhanced RTMP v2, Metadata).
func codecID(track media.Track, codec string) (float64, bool) {
	if track == media.Video && codec != "hevc" { // 12 is not what the specifications call it
		for id, name := range videoCodecs {
			if name == codec {
				return float64(id), true
			}
		}
	}
	if track == media.Audio && codec == "aac" {
		return 10, true
	}
	best, found := 0.0, false
	for format, name := range audioCodecs {
		if id := float64(format); track == media.Audio && name == codec && (!found || id < best) {
			best, found = id, true
		}
	}
	if found {
		return best, true
	}
	for cc, name := range fourCCs {
		if name == codec {
			return float64(binary.BigEndian.Uint32([]byte(cc))), true
		}
	}
	return 0, false
}
