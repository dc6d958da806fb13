// Reading of a file in batches.

package flv

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/mediad/mediad/core/media"
)

// Batches is as media.Index says.
func (x *index) Batches(f media.File, from time.Duration) func(ctx context.Context) (*media.Batch, error) {
	r := &batchReader{index: x, file: f, from: from}
	return r.next
}

// maxHeld is how much is read ahead at most to find the last join point before
// the position that was asked for.
const maxHeld = 64 << 20

// configSpan is how far before a keyframe its configuration is looked for.
const configSpan = 4 << 10

// A batchReader reads batches one after another, from a position on.
type batchReader struct {
	index   *index
	file    media.File
	from    time.Duration
	tags    *tagReader // nil until the first read
	clock   clock
	state   State
	builder *media.Builder
	begin   time.Duration // DTS of the first frame in builder
	batch   int           // memory of the last batch, in bytes
	// held are the batches of the newest join point at or before from, while it
	// is not known whether there is a later one.
	held    []*media.Batch
	bytes   int
	seeking bool
}

func (r *batchReader) next(ctx context.Context) (*media.Batch, error) {
	if r.tags == nil {
		if err := r.start(ctx); err != nil {
			return nil, err
		}
	}
	for r.seeking {
		b, err := r.read(ctx)
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case err != nil:
			r.seeking = false
			continue
		case b.Join() && b.DTS() <= r.from:
			r.held, r.bytes = nil, 0
		}
		r.held = append(r.held, b)
		r.bytes += b.Size()
		r.seeking = b.DTS() <= r.from && r.bytes < maxHeld
	}
	if len(r.held) > 0 {
		b := r.held[0]
		r.held = r.held[1:]
		return b, nil
	}
	return r.read(ctx)
}

// start goes to the last point at or before from that holds, else to the start.
func (r *batchReader) start(ctx context.Context) error {
	x := r.index
	at, dts := x.first, media.None
	if r.from > x.start {
		for _, p := range x.before(r.from) {
			if x.complete {
				at, dts = p.at, p.dts
				break
			}
			ok, err := p.holds(ctx, r.file)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if at, err = x.configured(ctx, r.file, p.at); err != nil {
				return err
			}
			dts = p.dts
			break
		}
	}
	r.seeking = r.from > x.start && !x.complete
	r.state = State{x.header(at)}
	if dts != media.None {
		r.clock = clock{dts.Milliseconds(), true}
	}
	r.builder = media.NewBuilder(media.NoClock)
	r.tags = newTagReader(r.file, at)
	return nil
}

// configured returns where the codec configuration begins that lies right before
// the tag at a place, where a table does not point to, or at itself.
func (x *index) configured(ctx context.Context, f media.File, at int64) (int64, error) {
	p := make([]byte, min(configSpan, at-x.first))
	if n, err := readFull(ctx, f, p, at-int64(len(p))); n < len(p) {
		return at, notEOF(err)
	}
	for len(p) > tagHeadLen+tagTailLen {
		start := len(p) - tagTailLen - int(binary.BigEndian.Uint32(p[len(p)-tagTailLen:]))
		if start < 0 || start > len(p)-tagTailLen-tagHeadLen {
			break
		}
		t := parseTagHead(p[start:], 0)
		if !t.known() || t.track == media.Data || start+int(t.next()) != len(p) {
			break
		}
		packet, err := ParsePacket(t.track, p[start+tagHeadLen:len(p)-tagTailLen])
		if err != nil || packet.Kind != Config {
			break
		}
		at -= t.next()
		p = p[:start]
	}
	return at, nil
}

// read returns the next batch.
func (r *batchReader) read(ctx context.Context) (*media.Batch, error) {
	for {
		h := r.state.Header()
		t, err := r.tags.head(ctx)
		if err == nil {
			err = r.tag(ctx, t)
		}
		switch {
		case errors.Is(err, errFull), err != nil && ctx.Err() == nil && r.builder.Len() > 0:
			// Another error comes again, after what was read before it.
			b := r.builder.Batch(h)
			r.batch = len(b.Slab())
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

// errFull says that a tag belongs to the next batch.
var errFull = errors.New("the batch is full")

// tag puts the frame of t into the batch. After an error all is as it was.
func (r *batchReader) tag(ctx context.Context, t tagHead) error {
	body, err := r.tags.prefix(ctx, t, t.size)
	if err != nil {
		return err
	}
	if _, meta := metadata(body); meta && t.track == media.Data {
		r.tags.done(t) // players get that of the index
		return nil
	}
	now, state := r.clock, r.state
	frame, ok, err := state.Push(t.track, now.time(t.time), body)
	if h := state.Header(); h != r.state.Header() {
		if r.builder.Len() > 0 {
			return errFull
		}
		state = r.index.known(t.at, h)
	}
	if err != nil || !ok {
		r.clock, r.state = now, state
		r.tags.done(t)
		return nil
	}
	if r.full(frame) {
		return errFull
	}
	if r.builder.Len() == 0 {
		r.begin = frame.DTS
		r.builder.Reserve(0, max(len(body), r.extent(t)))
	}
	r.builder.Copy(frame)
	r.clock, r.state = now, state
	r.tags.done(t)
	return nil
}

// full says whether f must be the first of another batch.
func (r *batchReader) full(f media.Frame) bool {
	if r.builder.Len() == 0 {
		return false
	}
	return f.Key || r.builder.Bytes()+len(f.Body) > media.MaxBatchBytes ||
		r.state.Header().Video.Codec == "" && (f.DTS-r.begin).Abs() >= media.MaxAudioSpan
}

// extent guesses how much memory the batch that begins with t will need: as much as there is up
// to the next point, where each frame has more around it than the batch leaves before it. A file's own
// table may have few points, so batches are not taken to grow at once to more than twice the last.
func (r *batchReader) extent(t tagHead) int {
	end := r.index.after(t.at)
	if end == t.at {
		end = r.file.Size()
	}
	n := int(min(end-t.at, media.MaxBatchBytes+media.MaxBatchBytes/64))
	switch {
	case n <= 0: // a file without an end
		return r.batch
	case r.batch > 0 && !r.index.complete:
		return min(n, 2*r.batch)
	}
	return n
}
