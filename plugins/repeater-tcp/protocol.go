// The protocol between two repeaters, version 1.
//
// A repeater dials another one, over TCP or TLS 1.3. There is one connection for
// questions, and one for each piece of media that is open, so that none waits for
// another. Each side begins with the seven bytes "mediad\x01", the last of which is the version,
// and goes on with messages:
//
//	1 byte   what it is, see the table below
//	4 bytes  how many follow, big endian
//	...      its fields
//
// The fields are, without anything between them:
//
//	uint     a base 128 varint, as in protobuf
//	int      the same of a number in zigzag coding
//	time     an int of nanoseconds
//	float    8 bytes, IEEE 754, big endian
//	bytes    a uint and as many bytes; text is the same in UTF-8
//	list     a uint and as many elements
//
// The first message of each side is Hello. The side that dials also sends
//
//	Ping     uint id                           answered by Pong with the id
//	Ask      uint id, request                  answered by Cost with the id
//	Open     uint credit, request              answered by Opened or End, once
//	Credit   uint bytes                        so many more may be sent
//
// and the side that listens
//
//	Pong     uint id
//	Cost     uint id, failure, text place, float base, float load, uint depth
//	Opened   info, path
//	Header   bytes meta, format video, format audio
//	Batch    4 bytes size of the table, big endian, table, the bodies of its frames
//	Beat     uint leaving, path
//	End      failure                           no message follows it
//
// of these parts:
//
//	request  text name, time from, uint 1 for live media only | 2 for recorded media only
//	failure  uint cause (see causes), text, text URL of a redirect
//	info     text name, uint 1 if live, text version, time start, time duration, int size
//	path     list of text: the nodes that live media come through, the owner first
//	format   text codec, bytes configuration
//	table    uint skips, uint missed, clock, list of frame
//	clock    for audio, video and data each: uint 0, or uint 1 and a time
//	frame    uint track (0 audio, 1 video, 2 data) + 4 if it is a keyframe,
//	         time DTS less that of the frame before (0 before the first), time PTS less DTS, uint size of its body
//
// A Header stands before the first Batch, and before each from which on it is another one. Skips is how
// often the sender was too late for its own source and went on at a later keyframe, Missed how many frames it left out
// by that, both since the Open. After Opened comes a Beat every quarter of a second, unless media
// have come since the last and it has nothing new to tell. Its path is empty while
// live media come from nobody; leaving is 1 when the node goes and another parent should be found. Of recorded media no
// more bytes of bodies are sent than there is credit for, but for the rest of a batch, and there need be none before the first is read; live media
// need none, who reads them too slowly is moved to a later keyframe.

package repeatertcp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/mediad/mediad/core/media"
)

// preamble begins each direction of a connection.
const preamble = "mediad\x01"

// kind is the first byte of a message.
type kind byte

const (
	kindHello  kind = 1
	kindPing   kind = 2
	kindAsk    kind = 3
	kindOpen   kind = 4
	kindCredit kind = 5
	kindPong   kind = 6
	kindCost   kind = 7
	kindOpened kind = 8
	kindHeader kind = 9
	kindBatch  kind = 10
	kindBeat   kind = 11
	kindEnd    kind = 12
)

// Bounds of what a message may have. Who sends more is hung up on.
const (
	maxMessage = 16 << 10 // any but these two
	maxHeader  = 4 << 20  // metadata may hold an index of keyframes
	maxBatch   = 32 << 20 // a frame of RTMP's 16 MiB, its table, and more than a GOP has
	maxFrames  = 1 << 16  // of a batch
	maxText    = 1 << 10  // names, versions and what is said of errors
	maxPath    = 64       // nodes
	headSize   = 5        // kind and length
	maxTable   = 2 << 20  // of a batch
	maxID      = math.MaxInt64
	maxCredit  = 1 << 30
)

// limit is the most bytes that may follow the head of a message.
func (k kind) limit() int {
	switch k {
	case kindHeader:
		return maxHeader
	case kindBatch:
		return maxBatch
	}
	return maxMessage
}

// errProtocol is wrapped by errors about what the other side has sent. It may be
// another program, or its line is bad: another peer, or another try, may do.
var errProtocol = fmt.Errorf("%w: the peer does not keep to the protocol", media.ErrUnavailable)

// begin appends the head of a message, whose length finish sets.
func begin(b []byte, k kind) []byte { return append(b, byte(k), 0, 0, 0, 0) }

// finish sets the length of the message that begins at b[at], to which rest bytes are still to come.
func finish(b []byte, at, rest int) []byte {
	binary.BigEndian.PutUint32(b[at+1:], uint32(len(b)-at-headSize+rest))
	return b
}

func appendUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendTime(b []byte, d time.Duration) []byte { return binary.AppendVarint(b, int64(d)) }

func appendFloat(b []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(b, math.Float64bits(f))
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// appendText appends what was written by others, shortened to what the other side takes.
func appendText(b []byte, s string) []byte { return appendBytes(b, s[:min(len(s), maxText)]) }

func appendPath(b []byte, path []string) []byte {
	path = path[:min(len(path), maxPath)]
	b = appendUint(b, uint64(len(path)))
	for _, node := range path {
		b = appendText(b, node)
	}
	return b
}

func appendRequest(b []byte, req media.OpenRequest) []byte {
	b = appendText(b, req.Name)
	b = appendTime(b, req.From)
	switch {
	case req.LiveOnly:
		return append(b, 1)
	case req.RecordedOnly:
		return append(b, 2)
	}
	return append(b, 0)
}

func appendInfo(b []byte, info media.Info) []byte {
	b = appendText(b, info.Name)
	b = appendBool(b, info.Live)
	b = appendText(b, info.Version)
	b = appendTime(b, info.Start)
	b = appendTime(b, info.Duration)
	return binary.AppendVarint(b, info.Size)
}

func appendCost(b []byte, c media.Cost) []byte {
	b = appendText(b, c.Place)
	b = appendFloat(b, c.Base)
	b = appendFloat(b, c.Load)
	return appendUint(b, uint64(max(c.Depth, 0)))
}

// What a failure may be. Errors that are none of these have no more than a text.
const (
	causeNone     = 0 // all is well, or the media are at their end
	causeOther    = 1
	causeRedirect = 2
)

// causes are the errors that keep what they are. Of several with one number the first is what is
// made of it on the other side: what is over here may go on from another node.
var causes = []struct {
	is     error
	number uint64
}{
	{media.ErrNotFound, 3},
	{media.ErrDenied, 4},
	{media.ErrChanged, 5},
	{media.ErrUnavailable, 6},
	{media.ErrClosed, 6},
	{context.DeadlineExceeded, 6},
	{context.Canceled, 6},
}

func appendFailure(b []byte, err error) []byte {
	if err == nil || errors.Is(err, io.EOF) {
		return append(b, causeNone, 0, 0)
	}
	var redirect *media.RedirectError
	if errors.As(err, &redirect) && len(redirect.URL) <= maxText {
		b = appendUint(b, causeRedirect)
		b = appendText(b, err.Error())
		return appendText(b, redirect.URL)
	}
	number := uint64(causeOther)
	for _, c := range causes {
		if errors.Is(err, c.is) {
			number = c.number
			break
		}
	}
	b = appendUint(b, number)
	b = appendText(b, err.Error())
	return appendText(b, "")
}

// A failure is an error of a peer.
type failure struct {
	text string
	is   error // what it wraps, or nil
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.is }

func appendHeader(b []byte, h *media.Header) []byte {
	b = appendBytes(b, h.Meta)
	for _, f := range []media.Format{h.Video, h.Audio} {
		b = appendText(b, f.Codec)
		b = appendBytes(b, f.Config)
	}
	return b
}

// sameHeader reports whether two headers say the same.
func sameHeader(a, b *media.Header) bool {
	same := func(a, b media.Format) bool { return a.Codec == b.Codec && bytes.Equal(a.Config, b.Config) }
	return bytes.Equal(a.Meta, b.Meta) && same(a.Video, b.Video) && same(a.Audio, b.Audio)
}

// losses are what a live source has skipped since it was opened.
type losses struct {
	skips  int
	missed int64
}

// appendTable appends all of a batch but its head and the bodies.
func appendTable(b []byte, batch *media.Batch, lost losses) []byte {
	b = appendUint(b, uint64(lost.skips))
	b = appendUint(b, uint64(lost.missed))
	prev := batch.Prev()
	for _, t := range []time.Duration{prev.Audio, prev.Video, prev.Data} {
		b = appendBool(b, t != media.None)
		if t != media.None {
			b = appendTime(b, t)
		}
	}
	frames := batch.Frames()
	b = appendUint(b, uint64(len(frames)))
	var last time.Duration
	for i := range frames {
		f := &frames[i]
		flags := byte(0)
		switch f.Track {
		case media.Video:
			flags = 1
		case media.Data:
			flags = 2
		}
		if f.Key {
			flags |= 4
		}
		b = append(b, flags)
		b = appendTime(b, f.DTS-last)
		b = appendTime(b, f.PTS-f.DTS)
		b = appendUint(b, uint64(len(f.Body)))
		last = f.DTS
	}
	return b
}

// fields are what is left of a message. After the first mistake all are zero, and
// err says which it was.
type fields struct {
	b   []byte
	err error
}

func (p *fields) wrong(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: "+format, append([]any{errProtocol}, args...)...)
	}
	p.b = nil
}

// end returns the mistake that there was, if any.
func (p *fields) end() error {
	if p.err == nil && len(p.b) > 0 {
		p.wrong("a message has %d bytes too many", len(p.b))
	}
	return p.err
}

func (p *fields) uint(most uint64) uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.wrong("a number is cut off")
		return 0
	}
	p.b = p.b[n:]
	if v > most {
		p.wrong("%d stands where at most %d may be", v, most)
		return 0
	}
	return v
}

func (p *fields) int() int64 {
	v, n := binary.Varint(p.b)
	if n <= 0 {
		p.wrong("a number is cut off")
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *fields) time() time.Duration { return time.Duration(p.int()) }
func (p *fields) bool() bool          { return p.uint(1) == 1 }

// float returns a number that is neither negative nor endless: others are no cost and no load.
func (p *fields) float() float64 {
	if len(p.b) < 8 {
		p.wrong("a number is cut off")
		return 0
	}
	v := math.Float64frombits(binary.BigEndian.Uint64(p.b))
	p.b = p.b[8:]
	if !(v >= 0 && v <= math.MaxFloat64) {
		p.wrong("%v stands for a cost", v)
		return 0
	}
	return v
}

// bytes returns bytes that are good until the next message, nil for none.
func (p *fields) bytes(most int) []byte {
	n := int(p.uint(uint64(most)))
	if n > len(p.b) {
		p.wrong("%d bytes are announced, %d are there", n, len(p.b))
	}
	if n == 0 || p.err != nil {
		return nil
	}
	v := p.b[:n]
	p.b = p.b[n:]
	return v
}

func (p *fields) text() string { return string(p.bytes(maxText)) }

func (p *fields) path() []string {
	var path []string
	for range p.uint(maxPath) {
		path = append(path, p.text())
	}
	return path
}

func (p *fields) request() media.OpenRequest {
	req := media.OpenRequest{Name: p.text(), From: p.time()}
	only := p.uint(2)
	req.LiveOnly, req.RecordedOnly = only == 1, only == 2
	return req
}

func (p *fields) info() media.Info {
	return media.Info{
		Name: p.text(), Live: p.bool(), Version: p.text(),
		Start: p.time(), Duration: p.time(), Size: p.int(),
	}
}

func (p *fields) cost() media.Cost {
	return media.Cost{Place: p.text(), Base: p.float(), Load: p.float(), Depth: int(p.uint(maxPath))}
}

// failure returns what went wrong on the other side, nil for nothing.
func (p *fields) failure() error {
	number := p.uint(math.MaxInt32)
	f := &failure{text: p.text()}
	url := p.text()
	switch {
	case p.err != nil || number == causeNone:
		return nil
	case number == causeRedirect:
		f.is = &media.RedirectError{URL: url}
		return f
	}
	for _, c := range causes {
		if c.number == number {
			f.is = c.is
			break
		}
	}
	return f
}

func (p *fields) header() *media.Header {
	h := &media.Header{Meta: bytes.Clone(p.bytes(maxHeader))}
	for _, f := range []*media.Format{&h.Video, &h.Audio} {
		f.Codec, f.Config = p.text(), bytes.Clone(p.bytes(maxHeader))
	}
	return h
}

// A table is what a batch is but for the bodies of its frames.
type table struct {
	losses
	prev   media.Clock
	frames []media.Frame // whose bodies are still to come
	sizes  []int         // of the bodies
	size   int           // of all bodies
}

// table reads a table into t, whose slices are used again.
func (p *fields) table(t *table) {
	t.skips, t.missed = int(p.uint(math.MaxInt32)), int64(p.uint(math.MaxInt64))
	t.prev = media.NoClock
	for _, at := range []*time.Duration{&t.prev.Audio, &t.prev.Video, &t.prev.Data} {
		if p.bool() {
			*at = p.time()
		}
	}
	t.frames, t.sizes, t.size = t.frames[:0], t.sizes[:0], 0
	n := p.uint(maxFrames)
	if n == 0 {
		p.wrong("a batch has no frames")
	}
	var last time.Duration
	for i := 0; i < int(n) && p.err == nil; i++ {
		flags := p.uint(7)
		dts := last + p.time()
		f := media.Frame{Key: flags&4 != 0, DTS: dts, PTS: dts + p.time()}
		size := int(p.uint(maxBatch))
		switch flags & 3 {
		case 0:
			f.Track = media.Audio
		case 1:
			f.Track = media.Video
		case 2:
			f.Track = media.Data
		default:
			p.wrong("frame %d is of no track", i)
		}
		t.size += size
		switch {
		case p.err != nil:
		case f.Key && (f.Track != media.Video || i > 0):
			p.wrong("frame %d is a keyframe, which must be video and the first of its batch", i)
		case f.DTS == media.None || f.PTS == media.None:
			p.wrong("frame %d has no time", i)
		case size == 0 || t.size > maxBatch:
			p.wrong("frame %d has a body of %d bytes", i, size)
		}
		t.frames, t.sizes, last = append(t.frames, f), append(t.sizes, size), dts
	}
}

// batch reads the bodies of a table.
func (t *table) batch(r io.Reader, h *media.Header) (*media.Batch, error) {
	b := media.NewBuilder(t.prev)
	b.Reserve(len(t.frames), t.size)
	for i, f := range t.frames {
		f.Body = b.Body(t.sizes[i])
		if _, err := io.ReadFull(r, f.Body); err != nil {
			return nil, err
		}
		b.Add(f)
	}
	return b.Batch(h), nil
}

// A decoder reads the messages of one direction of a connection.
type decoder struct {
	in     *bufio.Reader
	buf    []byte        // the last message, or the table of the last batch
	header *media.Header // in force
	table  table
}

// maxKept is the largest message whose memory is kept for those that follow.
const maxKept = 64 << 10

// head reads the head of a message.
func (d *decoder) head() (kind, int, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(d.in, head[:]); err != nil {
		return 0, 0, err
	}
	k, n := kind(head[0]), binary.BigEndian.Uint32(head[1:])
	if int64(n) > int64(k.limit()) {
		return 0, 0, fmt.Errorf("%w: a message of kind %d has %d bytes", errProtocol, k, n)
	}
	return k, int(n), nil
}

// read reads n bytes into buf.
func (d *decoder) read(n int) ([]byte, error) {
	if cap(d.buf) < n || cap(d.buf) > maxKept {
		d.buf = make([]byte, max(n, 512))
	}
	d.buf = d.buf[:n]
	_, err := io.ReadFull(d.in, d.buf)
	return d.buf, err
}

// message reads the next message, which must be of one of the kinds. Its fields are good until the
// next call. It returns io.EOF when the other side has hung up between two messages.
func (d *decoder) message(kinds ...kind) (kind, fields, error) {
	k, n, err := d.head()
	if err != nil {
		return 0, fields{}, err
	}
	for _, want := range kinds {
		if k == want {
			b, err := d.read(n)
			return k, fields{b: b}, cut(err)
		}
	}
	return 0, fields{}, fmt.Errorf("%w: a message of kind %d comes where none may", errProtocol, k)
}

// cut makes the end within a message an error.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// An event is what follows Opened: a batch, a beat or the end.
type event struct {
	batch *media.Batch
	losses
	beat *beat
}

// A beat is what the other side tells of itself.
type beat struct {
	leaving bool
	path    []string
}

// event reads up to the next batch or beat. The end of the media is io.EOF, or the error which the other side
// has had.
func (d *decoder) event() (event, error) {
	for {
		k, n, err := d.head()
		if err != nil {
			return event{}, cut(err)
		}
		if k == kindBatch {
			b, err := d.batch(n)
			return event{batch: b, losses: d.table.losses}, cut(err)
		}
		b, err := d.read(n)
		if err != nil {
			return event{}, cut(err)
		}
		p := fields{b: b}
		switch k {
		case kindHeader:
			h := p.header()
			if d.header == nil || !sameHeader(h, d.header) {
				d.header = h
			}
		case kindBeat:
			told := &beat{leaving: p.bool(), path: p.path()}
			return event{beat: told}, p.end()
		case kindEnd:
			err := p.failure()
			if p.end() == nil && err == nil {
				err = io.EOF
			}
			return event{}, errors.Join(p.err, err)
		default:
			p.wrong("a message of kind %d comes after Opened", k)
		}
		if err := p.end(); err != nil {
			return event{}, err
		}
	}
}

// batch reads a batch of n bytes.
func (d *decoder) batch(n int) (*media.Batch, error) {
	var size [4]byte
	if _, err := io.ReadFull(d.in, size[:]); err != nil {
		return nil, err
	}
	n -= len(size)
	rows := int64(binary.BigEndian.Uint32(size[:]))
	if rows > maxTable || rows >= int64(n) {
		return nil, fmt.Errorf("%w: a batch of %d bytes has a table of %d", errProtocol, n, rows)
	}
	b, err := d.read(int(rows))
	if err != nil {
		return nil, err
	}
	p := fields{b: b}
	p.table(&d.table)
	if p.err == nil && d.table.size != n-len(b) {
		p.wrong("the bodies of a batch have %d bytes, its frames %d", n-len(b), d.table.size)
	}
	if d.header == nil {
		p.wrong("a batch comes before any header")
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	return d.table.batch(d.in, d.header)
}
