// Messages read from chunks (RTMP 1.0, 5.3).

package rtmp

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/mediad/mediad/core/media"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// Bounds of what is read before a client has shown that it may publish, and of
// commands at any time.
const (
	maxCommand      = 64 << 10  // a command or control message
	maxData         = 1 << 20   // a data message of a publisher: metadata may hold a keyframe index
	maxHeld         = 256 << 10 // all half messages of a connection
	maxChunkStreams = 32
)

// extended is the value of a timestamp field that says that the real one
// follows the header in 32 bits (5.3.1.3).
const extended = 0xffffff

// A message is one whole RTMP message. Its memory belongs to whoever gets it.
type message struct {
	kind   rtmpmsg.TypeID
	stream uint32
	time   uint32 // absolute, modulo 2^32
	slab   []byte // media.Headroom free bytes, then the payload
}

func (m message) payload() []byte { return m.slab[media.Headroom:] }

// A chunkReader puts messages together. What goes wrong for good is an *ending;
// other errors are the connection's.
type chunkReader struct {
	r       *bufio.Reader
	size    int // the peer's chunk size
	streams map[uint32]*chunkStream
	held    int // bytes of half messages
	// media is the size of the largest audio, video or aggregate message; data
	// that of a data message. Both are maxCommand until the peer may publish.
	media, data, maxHeld int
	dropped              func(cause string)
}

// A chunkStream is the state of one chunk stream: the last header, which those of types 1 to
// 3 abbreviate, and the message under way.
type chunkStream struct {
	field  uint32 // the last timestamp or delta, extended or not
	long   bool   // it was extended
	kind   rtmpmsg.TypeID
	stream uint32
	length int
	time   uint32
	slab   []byte // nil between messages
	got    int    // bytes of the payload that are there
}

func newChunkReader(r io.Reader, dropped func(cause string)) *chunkReader {
	return &chunkReader{
		r:       bufio.NewReaderSize(r, 512),
		size:    128, // until SetChunkSize says otherwise (5.4.1)
		streams: make(map[uint32]*chunkStream),
		media:   maxCommand,
		data:    maxCommand,
		maxHeld: maxHeld,
		dropped: dropped,
	}
}

// expectMedia gives the reader a buffer in which many messages have room. Viewers,
// of whom there are many, send too little to need it.
func (c *chunkReader) expectMedia() { c.r = bufio.NewReaderSize(c.r, 32<<10) }

// next returns the next message. It obeys SetChunkSize and Abort by itself.
func (c *chunkReader) next() (message, error) {
	for {
		m, whole, err := c.chunk()
		if err != nil {
			return message{}, err
		}
		if !whole {
			continue
		}
		switch m.kind {
		case rtmpmsg.TypeIDSetChunkSize:
			err = c.setSize(m.payload())
		case rtmpmsg.TypeIDAbortMessage:
			err = c.abort(m.payload())
		default:
			return m, nil
		}
		if err != nil {
			return message{}, err
		}
	}
}

func (c *chunkReader) setSize(p []byte) error {
	if len(p) < 4 {
		return end(causeProtocol, "SetChunkSize has %d bytes instead of 4", len(p))
	}
	size := binary.BigEndian.Uint32(p)
	if size == 0 {
		return end(causeProtocol, "SetChunkSize is 0")
	}
	c.size = int(min(size, 1<<24)) // no message is longer
	return nil
}

func (c *chunkReader) abort(p []byte) error {
	if len(p) < 4 {
		return end(causeProtocol, "Abort has %d bytes instead of 4", len(p))
	}
	if s := c.streams[binary.BigEndian.Uint32(p)]; s != nil {
		c.drop(s, "aborted")
	}
	return nil
}

// drop forgets the message under way.
func (c *chunkReader) drop(s *chunkStream, cause string) {
	if s.slab == nil {
		return
	}
	c.held -= s.length
	s.slab = nil
	c.dropped(cause)
}

// chunk reads one chunk, and returns the message if that is whole with it.
func (c *chunkReader) chunk() (m message, whole bool, err error) {
	format, id, err := c.basicHeader()
	if err != nil {
		return m, false, err
	}
	s := c.streams[id]
	if s == nil {
		if len(c.streams) == maxChunkStreams {
			return m, false, end(causeProtocol, "more than %d chunk streams are in use", maxChunkStreams)
		}
		if format > 1 { // type 1 without a type 0 is seen, and can be understood
			return m, false, end(causeProtocol, "chunk stream %d begins with a header of type %d", id, format)
		}
		s = new(chunkStream)
		c.streams[id] = s
	}
	if err := c.messageHeader(s, format); err != nil {
		return m, false, err
	}
	if s.slab == nil {
		if s.length == 0 {
			c.dropped("empty")
			return m, false, nil
		}
		if err := c.begin(s); err != nil {
			return m, false, err
		}
	}
	n := min(c.size, s.length-s.got)
	at := media.Headroom + s.got
	if _, err := io.ReadFull(c.r, s.slab[at:at+n]); err != nil {
		return m, false, err
	}
	s.got += n
	if s.got < s.length {
		return m, false, nil
	}
	m = message{kind: s.kind, stream: s.stream, time: s.time, slab: s.slab}
	c.held -= s.length
	s.slab = nil
	return m, true, nil
}

// basicHeader reads the format and the chunk stream id, of 1 to 3 bytes (5.3.1.1).
func (c *chunkReader) basicHeader() (format byte, id uint32, err error) {
	b, err := c.r.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	format, id = b>>6, uint32(b&0x3f)
	if id > 1 {
		return format, id, nil
	}
	more, err := c.bytes(int(id) + 1)
	if err != nil {
		return 0, 0, err
	}
	if id == 0 {
		return format, 64 + uint32(more[0]), nil
	}
	return format, 64 + uint32(binary.LittleEndian.Uint16(more)), nil
}

// headerSize is the size of the message header of each type (5.3.1.2).
var headerSize = [4]int{11, 7, 3, 0}

// messageHeader reads the message header into s. Where a message is under way,
// a header that repeats its kind and length goes on with it, as do those of
// type 3; any other drops it and begins a new one.
func (c *chunkReader) messageHeader(s *chunkStream, format byte) error {
	if format == 3 {
		return c.continuation(s)
	}
	h, err := c.bytes(headerSize[format])
	if err != nil {
		return err
	}
	field, kind, stream, length := uint24(h), s.kind, s.stream, s.length
	if format < 2 {
		length, kind = int(uint24(h[3:])), rtmpmsg.TypeID(h[6])
	}
	if format == 0 {
		stream = binary.LittleEndian.Uint32(h[7:])
	}
	long := field == extended
	if long {
		if h, err = c.bytes(4); err != nil {
			return err
		}
		field = binary.BigEndian.Uint32(h)
	}
	if s.slab != nil {
		if kind == s.kind && length == s.length {
			return nil
		}
		c.drop(s, "length_changed")
	}
	s.field, s.long, s.kind, s.stream, s.length = field, long, kind, stream, length
	if format == 0 {
		s.time = field
	} else {
		s.time += field
	}
	return nil
}

// continuation is a header of type 3. Most clients repeat the extended timestamp
// after it (5.3.1.3), some do not: the next four bytes are taken for it when
// they are equal to it.
func (c *chunkReader) continuation(s *chunkStream) error {
	if s.long {
		if b, err := c.r.Peek(4); err == nil && binary.BigEndian.Uint32(b) == s.field {
			_, _ = c.r.Discard(4)
		}
	}
	if s.slab == nil { // a new message, as far after the last as that was (5.3.1.2.4)
		s.time += s.field
	}
	return nil
}

// begin makes room for the message that s has the header of.
func (c *chunkReader) begin(s *chunkStream) error {
	limit := maxCommand
	switch s.kind {
	case rtmpmsg.TypeIDAudioMessage, rtmpmsg.TypeIDVideoMessage, rtmpmsg.TypeIDAggregateMessage:
		limit = c.media
	case rtmpmsg.TypeIDDataMessageAMF0, rtmpmsg.TypeIDDataMessageAMF3:
		limit = c.data
	}
	if s.length > limit {
		return end(causeTooLarge, "a message of type %d has %d bytes, at most %d are allowed", s.kind, s.length, limit)
	}
	if c.held+s.length > c.maxHeld {
		return end(causeTooLarge, "the half messages of the connection have more than %d bytes", c.maxHeld)
	}
	c.held += s.length
	s.slab = make([]byte, media.Headroom+s.length)
	s.got = 0
	return nil
}

// bytes returns the next n bytes, until the next read.
func (c *chunkReader) bytes(n int) ([]byte, error) {
	b, err := c.r.Peek(n)
	if err != nil {
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	_, _ = c.r.Discard(n)
	return b, nil
}

func uint24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }

// An ending is why a connection is ended by this side, under a name for the
// counters.
type ending struct {
	cause string
	err   error
	// polite is set where the client has been told and may still be sending:
	// the connection is closed so that what was told arrives.
	polite bool
}

func (e *ending) Error() string { return e.err.Error() }
func (e *ending) Unwrap() error { return e.err }

func end(cause, format string, args ...any) *ending {
	return &ending{cause: cause, err: fmt.Errorf(format, args...)}
}
