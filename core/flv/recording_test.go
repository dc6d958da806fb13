package flv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

// disk is a Storage in memory. Writes fail once full is reached.
type disk struct {
	memory
	full int
}

var errFullDisk = errors.New("no space left on device")

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(d.memory).ReadAt(p, off)
}
func (d *disk) Sync() error { return nil }

func (d *disk) Truncate(n int64) error {
	d.memory = d.memory[:n]
	return nil
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	n := len(p)
	if d.full > 0 {
		n = min(n, max(0, d.full-int(off)))
	}
	if end := int(off) + n; end > len(d.memory) {
		d.memory = append(d.memory, make([]byte, end-len(d.memory))...)
	}
	copy(d.memory[off:], p[:n])
	if n < len(p) {
		return n, errFullDisk
	}
	return n, nil
}

// record writes batches and finishes the file.
func record(t *testing.T, f Storage, batches ...*media.Batch) {
	t.Helper()
	r, err := NewRecording(f, batches[0].Header())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		if err := r.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// single returns the frames of batches as batches of one.
func single(batches []*media.Batch) []*media.Batch {
	var out []*media.Batch
	for _, b := range batches {
		for _, f := range b.Frames() {
			out = append(out, media.NewBatch(b.Header(), media.NoClock, f))
		}
	}
	return out
}

// What is recorded can be read, probed and sought in, with the duration and the
// keyframe table in place, and has the same packets.
func TestRecordingByFFmpeg(t *testing.T) {
	for name, args := range map[string][]string{
		"h264+aac":   with(append(h264, "-c:a", "aac")...),
		"video only": with(append(h264, "-an")...),
		"audio only": with("-vn", "-c:a", "aac"),
	} {
		t.Run(name, func(t *testing.T) {
			source := ffmpeg(t, "a.flv", args...)
			_, batches := readAll(t, loadFile(t, source), 0)
			path := filepath.Join(t.TempDir(), "b.flv")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			record(t, f, single(batches)...)

			x, again := readAll(t, loadFile(t, path), 0)
			if !sameFrames(framesOf(again), framesOf(batches)) {
				t.Error("other frames")
			}
			if table := !x.(*index).complete; table == (name == "audio only") {
				t.Errorf("it has a keyframe table: %v", table)
			}
			if a, b := hashes(t, source), hashes(t, path); a != b {
				t.Errorf("packets are\n%s\nwant\n%s", b, a)
			}
			out, err := exec.Command("ffprobe", "-v", "error", "-show_entries", "format=duration:format_tags=encoder", "-of", "csv=p=0", path).Output()
			if got := string(out); err != nil || !strings.HasPrefix(got, "6.0") || !strings.Contains(got, "Lavf") {
				t.Errorf("ffprobe: duration and encoder %q, %v", got, err)
			}
			seek := exec.Command("ffmpeg", "-v", "error", "-ss", "4", "-i", path, "-c", "copy", "-f", "framemd5", "-")
			if out, err := seek.CombinedOutput(); err != nil || bytes.Count(out, []byte("\n")) > 250 {
				t.Errorf("ffmpeg -ss 4: %v\n%s", err, out)
			}
		})
	}
}

func hashes(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("ffmpeg", "-v", "error", "-i", path, "-c", "copy", "-f", "framemd5", "-").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A recording cut at any byte is repaired to what was whole by then.
func TestRepairCutAtEveryByte(t *testing.T) {
	_, batches := readAll(t, memory(sample(2, 0)), 0)
	d := new(disk)
	r, err := NewRecording(d, batches[0].Header())
	if err != nil {
		t.Fatal(err)
	}
	head := len(d.memory)
	var sizes []int // after each frame
	for _, b := range single(batches) {
		if err := r.Write(b); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(d.memory))
	}
	open := bytes.Clone(d.memory) // as a crash before Close leaves it
	frames := framesOf(batches)
	for n := head; n <= len(open); n++ {
		d := &disk{memory: bytes.Clone(open[:n])}
		if ok, err := Finished(d); ok || err != nil {
			t.Fatalf("%d bytes: finished %v, %v", n, ok, err)
		}
		result, err := Repair(t.Context(), d, int64(n))
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		want := 0
		for want < len(sizes) && sizes[want] <= n {
			want++
		}
		_, got := readAll(t, d.memory, 0)
		if !sameFrames(framesOf(got), frames[:want]) {
			t.Fatalf("%d bytes: %d frames, want %d", n, len(framesOf(got)), want)
		}
		if ok, _ := Finished(d); !ok || result.Size != int64(len(d.memory)) || result.Empty != (want == 0) {
			t.Fatalf("%d bytes: %+v, finished %v", n, result, ok)
		}
	}
	for n := range head {
		d := &disk{memory: bytes.Clone(open[:n])}
		if result, err := Repair(t.Context(), d, int64(n)); !errors.Is(err, ErrNoRecording) && !result.Empty {
			t.Fatalf("%d bytes of the head: %v", n, err)
		}
		if len(d.memory) != n {
			t.Fatalf("%d bytes of the head have become %d", n, len(d.memory))
		}
	}
}

// Whatever is written, in whatever order the metadata reach the disk, a crash
// leaves a file that is finished or can be.
func TestRepairDuringClose(t *testing.T) {
	_, batches := readAll(t, memory(sample(3, 0)), 0)
	d := new(disk)
	record(t, d, batches...)
	finished := bytes.Clone(d.memory)
	open := new(disk)
	r, err := NewRecording(open, batches[0].Header())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		if err := r.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	end := metaBody + r.reserved
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 { // any sectors of the metadata, all but the duration
		torn := bytes.Clone(open.memory)
		for at := metaBody; at < end; at += 512 {
			if rng.IntN(2) == 0 {
				copy(torn[at:min(at+512, end)], finished[at:])
			}
		}
		clear(torn[metaBody+durationAt : metaBody+durationAt+8])
		d := &disk{memory: torn}
		_, err := Repair(t.Context(), d, int64(len(torn)))
		if err != nil {
			t.Fatal(err)
		}
		if _, got := readAll(t, d.memory, 0); !sameFrames(framesOf(got), framesOf(batches)) {
			t.Fatal("other frames")
		}
	}
}

func TestRepairLeavesOthersAlone(t *testing.T) {
	p := memory(sample(2, 0))
	d := &disk{memory: bytes.Clone(p)}
	if _, err := Finished(d); !errors.Is(err, ErrNoRecording) {
		t.Errorf("another's file: %v", err)
	}
	if _, err := Repair(t.Context(), d, p.Size()); !errors.Is(err, ErrNoRecording) || !bytes.Equal(d.memory, p) {
		t.Errorf("another's file: %v", err)
	}
	// Damage far from the end is not made worse.
	_, batches := readAll(t, p, 0)
	d = new(disk)
	r, err := NewRecording(d, batches[0].Header())
	if err != nil {
		t.Fatal(err)
	}
	d.memory = append(d.memory, make([]byte, maxDamage+1)...)
	if _, err := Repair(t.Context(), d, d.Size()); err == nil || !strings.Contains(err.Error(), "damaged") || d.Size() != r.Size()+maxDamage+1 {
		t.Errorf("damage: %v", err)
	}
}

func TestContinue(t *testing.T) {
	_, batches := readAll(t, memory(sample(3, 0)), 0)
	for _, finished := range []bool{true, false} {
		d := new(disk)
		r, err := NewRecording(d, batches[0].Header())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			if err := r.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if finished {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if r, err = Continue(t.Context(), d, d.Size()); err != nil {
			t.Fatal(err)
		}
		if ok, err := Finished(d); ok || err != nil {
			t.Error("a file that goes on counts as finished")
		}
		if !r.Fits(batches[0].Header()) || r.Fits(&media.Header{}) {
			t.Error("Fits")
		}
		for _, b := range batches {
			if err := r.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		x, got := readAll(t, d.memory, 0)
		if n := len(framesOf(got)); n != 120 || got[3].DTS() != 3003*time.Millisecond {
			t.Errorf("%d frames, the second part starts at %v", n, got[3].DTS())
		}
		if _, duration := x.Span(); duration != 6006*time.Millisecond {
			t.Errorf("duration %v", duration)
		}
	}
}

// Whatever of a batch had been written when a process was killed, the next goes on
// with the rest of it. Silence, which looks like what came before, may come twice.
func TestContinue_WithTheRest(t *testing.T) {
	h := batchesOfSample(t)[0].Header()
	const silence = "\xaf\x01\x21\x10\x04"
	frame := func(track media.Track, n int, body string) media.Frame {
		at := time.Duration(n) * 20 * time.Millisecond
		return media.Frame{Track: track, Key: track == media.Video && n == 0, DTS: at, PTS: at, Body: []byte(body)}
	}
	picture := func(n int) media.Frame { return frame(media.Video, n, string(avcFrame(n == 0, 20+n))) }
	clock := media.NewBuilder(media.NoClock)
	for _, f := range []media.Frame{picture(0), frame(media.Audio, 0, silence), picture(1), frame(media.Audio, 1, silence)} {
		clock.Copy(f)
	}
	before := clock.Batch(h)
	for name, last := range map[string][]media.Frame{
		"pictures": {picture(2), frame(media.Audio, 2, silence), picture(3), picture(4)},
		"silence":  {frame(media.Audio, 2, silence)},
		"sound":    {frame(media.Audio, 2, silence+"a"), frame(media.Audio, 3, silence+"b")},
	} {
		batch := media.NewBatch(h, clock.Clock(), last...)
		whole := new(disk)
		r, err := NewRecording(whole, h)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Write(before); err != nil {
			t.Fatal(err)
		}
		begin := r.Size()
		if err := r.Write(batch); err != nil {
			t.Fatal(err)
		}
		for cut := begin; cut <= r.Size(); cut++ {
			d := &disk{memory: bytes.Clone(whole.memory[:cut])}
			again, err := Continue(t.Context(), d, cut)
			if err != nil {
				t.Fatal(err)
			}
			rest, err := again.Rest(batch)
			if err != nil {
				t.Fatal(err)
			}
			if rest != nil {
				if err := again.Write(rest); err != nil {
					t.Fatal(err)
				}
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			_, got := readAll(t, d.memory, 0)
			want := 4 + len(last)
			if name == "silence" && cut == r.Size() {
				want++
			}
			if n := len(framesOf(got)); n != want {
				t.Errorf("%s, cut to %d of %d bytes: %d frames, want %d", name, cut-begin, r.Size()-begin, n, want)
			}
			if rest != nil && len(rest.Frames()) < len(last) && rest.Prev() == clock.Clock() {
				t.Errorf("%s, cut to %d bytes: the rest does not say what came before it", name, cut-begin)
			}
		}
	}
}

// The archive is monotonic, even if what is written is not.
func TestT47_Monotonic(t *testing.T) {
	h := batchesOfSample(t)[0].Header()
	d := new(disk)
	var batches []*media.Batch
	for _, ms := range []int{5000, 5040, 5030, 5080, 100, 140, 900_000, 900_040, 0, 40} {
		at := time.Duration(ms) * time.Millisecond
		batches = append(batches, media.NewBatch(h, media.NoClock, media.Frame{Track: media.Video, DTS: at, PTS: at, Key: true, Body: avcFrame(true, 10)}))
	}
	record(t, d, batches...)
	_, got := readAll(t, d.memory, 0)
	var times []int64
	for _, f := range framesOf(got) {
		times = append(times, f.DTS.Milliseconds())
	}
	if want := []int64{0, 40, 40, 80, 120, 160, 900_020, 900_060, 901_020, 901_060}; !slices.Equal(times, want) {
		t.Errorf("times %v, want %v", times, want)
	}
}

func batchesOfSample(t *testing.T) []*media.Batch {
	_, batches := readAll(t, memory(sample(2, 0)), 0)
	return batches
}

// After an error of the disk the file ends with the last whole batch, and can
// still be finished.
func TestT55_FullDisk(t *testing.T) {
	batches := batchesOfSample(t)
	d := new(disk)
	r, err := NewRecording(d, batches[0].Header())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(batches[0]); err != nil {
		t.Fatal(err)
	}
	d.full = len(d.memory) + 100
	if err := r.Write(batches[1]); !errors.Is(err, errFullDisk) || d.Size() != r.Size() {
		t.Errorf("%v, size %d, want %d", err, d.Size(), r.Size())
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, got := readAll(t, d.memory, 0); !sameFrames(framesOf(got), batches[0].Frames()) {
		t.Error("other frames than those of the first batch")
	}
	if _, err := NewRecording(&disk{full: 100}, batches[0].Header()); !errors.Is(err, errFullDisk) {
		t.Error(err)
	}
}

// A configuration that changes within a file goes with a full scan, and a
// keyframe table that is too long is thinned out.
func TestRecordingTable(t *testing.T) {
	h := &media.Header{Video: media.Format{Codec: "h264", Config: avcConfig}}
	other := &media.Header{Video: media.Format{Codec: "h264", Config: append(bytes.Clone(avcConfig), 1)}}
	batch := func(h *media.Header, i int) *media.Batch {
		at := time.Duration(i) * time.Second
		return media.NewBatch(h, media.NoClock, media.Frame{Track: media.Video, Key: true, DTS: at, PTS: at, Body: avcFrame(true, 10)})
	}
	changed := new(disk)
	record(t, changed, batch(h, 0), batch(h, 1), batch(other, 2), batch(other, 3))
	x, _ := readAll(t, changed.memory, 0)
	if !x.(*index).complete || !bytes.Equal(batchesOf(t, x, changed.memory, 3*time.Second)[0].Header().Video.Config, other.Video.Config) {
		t.Error("T50: a change of the configuration is missed")
	}
	long := new(disk)
	var batches []*media.Batch
	for i := range 10_000 {
		batches = append(batches, batch(h, i))
	}
	record(t, long, batches...)
	x, _ = readAll(t, long.memory, 0)
	if n := len(x.(*index).points); n < 3000 || n > 3640 {
		t.Errorf("a table of %d keyframes", n)
	}
	for _, i := range []int{1, 4999, 5000, 5001, 9999} {
		if got := batchesOf(t, x, long.memory, time.Duration(i)*time.Second)[0].DTS(); got != time.Duration(i)*time.Second {
			t.Errorf("from %d s: %v", i, got)
		}
	}
}

// The publisher's own metadata are kept, also when they change or come late.
func TestRecordingKeepsMetadata(t *testing.T) {
	b := batchesOfSample(t)
	withMeta := func(b *media.Batch, meta []byte) *media.Batch {
		h := *b.Header()
		h.Meta = meta
		return media.NewBatch(&h, media.NoClock, b.Frames()...)
	}
	for name, metas := range map[string][2][]byte{
		"from the start": {metaOf("one"), metaOf("one")},
		"late":           {nil, metaOf("one")},
		"changed":        {metaOf("two"), metaOf("one")},
		"too large":      {metaOf("one"), append(metaOf("two"), make([]byte, maxMeta)...)},
	} {
		d := new(disk)
		record(t, d, withMeta(b[0], metas[0]), withMeta(b[1], metas[1]))
		x, got := readAll(t, d.memory, 0)
		meta := decodeMeta(got[0].Header().Meta)
		_, duration := x.Span()
		if meta.Get("title") != "one" || meta.Get("duration") != duration.Seconds() || meta.Get("videocodecid") != 7.0 || meta.Get("keyframes") != nil {
			t.Errorf("%s: %v", name, meta)
		}
		if !sameFrames(framesOf(got), framesOf(b)) {
			t.Errorf("%s: other frames", name)
		}
	}
}

func metaOf(title string) []byte {
	return amf.Append(nil, "onMetaData", amf.ECMAArray{{Key: "title", Value: title}, {Key: "duration", Value: 0.0}})
}

func TestWriter(t *testing.T) {
	batches := batchesOfSample(t)
	var out bytes.Buffer
	w := NewWriter(&out, 0)
	for _, b := range single(batches) {
		if err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if _, got := readAll(t, memory(out.Bytes()), 0); !sameFrames(framesOf(got), framesOf(batches)) {
		t.Error("other frames")
	}
	huge := media.NewBatch(batches[0].Header(), media.NoClock, media.Frame{Track: media.Video, Body: make([]byte, maxBody+1)})
	if err := NewWriter(io.Discard, 0).Write(huge); err == nil {
		t.Error("a frame of 16 MiB was written")
	}
}

func FuzzRepair(f *testing.F) {
	d := new(disk)
	r, err := NewRecording(d, &media.Header{})
	if err != nil {
		f.Fatal(err)
	}
	head := bytes.Clone(d.memory)
	tags := sample(1, 0)[13:]
	f.Add(tags, uint16(0), byte(0))
	f.Add(tags[:len(tags)/2], uint16(300), byte(7))
	_ = r
	f.Fuzz(func(t *testing.T, tags []byte, at uint16, flip byte) {
		p := append(bytes.Clone(head), tags...)
		p[len(head)/2+int(at)%(len(p)-len(head)/2)] ^= flip
		d := &disk{memory: p}
		result, err := Repair(context.Background(), d, int64(len(p)))
		if err != nil {
			return
		}
		if result.Size != d.Size() {
			t.Fatal(fmt.Sprint(result))
		}
		again, err := Repair(context.Background(), d, d.Size())
		if err != nil || again.Cut != 0 || again.Duration != result.Duration {
			t.Fatalf("%+v, again %+v, %v", result, again, err)
		}
		if _, err := ReadIndex(context.Background(), d.memory); err != nil {
			t.Fatal(err)
		}
	})
}
