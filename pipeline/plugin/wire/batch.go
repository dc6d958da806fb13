// A batch as the protobuf message Batch, in the field batch of OpenReply and
// CreateRequest.

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mediad/mediad/core/media"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The fields of stage.proto that are read and written here.
const (
	fieldBatch = 2 // of OpenReply and CreateRequest

	fieldHeader   = 1 // of Batch
	fieldPrev     = 2
	fieldFrame    = 3
	fieldBuffered = 4
	fieldSkips    = 5
	fieldMissed   = 6
	fieldPath     = 7
	fieldBodies   = 15

	fieldTrack = 1 // of Frame
	fieldKey   = 2
	fieldDTS   = 3
	fieldPTS   = 4
	fieldSize  = 5
)

// maxFrames bounds the table of a batch that came over the wire.
const maxFrames = 1 << 16

// progress is what a live source tells of itself besides its batches.
type progress struct {
	buffered int // batches that Next has without waiting
	skips    int
	missed   int64
}

// outgoing is one batch to be sent, and what has been sent before on its stream.
type outgoing struct {
	header *media.Header // the one that was sent last
	batch  *media.Batch
	path   *pb.Path // nil when it is as it was sent last, or not known
	progress
}

// marshal returns the batch as it goes over the wire. The bodies in it are those of
// the batch, without the headroom between them, which may be written to later.
func (m *outgoing) marshal() mem.BufferSlice {
	frames := m.batch.Frames()
	table := make([]byte, 0, 64+24*len(frames))
	if h := m.batch.Header(); h != m.header {
		m.header = h
		b, err := proto.Marshal(headerToProto(h))
		if err != nil { // a codec's name that is not UTF-8
			b = nil
		}
		table = protowire.AppendTag(table, fieldHeader, protowire.BytesType)
		table = protowire.AppendBytes(table, b)
	}
	if prev := m.batch.Prev(); prev != media.NoClock {
		table = protowire.AppendTag(table, fieldPrev, protowire.BytesType)
		table = protowire.AppendBytes(table, appendClock(nil, prev))
	}
	size := 0
	var row [40]byte
	for i := range frames {
		size += len(frames[i].Body)
		table = protowire.AppendTag(table, fieldFrame, protowire.BytesType)
		table = protowire.AppendBytes(table, appendFrame(row[:0], &frames[i]))
	}
	table = appendUint(table, fieldBuffered, uint64(m.buffered))
	table = appendUint(table, fieldSkips, uint64(m.skips))
	table = appendUint(table, fieldMissed, uint64(m.missed))
	if m.path != nil {
		b, err := proto.Marshal(m.path)
		if err != nil { // a node's name that is not UTF-8
			b = nil
		}
		table = protowire.AppendTag(table, fieldPath, protowire.BytesType)
		table = protowire.AppendBytes(table, b)
	}
	table = protowire.AppendTag(table, fieldBodies, protowire.BytesType)
	table = protowire.AppendVarint(table, uint64(size))

	start := protowire.AppendTag(make([]byte, 0, 16), fieldBatch, protowire.BytesType)
	start = protowire.AppendVarint(start, uint64(len(table)+size))
	slices := make(mem.BufferSlice, 0, 2+len(frames))
	slices = append(slices, mem.SliceBuffer(start), mem.SliceBuffer(table))
	for i := range frames {
		slices = append(slices, mem.SliceBuffer(frames[i].Body))
	}
	return slices
}

// appendUint appends a field, unless it has its default.
func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

func appendFrame(b []byte, f *media.Frame) []byte {
	b = appendUint(b, fieldTrack, uint64(f.Track))
	b = appendUint(b, fieldKey, protowire.EncodeBool(f.Key))
	b = appendUint(b, fieldDTS, protowire.EncodeZigZag(int64(f.DTS)))
	b = appendUint(b, fieldPTS, protowire.EncodeZigZag(int64(f.PTS)))
	return appendUint(b, fieldSize, uint64(len(f.Body)))
}

// appendClock appends the times that there are; zero is one.
func appendClock(b []byte, c media.Clock) []byte {
	for i, t := range [...]time.Duration{c.Audio, c.Video, c.Data} {
		if t != media.None {
			b = protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType)
			b = protowire.AppendVarint(b, protowire.EncodeZigZag(int64(t)))
		}
	}
	return b
}

// incoming is one message of a stream that carries batches, and what came before on it.
type incoming struct {
	other  proto.Message // an OpenReply or CreateRequest without a batch
	batch  *media.Batch  // nil when it is the other
	header *media.Header // in force
	path   *pb.Path      // in force; nil when it is not known
	progress

	row []byte
}

// carriesBatch reports whether a message has a batch: its first field is this.
func carriesBatch(data mem.BufferSlice) bool {
	for _, b := range data {
		if p := b.ReadOnlyData(); len(p) > 0 {
			return p[0] == fieldBatch<<3|byte(protowire.BytesType)
		}
	}
	return false
}

// errWrong begins the errors about what the other side has sent.
var errWrong = errors.New("wrong batch")

func (m *incoming) unmarshal(data mem.BufferSlice) error {
	r := data.Reader()
	defer r.Close()
	if _, err := r.ReadByte(); err != nil { // the tag
		return err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil || n != uint64(r.Remaining()) {
		return fmt.Errorf("%w: it has %d bytes, not %d", errWrong, r.Remaining(), n)
	}
	if err := m.read(r); err != nil {
		return fmt.Errorf("%w: %w", errWrong, err)
	}
	return nil
}

func (m *incoming) read(r *mem.Reader) error {
	prev := media.NoClock
	var frames []media.Frame
	var sizes []int
	var builder *media.Builder
	m.progress = progress{}
	total := 0
	for r.Remaining() > 0 {
		tag, err := binary.ReadUvarint(r)
		if err != nil {
			return err
		}
		field, typ := protowire.DecodeTag(tag)
		var value uint64
		switch typ {
		case protowire.VarintType, protowire.BytesType:
			if value, err = binary.ReadUvarint(r); err != nil {
				return err
			}
		default: // a later version's
			return fmt.Errorf("field %d has the wire type %d", field, typ)
		}
		if typ == protowire.BytesType && value > uint64(r.Remaining()) {
			return io.ErrUnexpectedEOF
		}
		if typ == protowire.BytesType && field == fieldBodies {
			if value != uint64(total) || builder != nil {
				return fmt.Errorf("the bodies have %d bytes, the frames want %d", value, total)
			}
			builder = media.NewBuilder(prev)
			builder.Reserve(len(frames), total)
			for i, f := range frames {
				f.Body = builder.Body(sizes[i])
				if _, err := io.ReadFull(r, f.Body); err != nil {
					return err
				}
				builder.Add(f)
			}
			continue
		}
		if typ == protowire.BytesType {
			m.row = append(m.row[:0], make([]byte, value)...)
			if _, err := io.ReadFull(r, m.row); err != nil {
				return err
			}
		}
		switch {
		case field == fieldHeader && typ == protowire.BytesType:
			if err := m.readHeader(m.row); err != nil {
				return err
			}
		case field == fieldPrev && typ == protowire.BytesType:
			if prev, err = readClock(m.row); err != nil {
				return err
			}
		case field == fieldFrame && typ == protowire.BytesType:
			f, size, err := readFrame(m.row)
			if err == nil {
				err = check(f, size, len(frames))
			}
			if err != nil {
				return fmt.Errorf("frame %d %w", len(frames), err)
			}
			frames, sizes, total = append(frames, f), append(sizes, size), total+size
		case field == fieldPath && typ == protowire.BytesType:
			m.path = &pb.Path{}
			if err := proto.Unmarshal(m.row, m.path); err != nil {
				return fmt.Errorf("its path: %w", err)
			}
		case field == fieldBuffered && typ == protowire.VarintType:
			m.buffered = int(min(value, 1<<20))
		case field == fieldSkips && typ == protowire.VarintType:
			m.skips = int(value)
		case field == fieldMissed && typ == protowire.VarintType:
			m.missed = int64(value)
		}
	}
	if builder == nil || len(frames) == 0 {
		return errors.New("it has no frames")
	}
	if m.header == nil {
		return errors.New("the first batch has no header")
	}
	m.batch = builder.Batch(m.header)
	return nil
}

// check says what is wrong with the frame i of a batch.
func check(f media.Frame, size, i int) error {
	switch {
	case f.Track != media.Audio && f.Track != media.Video && f.Track != media.Data:
		return fmt.Errorf("is of track %d, which there is not", f.Track)
	case f.Key && f.Track != media.Video:
		return fmt.Errorf("is a keyframe of the %s track", f.Track)
	case f.Key && i > 0:
		return errors.New("is a keyframe, which must be the first of its batch")
	case size <= 0 || size > maxMessage:
		return fmt.Errorf("has a body of %d bytes", size)
	case i >= maxFrames:
		return fmt.Errorf("is one too many, a batch has at most %d", maxFrames)
	}
	return nil
}

// readHeader takes a header. One that is equal to that in force changes nothing, so
// that equal configuration keeps its pointer.
func (m *incoming) readHeader(row []byte) error {
	var h pb.Header
	if err := proto.Unmarshal(row, &h); err != nil {
		return fmt.Errorf("its header: %w", err)
	}
	if header := headerFromProto(&h); m.header == nil || !Equal(m.header, header) {
		m.header = header
	}
	return nil
}

// fields calls f for each varint field of a message, and passes by all else.
func fields(row []byte, f func(field protowire.Number, value uint64)) error {
	for len(row) > 0 {
		field, typ, n := protowire.ConsumeTag(row)
		if n < 0 {
			return protowire.ParseError(n)
		}
		row = row[n:]
		if typ == protowire.VarintType {
			var value uint64
			if value, n = protowire.ConsumeVarint(row); n >= 0 {
				f(field, value)
			}
		} else {
			n = protowire.ConsumeFieldValue(field, typ, row)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		row = row[n:]
	}
	return nil
}

func readFrame(row []byte) (f media.Frame, size int, err error) {
	err = fields(row, func(field protowire.Number, value uint64) {
		switch field {
		case fieldTrack:
			f.Track = media.Track(min(value, 255))
		case fieldKey:
			f.Key = value != 0
		case fieldDTS:
			f.DTS = time.Duration(protowire.DecodeZigZag(value))
		case fieldPTS:
			f.PTS = time.Duration(protowire.DecodeZigZag(value))
		case fieldSize:
			size = int(min(value, maxMessage+1))
		}
	})
	return f, size, err
}

func readClock(row []byte) (media.Clock, error) {
	c := media.NoClock
	err := fields(row, func(field protowire.Number, value uint64) {
		t := time.Duration(protowire.DecodeZigZag(value))
		switch field {
		case 1:
			c.Audio = t
		case 2:
			c.Video = t
		case 3:
			c.Data = t
		}
	})
	return c, err
}

func headerToProto(h *media.Header) *pb.Header {
	format := func(f media.Format) *pb.Format {
		if f.Codec == "" && f.Config == nil {
			return nil
		}
		return &pb.Format{Codec: f.Codec, Config: f.Config}
	}
	return &pb.Header{Meta: h.Meta, Video: format(h.Video), Audio: format(h.Audio)}
}

func headerFromProto(h *pb.Header) *media.Header {
	format := func(f *pb.Format) media.Format {
		return media.Format{Codec: f.GetCodec(), Config: f.GetConfig()}
	}
	return &media.Header{Meta: h.Meta, Video: format(h.Video), Audio: format(h.Audio)}
}

// Equal reports whether two headers say the same.
func Equal(a, b *media.Header) bool {
	format := func(a, b media.Format) bool { return a.Codec == b.Codec && bytes.Equal(a.Config, b.Config) }
	return a == b || bytes.Equal(a.Meta, b.Meta) && format(a.Video, b.Video) && format(a.Audio, b.Audio)
}
