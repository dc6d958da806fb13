// Media in memory, for whatever wants a reader to read from.

package stagetest

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A Library is a Reader of films in memory, by name.
type Library map[string][]*media.Batch

// Open implements media.Reader.
func (l Library) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	film, ok := l[req.Name]
	if !ok || req.LiveOnly {
		return nil, fmt.Errorf("%s is not in the library: %w", req.Name, media.ErrNotFound)
	}
	info := media.Info{Name: req.Name, Version: "1"}
	at := 0
	for i, b := range film {
		if b.Join() && b.DTS() <= req.From {
			at = i
		}
		info.Size += int64(len(b.Slab()))
	}
	if len(film) > 0 {
		last := film[len(film)-1].Frames()
		info.Start = film[0].DTS()
		info.Duration = last[len(last)-1].DTS - info.Start + 20*time.Millisecond
	}
	return &libraryFilm{info: info, batches: film[at:]}, nil
}

// Cost implements media.Coster.
func (l Library) Cost(_ context.Context, req media.OpenRequest) (media.Cost, error) {
	if _, ok := l[req.Name]; !ok {
		return media.Cost{}, fmt.Errorf("%s is not in the library: %w", req.Name, media.ErrNotFound)
	}
	return media.Cost{Place: "memory", Base: media.CostMemory}, nil
}

type libraryFilm struct {
	info media.Info

	mu      sync.Mutex
	batches []*media.Batch
	closed  bool
}

func (f *libraryFilm) Info() media.Info { return f.info }

func (f *libraryFilm) Next(ctx context.Context) (*media.Batch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, media.ErrClosed
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(f.batches) == 0:
		return nil, io.EOF
	}
	b := f.batches[0]
	f.batches = f.batches[1:]
	return b, nil
}

func (f *libraryFilm) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// Film makes media of a number of GOPs of a second: 25 frames of video of size
// bytes, the keyframes ten times as large, and audio between them. The bodies
// begin as those of AVC and AAC do.
func Film(gops, size int) []*media.Batch {
	h := &media.Header{
		Video: media.Format{Codec: "h264", Config: []byte("\x17\x00\x00\x00\x00\x01\x64\x00\x1e\xff\xe1\x00\x00\x01\x00\x00")},
		Audio: media.Format{Codec: "aac", Config: []byte("\xaf\x00\x12\x10")},
	}
	builder := media.NewBuilder(media.NoClock)
	var film []*media.Batch
	for gop := range gops {
		for n := range 25 {
			at := time.Duration(gop*25+n) * 40 * time.Millisecond
			video := media.Frame{Track: media.Video, Key: n == 0, DTS: at, PTS: at, Body: body("\x27\x01\x00\x00\x00", gop, n, size)}
			if n == 0 {
				video.Body = body("\x17\x01\x00\x00\x00", gop, n, 10*size)
			}
			builder.Copy(video)
			at += 20 * time.Millisecond
			builder.Copy(media.Frame{Track: media.Audio, DTS: at, PTS: at, Body: body("\xaf\x01", gop, n, size/4)})
			if builder.Bytes() >= media.MaxBatchBytes {
				film = append(film, builder.Batch(h))
			}
		}
		if b := builder.Batch(h); b != nil {
			film = append(film, b)
		}
	}
	return film
}

// body makes a body that is like no other's.
func body(head string, gop, n, size int) []byte {
	b := fmt.Appendf([]byte(head), "gop %d frame %d ", gop, n)
	for len(b) < size {
		b = append(b, byte(len(b)*(gop+3)+n))
	}
	return b
}
