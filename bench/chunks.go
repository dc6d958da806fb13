// Just enough RTMP for a load client: chunks are walked through as they come,
// and of each message only the first bytes are kept.

package main

import (
	"encoding/binary"
	"time"

	"github.com/mediad/mediad/core/amf"
)

// head is how much of a message is kept: enough for the stamp of a frame.
const head = 40

// Message types (RTMP 1.0, 5.4 and 7.1).
const (
	typeChunkSize = 1
	typeEvent     = 4
	typeAudio     = 8
	typeVideo     = 9
	typeData      = 18
	typeCommand   = 20
)

// A chunkWalker takes apart the bytes of one connection.
type chunkWalker struct {
	size    int // of chunks
	left    int // bytes of the chunk under way
	current *chunkStream
	header  [12]byte
	have    int // bytes of header
	streams [64]*chunkStream
	message func(*chunkStream)
}

type chunkStream struct {
	kind        byte
	length, got int
	head        [head]byte
}

// isKey reports whether a message is a keyframe of AVC.
func (s *chunkStream) isKey() bool {
	return s.kind == typeVideo && s.head[0] == 0x17 && s.head[1] == 1
}

// walk takes p and calls w.message at the end of each message.
func (w *chunkWalker) walk(p []byte) {
	for len(p) > 0 {
		if w.left == 0 {
			w.header[w.have] = p[0]
			w.have++
			p = p[1:]
			if w.have == headerSize[w.header[0]>>6] {
				w.begin()
			}
			continue
		}
		s := w.current
		n := min(w.left, len(p))
		if s.got < head {
			copy(s.head[s.got:], p[:n])
		}
		s.got += n
		w.left -= n
		p = p[n:]
		if s.got == s.length {
			if s.kind == typeChunkSize {
				w.size = int(binary.BigEndian.Uint32(s.head[:]))
			}
			w.message(s)
			s.got = 0
		}
	}
}

// headerSize is that of the basic and the message header, by type.
var headerSize = [4]int{12, 8, 4, 1}

// begin is the end of a header. Timestamps do not matter here, so a run must end
// before they are extended, after 4 h 39 min.
func (w *chunkWalker) begin() {
	h := w.header[:]
	s := w.streams[h[0]&0x3f]
	if s == nil {
		s = new(chunkStream)
		w.streams[h[0]&0x3f] = s
	}
	if h[0]>>6 < 2 {
		s.length = int(h[4])<<16 | int(h[5])<<8 | int(h[6])
		s.kind = h[7]
	}
	w.current, w.have = s, 0
	w.left = min(w.size, s.length-s.got)
}

// appendMessage appends a message in chunks of the given size.
func appendMessage(dst []byte, chunk int, csid, kind byte, stream, time uint32, payload []byte) []byte {
	n := len(payload)
	dst = append(dst, csid, byte(time>>16), byte(time>>8), byte(time), byte(n>>16), byte(n>>8), byte(n), kind)
	dst = binary.LittleEndian.AppendUint32(dst, stream)
	for len(payload) > chunk {
		dst = append(append(dst, payload[:chunk]...), 0xc0|csid)
		payload = payload[chunk:]
	}
	return append(dst, payload...)
}

// appendCommand appends a command in chunks of the size that holds at first.
func appendCommand(dst []byte, stream uint32, values ...any) []byte {
	return appendMessage(dst, 128, 3, typeCommand, stream, 0, amf.Append(nil, values...))
}

// appendBuffer appends SetBufferLength (RTMP 1.0, 7.1.7).
func appendBuffer(dst []byte, stream uint32, d time.Duration) []byte {
	p := binary.BigEndian.AppendUint32([]byte{0, 3}, stream)
	return appendMessage(dst, 128, 2, typeEvent, 0, 0, binary.BigEndian.AppendUint32(p, uint32(d.Milliseconds())))
}

// greeting is C0 and C1. What S2 echoes is not looked at.
func greeting() []byte { return append([]byte{3}, make([]byte, 1536)...) }

// login is C2 and the commands up to the stream 1, which both servers give.
func login(app, url string) []byte {
	p := make([]byte, 1536)
	p = appendCommand(p, 0, "connect", 1, amf.Object{{Key: "app", Value: app}, {Key: "tcUrl", Value: url}})
	return appendCommand(p, 0, "createStream", 2, nil)
}
