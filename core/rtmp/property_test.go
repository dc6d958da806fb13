package rtmp

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/mediad/mediad/core/media"
)

// Any sequence of messages, chunked with any chunk sizes and headers, and in turns on
// any chunk streams, is read back as the same sequence.
func FuzzChunked(f *testing.F) {
	for seed := range uint64(100) {
		program := make([]byte, 200)
		_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(program)
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		s := sender{size: 128, streams: map[uint32]*sending{}}
		for len(program) >= 6 {
			s.step([6]byte(program))
			program = program[6:]
		}
		for _, csid := range csids {
			for s.streams[csid] != nil && s.streams[csid].left != nil {
				s.chunk(csid)
			}
		}
		for _, r := range []io.Reader{bytes.NewReader(s.wire), iotest.OneByteReader(bytes.NewReader(s.wire))} {
			got, err := readAll(newChunkReader(r, func(string) {}))
			if err != io.EOF || !slices.Equal(got, s.sent) {
				t.Fatalf("read %d messages of %d, then %v", len(got), len(s.sent), err)
			}
		}
	})
}

// csids are of one, two and three bytes.
var csids = []uint32{4, 6, 70, 400}

// A sender is the writing side of chunk streams, by the specification (5.3.1).
type sender struct {
	size    int
	streams map[uint32]*sending
	wire    []byte
	sent    []read // the messages that are whole, in the order of their ends
}

// A sending is a chunk stream: what the headers so far have said, and the message that
// is under way.
type sending struct {
	read
	field   uint32 // the last timestamp or delta
	repeats bool   // the extended timestamp
	left    []byte // nil between messages
}

// step does what six bytes say: it changes the chunk size, goes on with a message, or
// begins one.
func (s *sender) step(p [6]byte) {
	csid := csids[p[1]%4]
	st := s.streams[csid]
	switch {
	case p[0] < 16:
		s.resize(1 + int(p[1]) + int(p[2])<<(p[3]%8))
	case st != nil && st.left != nil:
		s.chunk(csid)
	default:
		s.begin(csid, p)
	}
}

// resize tells the chunk size, in chunks of the one before.
func (s *sender) resize(size int) {
	c := chunk{csid: 2, length: 4, kind: 1}
	for data := binary.BigEndian.AppendUint32(nil, uint32(size)); len(data) > 0; c = (chunk{csid: 2, format: 3}) {
		n := min(s.size, len(data))
		c.data, data = data[:n], data[n:]
		s.wire = append(s.wire, c.bytes()...)
	}
	s.size = size
}

// begin writes the first chunk of a message, with a header that leaves out as much as
// it can, if the step wants that.
func (s *sender) begin(csid uint32, p [6]byte) {
	st, first := s.streams[csid], false
	if st == nil {
		st, first = &sending{repeats: p[0]%2 == 0}, true
		s.streams[csid] = st
	}
	kind := []byte{8, 9, 18}[p[2]%3]
	length := 1 + int(p[3])<<(p[2]%4)
	delta := uint32(p[4]) << (p[5] % 24) // beyond 24 bits too
	c := chunk{csid: csid, length: length, kind: kind, stream: uint32(p[5] % 2)}
	switch {
	case first || p[0]%4 == 0 || c.stream != st.stream:
		st.time = st.time + delta
		c.field = st.time
	case p[0]%4 == 1 || length != len(st.data) || kind != st.kind:
		c.format, c.field = 1, delta
		st.time += delta
	case p[0]%4 == 2 || delta != st.field:
		c.format, c.field = 2, delta
		st.time += delta
	default:
		c.format, c.field = 3, st.field
		st.time += st.field
	}
	st.kind, st.stream, st.field = kind, c.stream, c.field
	body := bytes.Repeat([]byte{byte(len(s.wire)) | 1}, length)
	st.data, st.left = string(body), body
	s.put(st, c)
}

// chunk goes on with the message that is under way.
func (s *sender) chunk(csid uint32) {
	st := s.streams[csid]
	s.put(st, chunk{format: 3, csid: csid})
}

// put writes a chunk with as much of the message as goes into it.
func (s *sender) put(st *sending, c chunk) {
	n := min(s.size, len(st.left))
	// Who does not repeat it must not seem to by what follows.
	seems := n < 4 || binary.BigEndian.Uint32(st.left) == st.field
	if st.field >= extended && (c.format < 3 || st.repeats || seems) {
		c.long = long(st.field)
	}
	c.field = min(c.field, extended)
	c.data = st.left[:n]
	s.wire = append(s.wire, c.bytes()...)
	if st.left = st.left[n:]; len(st.left) == 0 {
		st.left = nil
		s.sent = append(s.sent, st.read)
	}
}

// Any frames in any batches are read back by a client as they are, whichever of the two
// ways of writing them a viewer's output takes.
func FuzzPlayed(f *testing.F) {
	for seed := range uint64(50) {
		program := make([]byte, 120)
		_, _ = rand.NewChaCha8([32]byte{byte(seed), 1}).Read(program)
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		program = program[:min(len(program), 400)] // 100 frames of up to 255 KiB; what takes 10 s is a hang to the fuzzer
		conn, viewers := newViewers(1)
		v := viewers[0]
		h := &media.Header{Video: media.Format{Codec: "vp6"}, Audio: media.Format{Codec: "mp3"}}
		b := media.NewBuilder(media.NoClock)
		times := map[media.Track]int64{}
		var want []read
		end := func() {
			if batch := b.Batch(h); batch != nil {
				if err := v.Write([]*media.Batch{batch}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for ; len(program) >= 4; program = program[4:] {
			p := program
			track := []media.Track{media.Audio, media.Video, media.Data}[p[0]%3]
			times[track] += int64(p[1]) << (p[2] % 20)
			body := bytes.Repeat([]byte{p[3]}, 1+int(p[3])<<(p[2]%11))
			dts := ms(times[track])
			b.Copy(media.Frame{Track: track, DTS: dts, PTS: dts, Body: body})
			want = append(want, read{byte(track), 1, uint32(times[track]), string(body)})
			switch {
			case p[0] < 64:
				end()
			case p[0] < 80: // a join, after which no delta counts
				end()
				v.Timeline(0)
			}
		}
		end()
		if got := conn.messages(t); !slices.Equal(got, want) {
			t.Fatalf("read %d messages, want %d", len(got), len(want))
		}
	})
}
