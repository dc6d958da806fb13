package flv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// memory is a File in memory.
type memory []byte

func (m memory) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return bytes.NewReader(m).ReadAt(p, off)
}

func (m memory) Size() int64 { return int64(len(m)) }

func appendTagMS(dst []byte, track media.Track, ms uint32, body []byte) []byte {
	return appendTag(dst, track, time.Duration(ms)*time.Millisecond, body)
}

var fileHead = []byte("FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00")

var (
	avcConfig = []byte{0x17, 0, 0, 0, 0, 1, 2, 3}
	aacConfig = []byte{0xaf, 0, 0x12, 0x10}
)

func avcFrame(key bool, n int) []byte {
	b := bytes.Repeat([]byte{0xee}, n)
	copy(b, []byte{0x27, 1, 0, 0, 0})
	if key {
		b[0] = 0x17
	}
	return b
}

func aacFrame(n int) []byte { return append([]byte{0xaf, 1}, bytes.Repeat([]byte{7}, n)...) }

// sample is a file of GOPs of one second, 10 frames each, with audio between.
func sample(gops int, start uint32) []byte {
	p := bytes.Clone(fileHead)
	p = appendTagMS(p, media.Video, start, avcConfig)
	p = appendTagMS(p, media.Audio, start, aacConfig)
	for i := range gops * 10 {
		ms := start + uint32(i)*100
		p = appendTagMS(p, media.Video, ms, avcFrame(i%10 == 0, 50+i%7))
		p = appendTagMS(p, media.Audio, ms+3, aacFrame(20+i%3))
	}
	return p
}

// readAll returns the batches of f from a position on.
func readAll(t *testing.T, f media.File, from time.Duration) (media.Index, []*media.Batch) {
	t.Helper()
	x, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	batches := batchesOf(t, x, f, from)
	if f.Size() >= 0 {
		skimmed(t, x, f)
	}
	return x, batches
}

// skimmed checks that what Skim finds is what is read.
func skimmed(t *testing.T, x media.Index, f media.File) {
	t.Helper()
	start, _ := x.Span()
	next := x.Batches(f, start)
	var batch *media.Batch
	var left []media.Frame
	err := x.(*index).Skim(t.Context(), f, func(h *media.Header, got media.Frame, size int) (err error) {
		if len(left) == 0 {
			if batch, err = next(t.Context()); err != nil {
				return fmt.Errorf("there is %v %v, reading ends with %w", got.Track, got.DTS, err)
			}
			left = batch.Frames()
		}
		want := left[0]
		left = left[1:]
		if got.Track != want.Track || got.Key != want.Key || got.DTS != want.DTS || got.PTS != want.PTS || size != len(want.Body) ||
			!bytes.HasPrefix(want.Body, got.Body) || !alike(h, batch.Header()) {
			return fmt.Errorf("a frame of %d bytes is %v %v, read is %v %v with %d", size, got.Track, got.DTS, want.Track, want.DTS, len(want.Body))
		}
		return nil
	})
	if _, end := next(t.Context()); err != nil || len(left) > 0 || !errors.Is(end, io.EOF) {
		t.Fatalf("skimmed: %v; %d frames are left of a batch, reading goes on with %v", err, len(left), end)
	}
}

// alike says whether two headers describe the same.
func alike(a, b *media.Header) bool {
	return sameFormat(a.Video, b.Video) && sameFormat(a.Audio, b.Audio) && bytes.Equal(a.Meta, b.Meta)
}

func batchesOf(t *testing.T, x media.Index, f media.File, from time.Duration) []*media.Batch {
	t.Helper()
	next := x.Batches(f, from)
	var batches []*media.Batch
	for {
		b, err := next(t.Context())
		if errors.Is(err, io.EOF) {
			return batches
		}
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, b)
	}
}

func framesOf(batches []*media.Batch) []media.Frame {
	var frames []media.Frame
	for _, b := range batches {
		frames = append(frames, b.Frames()...)
	}
	return frames
}

func sameFrames(a, b []media.Frame) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Track != b[i].Track || a[i].Key != b[i].Key || a[i].DTS != b[i].DTS || a[i].PTS != b[i].PTS ||
			!bytes.Equal(a[i].Body, b[i].Body) {
			return false
		}
	}
	return true
}

// ffmpeg makes a file of test pictures and sounds and returns what is in it.
func ffmpeg(t *testing.T, name string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	args = append([]string{"-v", "error", "-y"}, append(args, path)...)
	if out, err := exec.Command("ffmpeg", args...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg %v: %v\n%s", args, err, out)
	}
	return path
}

func loadFile(t *testing.T, path string) memory {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
