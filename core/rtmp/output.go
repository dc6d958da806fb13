// The write side of a connection: messages are gathered and written together.

package rtmp

import (
	"encoding/binary"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// chunkSize is the size of all chunks that are sent, so that the chunks of a
// batch are the same for every viewer. More than this Flash did not take.
const chunkSize = 65536

// The chunk streams that are written on. Messages on the chunk stream of a track are written
// with deltas; all others have headers of type 0.
const (
	csidControl = 2 // fixed by the specification (5.4)
	csidCommand = 3
	csidAudio   = 4
	csidStatus  = 5 // whatever is about one message stream and is no frame
	csidVideo   = 6
	csidData    = 7
)

// tracks is the number of tracks, index where one stands in an array of them.
const tracks = 3

func index(t media.Track) int {
	switch t {
	case media.Audio:
		return 0
	case media.Video:
		return 1
	}
	return 2
}

// csidOf are the chunk streams of the tracks, by index.
var csidOf = [tracks]byte{csidAudio, csidVideo, csidData}

// An output writes messages to a connection. Its methods are called with it locked: lock,
// put what there is, flush, unlock.
type output struct {
	clocks [tracks]trackClock // what the chunk streams of the tracks count from
	nowait.Writer
}

// A trackClock is where the chunk stream of a track stands: the viewer that it
// was written for last, and the time of the frame, in milliseconds on the
// timeline of the media.
type trackClock struct {
	viewer *viewer
	time   int64
}

// type3 are the headers between the chunks of a message, by chunk stream.
var type3 = [...][]byte{{0xc0}, {0xc1}, {0xc2}, {0xc3}, {0xc4}, {0xc5}, {0xc6}, {0xc7}}

// put adds a message with a header of type 0. The payload is kept until flush
// has returned.
func (o *output) put(csid byte, kind rtmpmsg.TypeID, stream, time uint32, payload []byte) {
	o.Queue = append(o.Queue, o.header(csid, kind, stream, time, len(payload)))
	separator := type3[csid]
	if time >= extended {
		at := len(o.Scratch)
		o.Scratch = binary.BigEndian.AppendUint32(append(o.Scratch, separator[0]), time)
		separator = o.Scratch[at:]
	}
	o.Queue = divide(o.Queue, payload, chunkSize, separator)
}

// divide appends p to queue with a separator after the first bytes of it, and
// then after each whole chunk.
func divide(queue [][]byte, p []byte, first int, separator []byte) [][]byte {
	for n := first; len(p) > n; n = chunkSize {
		queue = append(queue, p[:n], separator)
		p = p[n:]
	}
	return append(queue, p)
}

// header makes a message header of type 0 (RTMP 1.0, 5.3.1.2.1).
func (o *output) header(csid byte, kind rtmpmsg.TypeID, stream, time uint32, length int) []byte {
	at := len(o.Scratch)
	field := min(time, extended)
	h := append(o.Scratch, csid,
		byte(field>>16), byte(field>>8), byte(field),
		byte(length>>16), byte(length>>8), byte(length), byte(kind))
	h = binary.LittleEndian.AppendUint32(h, stream)
	if field == extended {
		h = binary.BigEndian.AppendUint32(h, time)
	}
	o.Scratch = h
	return h[at:]
}

// send writes one message.
func (o *output) send(csid byte, kind rtmpmsg.TypeID, stream uint32, payload []byte) error {
	o.Lock()
	defer o.Unlock()
	o.put(csid, kind, stream, 0, payload)
	return o.Flush()
}
