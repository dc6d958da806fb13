package flv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
	"github.com/yutopp/go-flv"
	"github.com/yutopp/go-flv/tag"
)

var sources = []string{"-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=6", "-f", "lavfi", "-i", "sine=d=6"}

func with(args ...string) []string { return append(append([]string(nil), sources...), args...) }

var h264 = []string{"-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-bf", "2", "-pix_fmt", "yuv420p"}

// What ffmpeg makes is read frame for frame as ffprobe and go-flv read it, from
// the start and from each second.
func TestFFmpegFiles(t *testing.T) {
	for name, args := range map[string][]string{
		"plain":          with(append(h264, "-c:a", "aac")...),
		"keyframe index": with(append(h264, "-c:a", "aac", "-flvflags", "add_keyframe_index")...),
		"mp3":            with(append(h264, "-c:a", "libmp3lame", "-ar", "44100")...),
		"video only":     with(append(h264, "-an")...),
		"audio only":     with("-vn", "-c:a", "aac"),
		"flv1":           with("-c:v", "flv1", "-g", "25", "-an"),
		"no metadata":    with(append(h264, "-c:a", "aac", "-flvflags", "no_metadata")...),
	} {
		t.Run(name, func(t *testing.T) {
			path := ffmpeg(t, "a.flv", args...)
			f := loadFile(t, path)
			x, batches := readAll(t, f, media.Newest)
			start, duration := x.Span()
			if start != 0 || duration < 5900*time.Millisecond || duration > 6200*time.Millisecond {
				t.Errorf("start %v, duration %v", start, duration)
			}
			if x.(*index).complete == (name == "keyframe index") {
				t.Error("the keyframe table was not used, or there was none")
			}
			frames := framesOf(batches)
			comparePackets(t, path, frames)
			compareGoFLV(t, f, frames)
			video := batches[0].Header().Video.Codec != ""
			for i := range 6 {
				from := time.Duration(i)*time.Second + 300*time.Millisecond
				rest := batchesOf(t, x, f, from)
				b := rest[0]
				if !b.Join() || b.DTS() > from || video && b.DTS() != time.Duration(i)*time.Second+batches[0].DTS() ||
					from-b.DTS() > 1400*time.Millisecond {
					t.Errorf("from %v: starts at %v", from, b.DTS())
				}
				got := framesOf(rest)
				if !sameFrames(got, frames[len(frames)-len(got):]) {
					t.Errorf("from %v: other frames", from)
				}
			}
			if d := decodeMeta(batches[0].Header().Meta).Get("duration"); d != duration.Seconds() {
				t.Errorf("duration in the metadata: %v, want %v", d, duration)
			}
		})
	}
}

// comparePackets compares frames to what ffprobe reads from the file.
func comparePackets(t *testing.T, path string, frames []media.Frame) {
	t.Helper()
	out, err := exec.Command("ffprobe", "-v", "error", "-show_entries", "packet=codec_type,pts_time,dts_time,flags", "-of",
		"compact=p=0:nk=1", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for line := range strings.Lines(string(out)) {
		p := strings.Split(strings.TrimSpace(line), "|")
		pts, _ := strconv.ParseFloat(p[1], 64)
		dts, _ := strconv.ParseFloat(p[2], 64)
		want = append(want, fmt.Sprintf("%s %.3f %.3f %v", p[0], pts, dts, p[0] == "video" && p[3][0] == 'K'))
	}
	for _, f := range frames {
		end := f.Track == media.Video && len(f.Body) == 5 // of the sequence
		if f.Track != media.Data && !end {
			got = append(got, fmt.Sprintf("%s %.3f %.3f %v", f.Track, f.PTS.Seconds(), f.DTS.Seconds(), f.Key))
		}
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("frames are\n%s\nffprobe:\n%s", g, w)
	}
}

// fullReader makes every Read full, which go-flv relies on.
type fullReader struct{ r io.Reader }

func (f fullReader) Read(p []byte) (int, error) {
	n, err := io.ReadFull(f.r, p)
	if n > 0 {
		err = nil
	}
	return n, err
}

// compareGoFLV compares the coded bytes to what go-flv reads, up to its first error.
func compareGoFLV(t *testing.T, p []byte, frames []media.Frame) {
	t.Helper()
	d, err := flv.NewDecoder(fullReader{bytes.NewReader(p)})
	if err != nil {
		t.Fatal(err)
	}
	var want [][]byte
	for {
		var ft tag.FlvTag
		if err := d.Decode(&ft); err != nil {
			break
		}
		switch data := ft.Data.(type) {
		case *tag.AudioData:
			b, _ := io.ReadAll(data)
			if data.SoundFormat != tag.SoundFormatAAC || data.AACPacketType == tag.AACPacketTypeRaw {
				want = append(want, b)
			}
		case *tag.VideoData:
			b, _ := io.ReadAll(data)
			if data.CodecID != tag.CodecIDAVC || data.AVCPacketType != tag.AVCPacketTypeSequenceHeader {
				want = append(want, b)
			}
		}
	}
	i := 0
	for _, f := range frames {
		if f.Track == media.Data || i == len(want) {
			continue
		}
		if !bytes.HasSuffix(f.Body, want[i]) {
			t.Fatalf("frame %d has another body than go-flv reads", i)
		}
		i++
	}
}

// shortReads returns one byte at a time.
type shortReads struct{ memory }

func (s shortReads) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return s.memory.ReadAt(ctx, p[:1], off)
}

func TestT19_ShortReads(t *testing.T) {
	p := memory(sample(3, 0))
	_, want := readAll(t, p, 0)
	_, got := readAll(t, shortReads{p}, 0)
	if !sameFrames(framesOf(got), framesOf(want)) || len(framesOf(want)) != 60 {
		t.Error("other frames through a file of one byte a read")
	}
}

func TestT20_CutAtEveryByte(t *testing.T) {
	p := memory(sample(2, 0))
	_, all := readAll(t, p, 0)
	frames := framesOf(all)
	var ends []int // of each tag's body
	for at := 13; at < len(p); {
		size := int(p[at+1])<<16 | int(p[at+2])<<8 | int(p[at+3])
		ends = append(ends, at+tagHeadLen+size)
		at += tagHeadLen + size + tagTailLen
	}
	for n := range len(p) {
		x, err := ReadIndex(t.Context(), p[:n])
		if n < 9 {
			if err == nil {
				t.Fatalf("%d bytes are taken for FLV", n)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		want := 0
		for _, end := range ends[2:] {
			if end <= n {
				want++
			}
		}
		got := framesOf(batchesOf(t, x, p[:n], 0))
		if !sameFrames(got, frames[:want]) {
			t.Fatalf("%d bytes: %d frames, want %d", n, len(got), want)
		}
	}
}

func TestT21_PreviousTagSize(t *testing.T) {
	p := sample(3, 0)
	_, all := readAll(t, memory(p), 0)
	frames := framesOf(all)
	zeroed := bytes.Clone(p)
	for at := 13; at < len(p); {
		at += tagHeadLen + int(binary.BigEndian.Uint32(p[at:])&0xffffff)
		clear(zeroed[at : at+4])
		at += tagTailLen
	}
	if _, got := readAll(t, memory(zeroed), 0); !sameFrames(framesOf(got), frames) {
		t.Error("without any PreviousTagSize there are other frames")
	}
	// Damage in the middle costs the tags that it touches.
	for size := 1; size < 40; size++ {
		bad := bytes.Clone(p)
		for i := range size {
			bad[len(p)/2+i] = 0xff
		}
		_, batches := readAll(t, memory(bad), 0)
		if got := framesOf(batches); len(got) < len(frames)-3 || len(got) > len(frames) {
			t.Errorf("%d bad bytes leave %d of %d frames", size, len(got), len(frames))
		}
	}
	for _, offset := range []uint32{0, 8, 1 << 20, 0xffffffff} {
		bad := bytes.Clone(p)
		binary.BigEndian.PutUint32(bad[5:], offset)
		if _, err := ReadIndex(t.Context(), memory(bad)); err == nil || !strings.Contains(err.Error(), "first tag") {
			t.Errorf("DataOffset %d: %v", offset, err)
		}
	}
	if _, err := ReadIndex(t.Context(), memory("<html>not found</html>")); err == nil || !strings.Contains(err.Error(), "not an FLV") {
		t.Errorf("HTML: %v", err)
	}
}

func TestT48_Timestamps(t *testing.T) {
	for _, start := range []uint32{0xffffff - 1000, 1<<31 - 1000, 0} {
		x, batches := readAll(t, memory(sample(3, start)), 0)
		checkTimes(t, x, batches, time.Duration(start)*time.Millisecond)
	}
	// Round at 2^32.
	x, batches := readAll(t, memory(sample(3, 1<<32-1500)), 0)
	checkTimes(t, x, batches, (1<<32-1500)*time.Millisecond)
	from := (1<<32 + 700) * time.Millisecond
	if b := batchesOf(t, x, memory(sample(3, 1<<32-1500)), from)[0]; b.DTS() != (1<<32+500)*time.Millisecond {
		t.Errorf("from %v: starts at %v", from, b.DTS())
	}
}

func checkTimes(t *testing.T, x media.Index, batches []*media.Batch, start time.Duration) {
	t.Helper()
	if s, d := x.Span(); s != start || d != 3003*time.Millisecond {
		t.Errorf("span %v, %v, want from %v", s, d, start)
	}
	for i, b := range batches {
		if want := start + time.Duration(i)*time.Second; b.DTS() != want || !b.Join() || len(b.Frames()) != 20 {
			t.Errorf("batch %d is at %v, want %v", i, b.DTS(), want)
		}
	}
}

func TestT50_ConfigChanges(t *testing.T) {
	p := sample(2, 0)
	other := append(bytes.Clone(avcConfig), 9)
	p = appendTagMS(p, media.Video, 2000, other)
	p = append(p, sample(2, 2000)[13+tagHeadLen+len(avcConfig)+tagTailLen:]...)
	x, batches := readAll(t, memory(p), 0)
	if len(batches) != 4 {
		t.Fatalf("%d batches", len(batches))
	}
	for i, b := range batches {
		want := avcConfig
		if i >= 2 {
			want = other
		}
		if !bytes.Equal(b.Header().Video.Config, want) || b.Header().Audio.Codec != "aac" {
			t.Errorf("batch %d has the configuration %x", i, b.Header().Video.Config)
		}
		from := time.Duration(i) * time.Second
		if got := batchesOf(t, x, memory(p), from)[0]; got.Header() != b.Header() || got.DTS() != from {
			t.Errorf("from %v: at %v with the header %v", from, got.DTS(), got.Header())
		}
	}
	if batches[0].Header() != batches[1].Header() || batches[2].Header() != batches[3].Header() {
		t.Error("equal configurations have different headers")
	}
}

// A table that lies is found out, whether in part or in whole.
func TestKeyframeTableThatLies(t *testing.T) {
	plain := sample(5, 0)
	for name, wrong := range map[string]func(i int, time, at float64) (float64, float64){
		"right":          func(_ int, time, at float64) (float64, float64) { return time, at },
		"all shifted":    func(_ int, time, at float64) (float64, float64) { return time, at + 40 },
		"first shifted":  func(i int, time, at float64) (float64, float64) { return time, at + float64(max(0, 1-i)) },
		"wrong times":    func(_ int, time, at float64) (float64, float64) { return time * 3, at },
		"behind the end": func(i int, time, at float64) (float64, float64) { return time, at * 10 },
		"sparse": func(i int, time, at float64) (float64, float64) {
			if i%3 != 0 {
				return 0, 1
			}
			return time, at
		},
	} {
		t.Run(name, func(t *testing.T) {
			var times, places amf.Array
			table := func() []byte {
				return amf.Append(nil, "onMetaData", amf.ECMAArray{{Key: "duration", Value: 5.0},
					{Key: "keyframes", Value: amf.Object{{Key: "times", Value: times}, {Key: "filepositions", Value: places}}}})
			}
			for range 5 {
				times, places = append(times, 0.0), append(places, 0.0)
			}
			meta := len(appendTagMS(nil, media.Data, 0, table()))
			x, err := ReadIndex(t.Context(), memory(plain))
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range x.(*index).points {
				times[i], places[i] = wrong(i, p.dts.Seconds(), float64(p.at)+float64(meta))
			}
			p := append(appendTagMS(bytes.Clone(fileHead), media.Data, 0, table()), plain[13:]...)
			f := memory(p)
			x, all := readAll(t, f, 0)
			if x.(*index).complete == (name == "right" || name == "first shifted" || name == "sparse") {
				t.Errorf("scanned: %v", x.(*index).complete)
			}
			for i := range 5 {
				from := time.Duration(i)*time.Second + time.Millisecond
				if b := batchesOf(t, x, f, from); b[0].DTS() != from-time.Millisecond || !sameFrames(framesOf(b), framesOf(all[i:])) {
					t.Errorf("from %v: starts at %v", from, b[0].DTS())
				}
			}
		})
	}
}

// A table points behind the configuration that comes with a keyframe.
func TestT50_ConfigBeforeKeyframe(t *testing.T) {
	other := append(bytes.Clone(avcConfig), 9)
	var times, places amf.Array
	build := func() memory {
		meta := amf.Append(nil, "onMetaData", amf.ECMAArray{{Key: "duration", Value: 4.0},
			{Key: "keyframes", Value: amf.Object{{Key: "times", Value: times}, {Key: "filepositions", Value: places}}}})
		p := appendTagMS(bytes.Clone(fileHead), media.Data, 0, meta)
		times, places = nil, nil
		for i := range 5 {
			config := avcConfig
			if i >= 3 {
				config = other
			}
			p = appendTagMS(p, media.Video, uint32(i)*1000, config)
			p = appendTagMS(p, media.Audio, uint32(i)*1000, aacConfig)
			times, places = append(times, float64(i)), append(places, float64(len(p)))
			p = appendTagMS(p, media.Video, uint32(i)*1000, avcFrame(true, 50))
			p = appendTagMS(p, media.Audio, uint32(i)*1000, aacFrame(50))
		}
		return p
	}
	times, places = make(amf.Array, 5), make(amf.Array, 5)
	for i := range times {
		times[i], places[i] = 0.0, 0.0
	}
	build()
	f := build()
	x, all := readAll(t, f, 0)
	if x.(*index).complete || len(all) != 5 {
		t.Fatalf("the table was not used, %d batches", len(all))
	}
	for i := range all {
		b := batchesOf(t, x, f, time.Duration(i)*time.Second)[0]
		if b.DTS() != all[i].DTS() || !bytes.Equal(b.Header().Video.Config, all[i].Header().Video.Config) {
			t.Errorf("batch %d has the configuration %x", i, b.Header().Video.Config)
		}
	}
}

// sequential can only be read from front to back once it has been opened.
type sequential struct {
	memory
	at *int64
}

func (s sequential) Size() int64 { return -1 }

func (s sequential) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < *s.at {
		return 0, fmt.Errorf("read at %d after %d", off, *s.at)
	}
	n, err := s.memory.ReadAt(ctx, p, off)
	*s.at = off + int64(n)
	return n, err
}

func TestT27_UnknownSize(t *testing.T) {
	p := memory(sample(300, 0))
	_, all := readAll(t, p, 0)
	for _, i := range []int{0, 1, 150, 299} {
		f := sequential{p, new(int64)}
		x, err := ReadIndex(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		*f.at = 0
		if got := batchesOf(t, x, f, all[i].DTS()+500*time.Millisecond); !sameFrames(framesOf(got), framesOf(all[i:])) {
			t.Errorf("from batch %d: it starts at %v", i, got[0].DTS())
		}
	}
}

// growing is a file that is being written.
type growing struct{ p *[]byte }

func (g growing) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return memory(*g.p).ReadAt(ctx, p, off)
}
func (g growing) Size() int64 { return int64(len(*g.p)) }

func TestGrowing(t *testing.T) {
	p := sample(4, 0)
	_, all := readAll(t, memory(p), 0)
	now := p[:len(p)/2]
	f := growing{&now}
	x, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	next := x.Batches(f, 0)
	var got []*media.Batch
	for _, size := range []int{len(p) / 2, len(p)/2 + 7, len(p) - 2, len(p)} {
		now = p[:size]
		for {
			b, err := next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b)
		}
	}
	if !sameFrames(framesOf(got), framesOf(all)) {
		t.Errorf("%d frames of a growing file, want %d", len(framesOf(got)), len(framesOf(all)))
	}
}

func TestT26_Shrinks(t *testing.T) {
	p := sample(4, 0)
	now := p
	f := growing{&now}
	x, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	now = p[:len(p)/2]
	if got := framesOf(batchesOf(t, x, f, 0)); len(got) == 0 || len(got) > 40 {
		t.Errorf("%d frames of a file cut to its half", len(got))
	}
}

// An error of the context leaves everything as it was.
func TestCanceled(t *testing.T) {
	p := memory(sample(3, 0))
	x, want := readAll(t, p, 0)
	next := x.Batches(p, 0)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	var got []*media.Batch
	for {
		if b, err := next(canceled); err == nil {
			got = append(got, b) // it was read before
			continue
		}
		b, err := next(t.Context())
		if err == io.EOF {
			break
		}
		got = append(got, b)
	}
	if !sameFrames(framesOf(got), framesOf(want)) {
		t.Error("other frames")
	}
}

// A GOP above MaxBatchBytes is divided.
func TestLargeGOP(t *testing.T) {
	p := appendTagMS(bytes.Clone(fileHead), media.Video, 0, avcConfig)
	for i := range 30 {
		p = appendTagMS(p, media.Video, uint32(i)*40, avcFrame(i%15 == 0, 300_000))
	}
	p = appendTagMS(p, media.Video, 1200, avcFrame(true, 8<<20))
	x, batches := readAll(t, memory(p), 0)
	if len(batches) != 7 || len(framesOf(batches)) != 31 {
		t.Errorf("%d batches, %d frames", len(batches), len(framesOf(batches)))
	}
	if got := batchesOf(t, x, memory(p), 599*time.Millisecond); got[0].DTS() != 0 {
		t.Errorf("from 599 ms: %v", got[0].DTS())
	}
}

// A batch is read into the memory that it needs, wherever its size is known, and holds no more.
func TestBatchMemory(t *testing.T) {
	p := appendTagMS(bytes.Clone(fileHead), media.Video, 0, avcConfig)
	for i := range 500 {
		p = appendTagMS(p, media.Video, uint32(i)*40, avcFrame(i%25 == 0, 10_000+i*20))
	}
	for _, complete := range []bool{true, false} { // the places of a table of the file's own are not checked
		x, err := ReadIndex(t.Context(), memory(p))
		if err != nil {
			t.Fatal(err)
		}
		x.(*index).complete = complete
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		batches := batchesOf(t, x, memory(p), 0)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(len(p))*5/4 {
			t.Errorf("complete %v: %d bytes were allocated to read a file of %d", complete, used, len(p))
		}
		for _, b := range batches {
			if slab := b.Slab(); cap(slab) > len(slab)+len(slab)/8 {
				t.Errorf("complete %v: a batch of %d bytes holds %d", complete, len(slab), cap(slab))
			}
		}
	}
}

// Enhanced heads, which this ffmpeg does not write: HEVC with B-frames and Opus.
func TestEnhancedFile(t *testing.T) {
	p := appendTagMS(bytes.Clone(fileHead), media.Video, 0, unhex("90"+hvc1+"0102"))
	p = appendTagMS(p, media.Audio, 0, unhex("90"+opus+"03"))
	for i := range 40 {
		head := "a3" + hvc1
		switch {
		case i%10 == 0:
			head = "91" + hvc1 + "000050"
		case i%2 == 0:
			head = "a1" + hvc1 + "000028"
		}
		p = appendTagMS(p, media.Video, uint32(i)*40, append(unhex(head), bytes.Repeat([]byte{1}, 300)...))
		p = appendTagMS(p, media.Audio, uint32(i)*40, unhex("91"+opus+"0405"))
	}
	x, batches := readAll(t, memory(p), 0)
	if h := batches[0].Header(); h.Video.Codec != "hevc" || h.Audio.Codec != "opus" || len(h.Audio.Config) != 6 {
		t.Errorf("header %+v", h)
	}
	if len(batches) != 4 || len(framesOf(batches)) != 80 || batches[1].Frames()[0].PTS != 480*time.Millisecond {
		t.Errorf("%d batches, %d frames", len(batches), len(framesOf(batches)))
	}
	if got := batchesOf(t, x, memory(p), 900*time.Millisecond)[0]; got.DTS() != 800*time.Millisecond || !got.Join() {
		t.Errorf("from 900 ms: %v", got.DTS())
	}
}

// The index of a file of nothing but keyframes stays small, and right.
func TestManyKeyframes(t *testing.T) {
	p := appendTagMS(bytes.Clone(fileHead), media.Video, 0, avcConfig)
	const n = maxPoints + maxPoints/4
	for i := range n {
		p = appendTagMS(p, media.Video, uint32(i), avcFrame(true, 5))
	}
	x, err := ReadIndex(t.Context(), memory(p))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(x.(*index).points); got > maxPoints || got < maxPoints/4 || x.Bytes() > 16*maxPoints+1000 {
		t.Errorf("%d points, %d bytes", got, x.Bytes())
	}
	for _, ms := range []int{1, 1000, maxPoints - 1, maxPoints + 1, n - 1} {
		b, err := x.Batches(memory(p), time.Duration(ms)*time.Millisecond)(t.Context())
		if err != nil || b.DTS() != time.Duration(ms)*time.Millisecond {
			t.Errorf("from %d ms: %v, %v", ms, b.DTS(), err)
		}
	}
}

func FuzzReadIndex(f *testing.F) {
	f.Add(sample(2, 0), uint32(0))
	f.Add(sample(1, 1<<32-500), uint32(300))
	f.Add(append(bytes.Clone(fileHead), "\x12\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00"...), uint32(1))
	f.Fuzz(func(t *testing.T, p []byte, from uint32) {
		x, err := ReadIndex(t.Context(), memory(p))
		if err != nil {
			return
		}
		next := x.Batches(memory(p), time.Duration(from)*time.Millisecond)
		bytes := 0
		for {
			b, err := next(t.Context())
			if err != nil {
				break
			}
			for i, f := range b.Frames() {
				bytes += len(f.Body)
				if f.Key && i > 0 {
					t.Fatal("a keyframe within a batch")
				}
			}
		}
		if bytes > len(p) {
			t.Fatalf("%d bytes of frames from %d bytes", bytes, len(p))
		}
		skimmed(t, x, memory(p))
	})
}
