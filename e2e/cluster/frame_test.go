// Frames that can be told apart and checked: made-up H.264 whose bodies say who
// sent them, which they are, and when.

package lab

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
)

// A frame is what a viewer knows of one that it got.
type frame struct {
	by   byte      // its publisher
	n    int       // the publisher's first is 0
	sent time.Time // when it was due
	came time.Time
	dts  time.Duration // on the viewer's timeline
}

// rate and gop are those of all publishers: a keyframe each second.
const (
	rate = 25
	gop  = 25
)

// span is the time of a frame.
const span = time.Second / rate

// config is a message with the codec's configuration.
var config = []byte("\x17\x00\x00\x00\x00\x01\x64\x00\x1e\xff\xe1\x00\x00\x01\x00\x00")

// Behind the five bytes of FLV's video tag (E.4.3.1) stand the publisher, the number, the
// time and the size, and at the end a sum of all.
const frameHead, frameSum = 5 + 1 + 4 + 8 + 4, 4

// body makes the body of a frame.
func body(by byte, n, size int, sent time.Time) []byte {
	p := make([]byte, 0, size)
	if n%gop == 0 {
		p = append(p, "\x17\x01\x00\x00\x00"...)
	} else {
		p = append(p, "\x27\x01\x00\x00\x00"...)
	}
	p = append(p, by)
	p = binary.BigEndian.AppendUint32(p, uint32(n))
	p = binary.BigEndian.AppendUint64(p, uint64(sent.UnixNano()))
	p = binary.BigEndian.AppendUint32(p, uint32(size))
	p = p[:size-frameSum]
	return binary.BigEndian.AppendUint32(p, crc32.ChecksumIEEE(p))
}

// read takes a message for a frame; ok is false for one that is none.
func read(m rtmp.Message) (f frame, ok bool, err error) {
	if m.Kind != rtmp.KindMedia || m.Track != media.Video {
		return f, false, nil
	}
	if p, err := flv.ParsePacket(media.Video, m.Body); err != nil || p.Kind != flv.Coded {
		return f, false, err
	}
	b := m.Body
	if len(b) < frameHead+frameSum || len(b) != int(binary.BigEndian.Uint32(b[18:])) {
		return f, false, fmt.Errorf("a frame of %d bytes is not what was sent", len(b))
	}
	if end := len(b) - frameSum; crc32.ChecksumIEEE(b[:end]) != binary.BigEndian.Uint32(b[end:]) {
		return f, false, fmt.Errorf("frame %d of publisher %c is damaged", binary.BigEndian.Uint32(b[6:]), b[5])
	}
	return frame{
		by:   b[5],
		n:    int(binary.BigEndian.Uint32(b[6:])),
		sent: time.Unix(0, int64(binary.BigEndian.Uint64(b[10:]))),
		came: time.Now(),
		dts:  time.Duration(m.Time) * time.Millisecond,
	}, true, nil
}
