// The stream that everybody watches: shaped like H.264 and AAC of 2.1 Mbit/s,
// with the wall-clock time of its sending in each frame.

package main

import (
	"encoding/binary"
	"time"
)

const (
	gop       = 50 // frames at 25 a second: 2 s
	keySize   = 60_000
	interSize = 8_980
	audioSize = 371
	videoStep = 40 * time.Millisecond
	audioStep = 23220 * time.Microsecond
	pubChunk  = 65536
	filmRate  = 266_000 // bytes a second, more or less
)

// magic marks a stamped frame, after the codec's own bytes.
const magic = 0x6d65646961643031

// A stamp is what a frame carries: its number on its track, and when it was sent.
type stamp struct {
	number uint64
	sent   time.Time
}

// A film makes frames.
type film struct {
	video, audio uint64 // frames made
	key, inter   []byte
	sound        []byte
}

func newFilm() *film {
	f := &film{key: make([]byte, keySize), inter: make([]byte, interSize), sound: make([]byte, audioSize)}
	copy(f.key, []byte{0x17, 1, 0, 0, 0})
	binary.BigEndian.PutUint32(f.key[5:], keySize-9)
	f.key[9] = 0x65
	copy(f.inter, []byte{0x27, 1, 0, 0, 0})
	binary.BigEndian.PutUint32(f.inter[5:], interSize-9)
	f.inter[9] = 0x41
	copy(f.sound, []byte{0xaf, 1})
	return f
}

// The offsets of the stamp in the bodies of the tracks.
const (
	videoStamp = 10
	audioStamp = 2
)

// next returns the next frame, not yet stamped, and when it is due.
func (f *film) next() (kind byte, due time.Duration, body []byte) {
	v, a := time.Duration(f.video)*videoStep, time.Duration(f.audio)*audioStep
	if a < v {
		binary.BigEndian.PutUint64(f.sound[audioStamp+8:], f.audio)
		f.audio++
		return typeAudio, a, f.sound
	}
	body = f.inter
	if f.video%gop == 0 {
		body = f.key
	}
	binary.BigEndian.PutUint64(body[videoStamp+8:], f.video)
	f.video++
	return typeVideo, v, body
}

// mark stamps a frame with the time now.
func mark(kind byte, body []byte) {
	at := videoStamp
	if kind == typeAudio {
		at = audioStamp
	}
	binary.BigEndian.PutUint64(body[at:], magic)
	binary.BigEndian.PutUint64(body[at+16:], uint64(time.Now().UnixNano()))
}

// readStamp returns the stamp of a frame of which the first bytes are given.
func readStamp(kind byte, body []byte) (s stamp, ok bool) {
	at := videoStamp
	if kind == typeAudio {
		at = audioStamp
	}
	if binary.BigEndian.Uint64(body[at:]) != magic {
		return s, false
	}
	return stamp{
		number: binary.BigEndian.Uint64(body[at+8:]),
		sent:   time.Unix(0, int64(binary.BigEndian.Uint64(body[at+16:]))),
	}, true
}

// The codec configuration: H.264 baseline 3.0, of 640x360, and AAC-LC 44.1 kHz stereo.
var (
	videoConfig = append([]byte{0x17, 0, 0, 0, 0, 1, 0x42, 0xc0, 0x1e, 0xff, 0xe1, 0, 15},
		0x67, 0x42, 0xc0, 0x1e, 0xd9, 0x00, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00,
		1, 0, 4, 0x68, 0xce, 0x3c, 0x80)
	audioConfig = []byte{0xaf, 0, 0x12, 0x10}
)

// csidOf are the chunk streams that frames are sent on.
var csidOf = map[byte]byte{typeAudio: 4, typeVideo: 6}
