package media_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// reel is a Source of a film that begins at the last join point at or before from.
type reel struct {
	list
	live bool
}

func (r *reel) Info() media.Info { return media.Info{Name: "film", Live: r.live} }

func openReel(film []*media.Batch, from time.Duration) *reel {
	at := 0
	for i, b := range film {
		if b.Join() && b.DTS() <= from {
			at = i
		}
	}
	return &reel{list: list{film[at:], io.EOF}}
}

// divided makes the same film each time, in batches that are divided anywhere in
// the GOPs.
func divided(rng *rand.Rand) (film []*media.Batch) {
	b := media.NewBuilder(media.NoClock)
	for n := range 100 {
		key := n%10 == 0
		if (key || rng.IntN(4) == 0) && b.Len() > 0 {
			film = append(film, b.Batch(av))
		}
		at := time.Duration(n) * 40 * time.Millisecond
		b.Copy(media.Frame{Track: media.Video, Key: key, DTS: at, PTS: at, Body: []byte{byte(n)}})
	}
	return append(film, b.Batch(av))
}

// TestPlace reads a part of a film, and the rest from another division of it.
func TestPlace(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 500 {
		from := time.Duration(rng.IntN(4000)) * time.Millisecond
		place := media.NewPlace(from)
		first := openReel(divided(rng), from)
		next := -1
		take := func(b *media.Batch) {
			for _, f := range b.Frames() {
				if n := int(f.Body[0]); next >= 0 && n != next {
					t.Fatalf("frame %d comes, want %d", n, next)
				}
				next = int(f.Body[0]) + 1
			}
		}
		for range rng.IntN(5) {
			b, err := first.Next(t.Context())
			if err != nil {
				break
			}
			place.Pass(b)
			take(b)
		}
		second := openReel(divided(rng), place.From)
		rest, gap, err := place.Find(t.Context(), second)
		if err != nil || gap {
			t.Fatalf("from %v, frame %d: %v, gap %v", from, next, err, gap)
		}
		if rest != nil {
			take(rest)
		}
		for {
			b, err := second.Next(context.Background())
			if errors.Is(err, io.EOF) {
				break
			}
			take(b)
		}
		if next != 100 {
			t.Fatalf("it ends before frame %d", next)
		}
	}
}

func TestPlaceIsGone(t *testing.T) {
	film := divided(rand.New(rand.NewPCG(9, 10)))
	place := media.NewPlace(0)
	place.Pass(film[0])
	for _, c := range []struct {
		name string
		src  *reel
		gap  bool
	}{
		{"another film", openReel(film, 2*time.Second), false},
		{"a shorter film", &reel{list: list{nil, io.EOF}}, false},
		{"live, further on", &reel{list: list{openReel(film, 2*time.Second).batches, io.EOF}, live: true}, true},
	} {
		rest, gap, err := place.Find(t.Context(), c.src)
		if gap != c.gap || c.gap != (err == nil) || c.gap && rest.DTS() != 2*time.Second {
			t.Errorf("%s: gap %v, %v", c.name, gap, err)
		}
		if err != nil && !errors.Is(err, media.ErrChanged) {
			t.Errorf("%s: %v does not say that it has changed", c.name, err)
		}
	}
}
