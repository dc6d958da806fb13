package rtmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strconv"
	"testing"
	"testing/iotest"

	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// A chunk is written as its fields say, right or wrong.
type chunk struct {
	format byte
	csid   uint32
	field  uint32 // timestamp or delta
	long   *uint32
	length int
	kind   byte
	stream uint32
	data   []byte
}

func (c chunk) bytes() []byte {
	var b []byte
	switch {
	case c.csid < 64:
		b = append(b, c.format<<6|byte(c.csid))
	case c.csid < 320:
		b = append(b, c.format<<6, byte(c.csid-64))
	default:
		b = binary.LittleEndian.AppendUint16(append(b, c.format<<6|1), uint16(c.csid-64))
	}
	if c.format < 3 {
		b = append(b, byte(c.field>>16), byte(c.field>>8), byte(c.field))
	}
	if c.format < 2 {
		b = append(b, byte(c.length>>16), byte(c.length>>8), byte(c.length), c.kind)
	}
	if c.format < 1 {
		b = binary.LittleEndian.AppendUint32(b, c.stream)
	}
	if c.long != nil {
		b = binary.BigEndian.AppendUint32(b, *c.long)
	}
	return append(b, c.data...)
}

func wireOf(chunks ...chunk) []byte {
	var b []byte
	for _, c := range chunks {
		b = append(b, c.bytes()...)
	}
	return b
}

// read is what a message was read as.
type read struct {
	kind   byte
	stream uint32
	time   uint32
	data   string
}

func readAll(r *chunkReader) (list []read, err error) {
	for {
		m, err := r.next()
		if err != nil {
			return list, err
		}
		list = append(list, read{byte(m.kind), m.stream, m.time, string(m.payload())})
	}
}

func long(v uint32) *uint32 { return &v }

var seq = bytes.Repeat([]byte("0123456789abcdef"), 16) // 256 bytes: two chunks of 128

func TestChunkReader(t *testing.T) {
	video := func(format byte, field uint32, data []byte) chunk {
		return chunk{format: format, csid: 6, field: field, length: len(data), kind: 9, stream: 1, data: data}
	}
	setSize := func(size uint32) chunk {
		return chunk{csid: 2, length: 4, kind: 1, data: binary.BigEndian.AppendUint32(nil, size)}
	}
	abc := []byte("abc")
	for name, c := range map[string]struct {
		chunks  []chunk
		want    []read
		dropped []string
		fails   string // the cause; "" for the end of the bytes
	}{
		"the four types": {
			chunks: []chunk{video(0, 100, abc), video(1, 40, []byte("defg")), video(2, 20, []byte("hijk")), video(3, 0, []byte("lmno"))},
			want:   []read{{9, 1, 100, "abc"}, {9, 1, 140, "defg"}, {9, 1, 160, "hijk"}, {9, 1, 180, "lmno"}},
		},
		"type 3 after type 0": { // 5.3.1.2.4: the delta is the timestamp
			chunks: []chunk{video(0, 40, abc), video(3, 0, abc)},
			want:   []read{{9, 1, 40, "abc"}, {9, 1, 80, "abc"}},
		},
		"type 1 at the start": {
			chunks: []chunk{video(1, 40, abc)},
			want:   []read{{9, 0, 40, "abc"}},
		},
		"type 2 at the start": {chunks: []chunk{video(2, 40, abc)}, fails: causeProtocol},
		"type 3 at the start": {chunks: []chunk{video(3, 40, abc)}, fails: causeProtocol},
		"chunk stream ids of all forms": {
			chunks: []chunk{
				{csid: 63, length: 1, kind: 8, data: abc[:1]}, {csid: 64, length: 1, kind: 8, data: abc[1:2]},
				{csid: 319, length: 1, kind: 8, data: abc[2:]}, {csid: 320, length: 1, kind: 8, data: abc[:1]},
				{csid: 65599, length: 1, kind: 8, data: abc[1:2]},
			},
			want: []read{{8, 0, 0, "a"}, {8, 0, 0, "b"}, {8, 0, 0, "c"}, {8, 0, 0, "a"}, {8, 0, 0, "b"}},
		},
		"two messages in turns": {
			chunks: []chunk{
				{csid: 6, field: 1, length: 256, kind: 9, data: seq[:128]}, {csid: 4, field: 2, length: 3, kind: 8, data: abc},
				{format: 3, csid: 6, data: seq[128:]},
			},
			want: []read{{8, 0, 2, "abc"}, {9, 0, 1, string(seq)}},
		},
		"time wraps": {
			chunks: []chunk{{csid: 6, field: extended, long: long(1<<32 - 5), length: 3, kind: 9, data: abc}, video(1, 40, abc)},
			want:   []read{{9, 0, 1<<32 - 5, "abc"}, {9, 0, 35, "abc"}},
		},
		"extended delta": {
			chunks: []chunk{video(0, 1, abc), {format: 1, csid: 6, field: extended, long: long(extended), length: 3, kind: 9, data: abc}},
			want:   []read{{9, 1, 1, "abc"}, {9, 1, 1 + extended, "abc"}},
		},
		"T07 length changes": {
			chunks:  []chunk{{csid: 6, length: 256, kind: 9, data: seq[:128]}, video(0, 7, abc)},
			want:    []read{{9, 1, 7, "abc"}},
			dropped: []string{"length_changed"},
		},
		"T07 header is repeated": {
			chunks: []chunk{{csid: 6, field: 5, length: 256, kind: 9, data: seq[:128]}, {csid: 6, field: 5, length: 256, kind: 9, data: seq[128:]}},
			want:   []read{{9, 0, 5, string(seq)}},
		},
		"T08 zero length": {
			chunks:  []chunk{video(0, 7, nil), video(1, 3, abc)},
			want:    []read{{9, 1, 10, "abc"}},
			dropped: []string{"empty"},
		},
		"T09 extended timestamp repeated": {
			chunks: []chunk{
				{csid: 6, field: extended, long: long(20000000), length: 256, kind: 9, data: seq[:128]},
				{format: 3, csid: 6, long: long(20000000), data: seq[128:]}, video(1, 40, abc),
			},
			want: []read{{9, 0, 20000000, string(seq)}, {9, 0, 20000040, "abc"}},
		},
		"T09 extended timestamp not repeated": {
			chunks: []chunk{
				{csid: 6, field: extended, long: long(20000000), length: 256, kind: 9, data: seq[:128]},
				{format: 3, csid: 6, data: seq[128:]}, video(1, 40, abc),
			},
			want: []read{{9, 0, 20000000, string(seq)}, {9, 0, 20000040, "abc"}},
		},
		"T10 abort": {
			chunks: []chunk{
				{csid: 6, length: 256, kind: 9, data: seq[:128]}, {csid: 2, length: 4, kind: 2, data: []byte{0, 0, 0, 6}},
				{csid: 2, length: 4, kind: 2, data: []byte{0, 0, 0, 99}}, video(0, 7, abc),
			},
			want:    []read{{9, 1, 7, "abc"}},
			dropped: []string{"aborted"},
		},
		"T11 size 0": {chunks: []chunk{setSize(0)}, fails: causeProtocol},
		"T11 size 1": {
			chunks: []chunk{setSize(1), video(0, 7, abc[:1])},
			want:   []read{{9, 1, 7, "a"}},
		},
		"T11 size 2^31": {
			chunks: []chunk{setSize(1 << 31), video(0, 7, seq)},
			want:   []read{{9, 1, 7, string(seq)}},
		},
		"SetChunkSize cut short": {chunks: []chunk{{csid: 2, length: 3, kind: 1, data: abc}}, fails: causeProtocol},
	} {
		for _, reader := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader} {
			var dropped []string
			r := newChunkReader(reader(bytes.NewReader(wireOf(c.chunks...))), func(cause string) { dropped = append(dropped, cause) })
			got, err := readAll(r)
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: read %v, want %v", name, got, c.want)
			}
			if !slices.Equal(dropped, c.dropped) {
				t.Errorf("%s: dropped %v, want %v", name, dropped, c.dropped)
			}
			var e *ending
			if c.fails == "" && err != io.EOF || c.fails != "" && (!errors.As(err, &e) || e.cause != c.fails) {
				t.Errorf("%s: ended with %v, want %q", name, err, c.fails)
			}
			if r.held != 0 {
				t.Errorf("%s: %d bytes are held at the end", name, r.held)
			}
		}
	}
}

// wants checks that reading b fails with a cause, and with how many bytes held.
func wantEnding(t *testing.T, b []byte, cause string, held int) {
	t.Helper()
	r := newChunkReader(bytes.NewReader(b), func(string) {})
	_, err := readAll(r)
	var e *ending
	if !errors.As(err, &e) || e.cause != cause || r.held != held {
		t.Errorf("ended with %v and %d bytes held, want cause %s and %d", err, r.held, cause, held)
	}
}

func TestT04_MessageOverLimit(t *testing.T) {
	for _, kind := range []byte{1, 4, 8, 9, 15, 17, 18, 20, 22, 99} {
		wantEnding(t, wireOf(chunk{csid: 3, length: maxCommand + 1, kind: kind}), causeTooLarge, 0)
	}
}

func TestT05_ChunkStreams(t *testing.T) {
	var b []byte
	for i := range uint32(maxChunkStreams) {
		b = append(b, wireOf(chunk{csid: 3 + i, length: 1, kind: 8, data: seq[:1]})...)
	}
	got, err := readAll(newChunkReader(bytes.NewReader(b), nil))
	if len(got) != maxChunkStreams || err != io.EOF {
		t.Errorf("%d messages, %v", len(got), err)
	}
	wantEnding(t, append(b, wireOf(chunk{csid: 200, length: 1, kind: 8, data: seq[:1]})...), causeProtocol, 0)
}

func TestT06_HalfMessages(t *testing.T) {
	var b []byte
	for i := range uint32(maxChunkStreams) {
		b = append(b, wireOf(chunk{csid: 3 + i, length: maxCommand, kind: 8, data: seq[:128]})...)
	}
	wantEnding(t, b, causeTooLarge, maxHeld)
}

func TestT54_LargeKeyframe(t *testing.T) {
	var o output
	body := bytes.Repeat(seq, 8<<20/len(seq))
	o.put(csidVideo, 9, 1, 7, body)
	b := slices.Concat(o.Queue...)
	r := newChunkReader(bytes.NewReader(b), nil)
	r.size, r.media, r.maxHeld = chunkSize, maxPayload, maxPayload
	m, err := r.next()
	if err != nil || !bytes.Equal(m.payload(), body) {
		t.Errorf("read %d bytes, %v", len(m.slab), err)
	}
	r = newChunkReader(bytes.NewReader(b), nil)
	r.media = 8<<20 - 1
	if _, err := r.next(); err == nil || r.held != 0 {
		t.Errorf("a message over the limit: %v, %d bytes held", err, r.held)
	}
}

func FuzzChunkReader(f *testing.F) {
	f.Add(wireOf(chunk{csid: 6, field: 5, length: 256, kind: 9, data: seq[:128]}, chunk{format: 3, csid: 6, data: seq[128:]}))
	f.Add(wireOf(chunk{csid: 6, field: extended, long: long(1 << 30), length: 200, kind: 9, data: seq[:128]}, chunk{csid: 2, length: 4, kind: 2, data: []byte{0, 0, 0, 6}}))
	f.Add(wireOf(chunk{csid: 2, length: 4, kind: 1, data: []byte{0x80, 0, 0, 0}}, chunk{format: 1, csid: 400, length: 3, kind: 20, data: seq[:3]}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newChunkReader(bytes.NewReader(b), func(string) {})
		total := 0
		for {
			m, err := r.next()
			if err != nil {
				break
			}
			total += len(m.payload())
			if len(m.payload()) == 0 || m.kind == rtmpmsg.TypeIDSetChunkSize || m.kind == rtmpmsg.TypeIDAbortMessage {
				t.Fatalf("a message of type %d with %d bytes came out", m.kind, len(m.payload()))
			}
		}
		held := 0
		for _, s := range r.streams {
			if s.slab != nil {
				held += s.length
			}
		}
		if total > len(b) || held != r.held || held > maxHeld || len(r.streams) > maxChunkStreams {
			t.Fatalf("%d bytes of %d came out, %d of %d held, %d chunk streams", total, len(b), r.held, held, len(r.streams))
		}
	})
}

func BenchmarkChunkReader(b *testing.B) {
	var o output
	o.put(csidVideo, 9, 1, 7, bytes.Repeat(seq, 32)) // 8 KiB, as a frame at 2 Mbit/s
	wire := slices.Concat(o.Queue...)
	for _, size := range []int{128, 4096, chunkSize} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			w := rechunk(wire, size)
			r := newChunkReader(nil, nil)
			r.expectMedia()
			r.size = size
			b.SetBytes(int64(len(w)))
			b.ReportAllocs()
			for b.Loop() {
				r.r.Reset(bytes.NewReader(w))
				if _, err := r.next(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// rechunk divides the only message of wire, whose header has 12 bytes, into
// chunks of another size.
func rechunk(wire []byte, size int) []byte {
	chunks := slices.Collect(slices.Chunk(wire[12:], size))
	return append(slices.Clone(wire[:12]), bytes.Join(chunks, type3[csidVideo])...)
}
