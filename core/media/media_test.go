package media_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

var av = &media.Header{Video: media.Format{Codec: "h264"}, Audio: media.Format{Codec: "aac"}}

// TestBuilderLayout builds batches of random frames and checks that the bodies
// are what was put in and lie in the slab behind their headroom.
func TestBuilderLayout(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := media.NewBuilder(media.NoClock)
	for range 200 {
		var want [][]byte
		if rng.IntN(2) == 0 {
			b.Reserve(rng.IntN(20), rng.IntN(2000))
		}
		for range 1 + rng.IntN(20) {
			body := bytes.Repeat([]byte{byte(rng.Uint32())}, rng.IntN(300))
			want = append(want, body)
			b.Copy(media.Frame{Track: media.Audio, Body: body})
		}
		batch := b.Batch(av)
		slab := batch.Slab()
		for i, f := range batch.Frames() {
			if !bytes.Equal(f.Body, want[i]) {
				t.Fatalf("frame %d: body is %x, want %x", i, f.Body, want[i])
			}
			slab = slab[media.Headroom:]
			if len(f.Body) > 0 && &slab[0] != &f.Body[0] {
				t.Fatalf("frame %d: its body does not lie in the slab behind the headroom", i)
			}
			slab = slab[len(f.Body):]
		}
		if len(slab) != 0 {
			t.Fatalf("%d bytes of the slab belong to no frame", len(slab))
		}
	}
}

func TestBuilderTake(t *testing.T) {
	slab := append(make([]byte, media.Headroom), "body"...)
	b := media.NewBuilder(media.NoClock)
	b.Take(media.Frame{Track: media.Video, Key: true, DTS: 40 * time.Millisecond}, slab)
	first := b.Batch(av)
	if &first.Slab()[0] != &slab[0] || string(first.Frames()[0].Body) != "body" {
		t.Error("Take made a copy, or the wrong body")
	}
	b.Copy(media.Frame{Track: media.Audio, DTS: 50 * time.Millisecond, Body: []byte("a")})
	second := b.Batch(av)
	if want := (media.Clock{Audio: media.None, Video: 40 * time.Millisecond, Data: media.None}); second.Prev() != want {
		t.Errorf("Prev is %v, want %v", second.Prev(), want)
	}
	if b.Batch(av) != nil {
		t.Error("a batch without frames is not nil")
	}
}

// What a builder has made room for, and a batch does not need, is given back.
func TestBuilderSpare(t *testing.T) {
	frame := media.Frame{Track: media.Audio, Body: bytes.Repeat([]byte{1}, 10_000)}
	for name, reserved := range map[string]int{"reserved": 1 << 20, "grown": 0} {
		b := media.NewBuilder(media.NoClock)
		b.Reserve(0, reserved)
		for range 9 {
			b.Copy(frame)
		}
		batch := b.Batch(av)
		if slab := batch.Slab(); cap(slab) > len(slab)+len(slab)/8 {
			t.Errorf("%s: a slab of %d bytes holds %d", name, len(slab), cap(slab))
		}
		for i, f := range batch.Frames() {
			if at := i*len(frame.Body) + (i+1)*media.Headroom; &batch.Slab()[at] != &f.Body[0] || !bytes.Equal(f.Body, frame.Body) {
				t.Errorf("%s: the body of frame %d does not lie in the slab", name, i)
			}
		}
	}
}

func TestJoin(t *testing.T) {
	key := media.Frame{Track: media.Video, Key: true}
	inter := media.Frame{Track: media.Video}
	sound := media.Frame{Track: media.Audio}
	onlySound := &media.Header{Audio: media.Format{Codec: "aac"}}
	for _, c := range []struct {
		name   string
		header *media.Header
		frames []media.Frame
		want   bool
	}{
		{"keyframe first", av, []media.Frame{key, sound, inter}, true},
		{"no keyframe", av, []media.Frame{inter, sound}, false},
		{"sound first", av, []media.Frame{sound, inter}, false},
		{"no video", onlySound, []media.Frame{sound}, true},
	} {
		if got := media.NewBatch(c.header, media.NoClock, c.frames...).Join(); got != c.want {
			t.Errorf("%s: Join is %v", c.name, got)
		}
	}
}

func TestFormIsMadeOnce(t *testing.T) {
	made := 0
	count := func(*media.Batch) any { made++; return made }
	b := media.NewBatch(av, media.NoClock, media.Frame{Track: media.Audio})
	for range 3 {
		if got := b.Form(media.FormFLV, count); got != 1 {
			t.Fatalf("Form returned %v, made %d times", got, made)
		}
	}
}

func TestT17_Names(t *testing.T) {
	for _, name := range []string{"a", "live/show", "Füße 2.flv", "a-b_c.d/e", strings.Repeat("x", media.MaxName)} {
		if err := media.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.b", "a\x00b", "a\r\nb", "a\x1b[31m",
		`a\b`, "<script>", `a"b`, "a'b", "a&b", "a?b", "a%2e", "C:a", "\xff", strings.Repeat("x", 4096),
	} {
		if err := media.CheckName(name); err == nil {
			t.Errorf("%q was allowed", name)
		}
	}
}

func TestCostTotal(t *testing.T) {
	idle := media.Cost{Base: media.CostDisk}
	busy := media.Cost{Base: media.CostDisk, Load: 0.9}
	if idle.Total() != 10 || busy.Total() <= idle.Total() {
		t.Errorf("a disk costs %v idle and %v busy", idle.Total(), busy.Total())
	}
}

// list is a Source of ready batches and a Sink that keeps what it gets.
type list struct {
	batches []*media.Batch
	err     error
}

func (l *list) Info() media.Info { return media.Info{Name: "list"} }
func (l *list) Close() error     { return nil }
func (l *list) Next(context.Context) (*media.Batch, error) {
	if len(l.batches) == 0 {
		return nil, l.err
	}
	b := l.batches[0]
	l.batches = l.batches[1:]
	return b, nil
}

type keeper struct {
	batches []*media.Batch
	err     error
}

func (k *keeper) Close(context.Context) error { return nil }
func (k *keeper) Write(_ context.Context, b *media.Batch) error {
	k.batches = append(k.batches, b)
	return k.err
}

func TestCopy(t *testing.T) {
	b := media.NewBatch(av, media.NoClock, media.Frame{Track: media.Audio})
	failure := errors.New("failure")
	for _, c := range []struct {
		name           string
		readErr, write error
		want           error
		batches        int
	}{
		{"to the end", io.EOF, nil, nil, 2},
		{"read fails", failure, nil, failure, 2},
		{"write fails", io.EOF, failure, failure, 1},
	} {
		dst := &keeper{err: c.write}
		err := media.Copy(t.Context(), dst, &list{[]*media.Batch{b, b}, c.readErr})
		if !errors.Is(err, c.want) || len(dst.batches) != c.batches {
			t.Errorf("%s: %v after %d batches, want %v after %d", c.name, err, len(dst.batches), c.want, c.batches)
		}
	}
}

// pushing is a list that pushes by itself.
type pushing struct{ list }

func (p *pushing) Push(_ context.Context, take func(*media.Batch) error) error {
	for _, b := range p.batches {
		if err := take(b); err != nil {
			return err
		}
	}
	return p.err
}

func TestPush(t *testing.T) {
	b := media.NewBatch(av, media.NoClock, media.Frame{Track: media.Audio})
	failure := errors.New("failure")
	has := list{[]*media.Batch{b, b}, io.EOF}
	for name, open := range map[string]func() media.Source{
		"by Next": func() media.Source { l := has; return &l },
		"by Push": func() media.Source { return &pushing{has} },
	} {
		for _, c := range []struct {
			take, want error
			batches    int
		}{{nil, io.EOF, 2}, {failure, failure, 1}} {
			taken := 0
			err := media.Push(t.Context(), open(), func(*media.Batch) error { taken++; return c.take })
			if !errors.Is(err, c.want) || taken != c.batches {
				t.Errorf("%s: %v after %d batches, want %v after %d", name, err, taken, c.want, c.batches)
			}
		}
	}
}
