// Reading batches by the plan of an index.

package mp4

import (
	"cmp"
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

// Batches implements media.Index.
func (x *Index) Batches(f media.File, from time.Duration) func(context.Context) (*media.Batch, error) {
	builder := media.NewBuilder(media.NoClock)
	next := x.find(from)
	return func(ctx context.Context) (*media.Batch, error) {
		if next == len(x.parts) {
			return nil, io.EOF
		}
		b, err := x.read(ctx, f, next, builder)
		if err != nil {
			return nil, err
		}
		next++
		return b, nil
	}
}

// A scratch is what reading a batch needs besides the batch.
type scratch struct {
	frames []frame
	order  []int // of frames by their place in the file
	at     []int // of each frame in data
	runs   []run
	data   []byte
}

// A run is a piece of the file that is read in one go.
type run struct {
	pos, end int64
	at       int // in data
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxGaps is how many bytes between the frames of a batch are read for nothing, to
// save reads.
const maxGaps = 256 << 10

// read reads part i. The builder is only used when all has been read.
func (x *Index) read(ctx context.Context, f media.File, i int, builder *media.Builder) (*media.Batch, error) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.frames = x.unpack(s.frames[:0], i)
	s.plan()
	for _, r := range s.runs {
		if err := readFull(ctx, f, s.data[r.at:r.at+int(r.end-r.pos)], r.pos); err != nil {
			return nil, err
		}
	}
	bytes := 0
	for _, f := range s.frames {
		bytes += x.coding(f.track).headSize() + f.size
	}
	builder.Reserve(len(s.frames), bytes)
	for i, f := range s.frames {
		coding := x.coding(f.track)
		head := coding.headSize()
		body := builder.Body(head + f.size)
		coding.putHead(body, f.key, f.cts)
		copy(body[head:], s.data[s.at[i]:])
		builder.Add(f.in(body))
	}
	return builder.Batch(x.header), nil
}

// plan makes runs of the frames that lie near each other, and room for them.
func (s *scratch) plan() {
	s.order, s.runs = s.order[:0], s.runs[:0]
	for i := range s.frames {
		s.order = append(s.order, i)
	}
	slices.SortFunc(s.order, func(a, b int) int { return cmp.Compare(s.frames[a].pos, s.frames[b].pos) })
	s.at = slices.Grow(s.at[:0], len(s.frames))[:len(s.frames)]
	size, gaps := 0, int64(0)
	var r *run
	for _, i := range s.order {
		f := s.frames[i]
		if r == nil || f.pos-r.end > maxGaps-gaps {
			s.runs = append(s.runs, run{pos: f.pos, end: f.pos, at: size})
			r = &s.runs[len(s.runs)-1]
		}
		gaps += max(f.pos-r.end, 0)
		r.end = max(r.end, f.pos+int64(f.size))
		s.at[i] = r.at + int(f.pos-r.pos)
		size = r.at + int(r.end-r.pos)
	}
	s.data = slices.Grow(s.data[:0], size)[:size]
}

// coding returns how a track is coded.
func (x *Index) coding(t media.Track) *coding {
	if t == media.Video {
		return &x.video
	}
	return &x.audio
}
