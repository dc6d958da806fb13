// MP4 files that lie.

package mp4

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// mk makes a box.
func mk(kind string, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return append(append(b, kind...), body...)
}

// words are big-endian 32 bit numbers.
func words(v ...uint32) []byte {
	var b []byte
	for _, v := range v {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// tiny is a file with one AAC track of two samples of 4 bytes; box replaces one
// of its boxes.
func tiny(replace ...[]byte) []byte {
	boxes := map[string][]byte{
		"mdat": mk("mdat", []byte("onlytest")),
		"stts": mk("stts", words(0, 1, 2, 1024)),
		"stsc": mk("stsc", words(0, 1, 1, 2, 1)),
		"stsz": mk("stsz", words(0, 0, 2, 4, 4)),
		"stco": mk("stco", words(0, 1, 16)),
		"ctts": nil, "stss": nil, "edts": nil, "mvex": nil,
		"mdhd": mk("mdhd", words(0, 0, 0, 48000, 0, 0)),
		"stsd": mk("stsd", words(0, 1), mk("mp4a", words(0, 1, 0, 0, 2<<16|16, 0, 48000<<16),
			mk("esds", words(0), []byte{3, 22, 0, 1, 0, 4, 17, 0x40, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 2, 0x11, 0x90}))),
	}
	for _, b := range replace {
		boxes[string(b[4:8])] = b
	}
	stbl := mk("stbl", boxes["stsd"], boxes["stts"], boxes["stsc"], boxes["stsz"], boxes["stco"], boxes["ctts"], boxes["stss"])
	return bytes.Join([][]byte{
		mk("free"),
		boxes["mdat"],
		mk("moov",
			mk("mvhd", words(0, 0, 0, 1000, 0)),
			boxes["mvex"],
			mk("trak",
				mk("tkhd", words(0, 0, 0, 1, 0)),
				boxes["edts"],
				mk("mdia", boxes["mdhd"], mk("hdlr", words(0, 0), []byte("soun")), mk("minf", stbl)))),
	}, nil)
}

func TestTiny(t *testing.T) {
	f := newMemory(tiny())
	index, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	batches := play(t, index, f, 0)
	if len(batches) != 1 || len(batches[0].Frames()) != 2 || string(batches[0].Frames()[1].Body) != "\xaf\x01test" {
		t.Fatalf("%d batches", len(batches))
	}
}

// refused checks that reading a file fails with a text, soon and without much memory.
func refused(t *testing.T, file []byte, text string) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := ReadIndex(t.Context(), newMemory(file))
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one with %q", err, text)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > uint64(4*len(file)+1<<20) {
		t.Errorf("%d bytes were allocated for a file of %d", n, len(file))
	}
}

func TestT22_Boxes(t *testing.T) {
	sized := func(size uint32, kind string, rest ...uint32) []byte {
		return append(append(words(size), kind...), words(rest...)...)
	}
	deep := func(kinds ...string) []byte {
		var b []byte
		for i := range 10_000 {
			b = mk(kinds[i%len(kinds)], b)
		}
		return b
	}
	for _, test := range []struct {
		name string
		file []byte
		text string
	}{
		{"size 0", append(sized(0, "free"), tiny()...), `"free" at byte 0 says that it has 0 bytes`},
		{"size 0 within", mk("moov", sized(0, "trak", 1, 2)), `"trak" says that it has 0 bytes`},
		{"size 1 without the rest", sized(1, "moov"), "unexpected EOF"},
		{"long size 0", sized(1, "moov", 0, 0), "says that it has 0 bytes"},
		{"long size negative", sized(1, "moov", 1<<31, 0), "says that it has -"},
		{"long size beyond", sized(1, "mdat", 1<<30, 0), "is not whole"},
		{"long size within", mk("moov", sized(1, "trak", 1<<31, 0)), `"trak" says`},
		{"size 7", sized(7, "moov", 0), "says that it has 7 bytes"},
		{"beyond the file", append(tiny(), sized(100, "free")...), "has 100 bytes, but the file only"},
		{"beyond its parent", mk("moov", sized(100, "trak", 0)), "its place has 12"},
		{"deep in moov", deep("moov"), "no track can be played"},
		{"deep in trak", mk("moov", deep("trak")), "no track can be played"},
		{"deep in known ones", deep("minf", "mdia", "trak", "moov"), "no"},
		{"random", []byte("\x00\x00\x00\x20ftypisom and then nothing at all"), "no moov"},
		{"empty", nil, "no moov"},
	} {
		t.Run(test.name, func(t *testing.T) { refused(t, test.file, test.text) })
	}
	t.Run("a huge moov", func(t *testing.T) {
		f := &sparse{head: sized(1, "moov", 1, 0), size: 1 << 33}
		if _, err := ReadIndex(t.Context(), f); err == nil || !strings.Contains(err.Error(), "at most") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("millions of boxes", func(t *testing.T) {
		refused(t, bytes.Repeat(mk("free"), maxBoxes+1), "more than")
	})
}

// sparse is a file of zeros behind its head.
type sparse struct {
	head []byte
	size int64
}

func (s *sparse) Size() int64 { return s.size }
func (s *sparse) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	if off+int64(len(p)) > s.size {
		return int(s.size - off), io.EOF
	}
	return len(p), nil
}

func TestT23_Counts(t *testing.T) {
	const many = 1<<32 - 1
	for _, test := range []struct {
		name string
		box  []byte
		text string
	}{
		{"stts", mk("stts", words(0, many, 2, 1024)), "stts: it says that it has 4294967295 entries, but has room for 1"},
		{"ctts", mk("ctts", words(0, many)), "ctts: it says"},
		{"stss", mk("stss", words(0, many)), "stss: it says"},
		{"stsc", mk("stsc", words(0, many, 1, 2, 1)), "stsc: it says"},
		{"stco", mk("stco", words(0, many, 16)), "stco: it says"},
		{"co64", mk("stco", words(0, many)), "it says"},
		{"stsz", mk("stsz", words(0, 0, many, 4)), "stsz: it says"},
		{"stsz of one size", mk("stsz", words(0, 4, many)), "more than the file holds"},
		{"stsz of one size, in reach", mk("stsz", words(0, 1, maxSamples)), "more than the file holds"},
		{"elst", mk("edts", mk("elst", words(0, many, 1))), "elst: it says"},
		{"too few times", mk("stts", words(0, 1, 1, 1024)), "stts has the times of 1"},
		{"a run of no time", mk("stts", words(0, 2, 0, 0, 1, 5)), "stts has the times of 1"},
		{"too few in chunks", mk("stsc", words(0, 1, 1, 1, 1)), "the chunks hold 1"},
		{"chunk 0", mk("stsc", words(0, 1, 0, 2, 1)), "run 1"},
		{"chunks back", mk("stsc", words(0, 2, 1, 2, 1, 0, 2, 1)), "run 1"},
		{"chunks beyond", mk("stsc", words(0, 2, 1, 2, 1, 9, 2, 1)), "run 1"},
		{"another description", mk("stsc", words(0, 1, 1, 2, 2)), "codec configuration changes"},
		{"samples beyond the file", mk("stco", words(0, 1, 1<<30)), "ends behind the end of the file"},
		{"no timescale", mk("mdhd", words(0, 0, 0, 0, 0, 0)), "timescale"},
		{"times beyond reason", mk("stts", words(0, 2, 1, many, 1, many)), ""},
		{"no entry", mk("stsd", words(0, 0)), "no entry"},
		{"empty entry", mk("stsd", words(0, 1), mk("mp4a")), "esds"},
		{"no samples", mk("stsz", words(0, 0, 0)), "no samples"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.text != "" {
				refused(t, tiny(test.box), test.text)
				return
			}
			if _, err := ReadIndex(t.Context(), newMemory(tiny(test.box))); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestT24_Moov(t *testing.T) {
	b, err := film()
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("moov")) - 4
	for _, test := range []struct {
		name string
		file []byte
		text string
	}{
		{"missing", b[:at], "no moov"},
		{"twice", append(bytes.Clone(b), b[at:]...), "a second moov"},
		{"cut", b[:len(b)-1], "is not whole"},
		{"fragment first", append(mk("moof"), b...), "before the moov"},
	} {
		t.Run(test.name, func(t *testing.T) { refused(t, test.file, test.text) })
	}
}

// A fragmented recording that is cut plays its whole fragments, and whole frames of
// the last one.
func TestCutFragments(t *testing.T) {
	b, err := film()
	if err == nil {
		b, err = output(b, []string{"-i", "in.mp4", "-c", "copy", "-movflags", "frag_keyframe+empty_moov"}, "mp4")
	}
	if err != nil {
		t.Fatal(err)
	}
	whole, err := ReadIndex(t.Context(), newMemory(b))
	if err != nil {
		t.Fatal(err)
	}
	want := packets(play(t, whole, newMemory(b), 0), true)
	second := bytes.LastIndex(b[:bytes.LastIndex(b, []byte("moof"))], []byte("moof"))
	for size := second; size < len(b); size += 1009 {
		f := newMemory(b[:size])
		index, err := ReadIndex(t.Context(), f)
		if err != nil {
			t.Fatalf("at byte %d: %v", size, err)
		}
		got := packets(play(t, index, f, 0), true)
		if len(got) < 50 {
			t.Fatalf("at byte %d: %d frames", size, len(got))
		}
		compare(t, got, want[:len(got)])
	}
}

// fragment has two more samples for tiny, which lie in itself.
var fragment = mk("moof", mk("traf",
	mk("tfhd", words(0x20000, 1)), mk("tfdt", words(0, 2048)), mk("trun", words(0x1, 2, 16))))

func TestTinyFragment(t *testing.T) {
	f := newMemory(append(tiny(mk("mvex", mk("trex", words(0, 1, 1, 1024, 4, 0)))), fragment...))
	index, err := ReadIndex(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	frames := play(t, index, f, 0)[0].Frames()
	if len(frames) != 4 || string(frames[3].Body) != "\xaf\x01tfhd" || frames[3].DTS != 64*time.Millisecond {
		t.Fatalf("%d frames", len(frames))
	}
}

func FuzzReadIndex(f *testing.F) {
	f.Add(tiny())
	f.Add(tiny(mk("ctts", words(0, 1, 2, 1<<31))))
	f.Add(tiny(mk("edts", mk("elst", words(0, 2, 1000, 1<<32-1, 0, 1000, 1024, 1<<16)))))
	f.Add(append(tiny(mk("mvex", mk("trex", words(0, 1, 1, 1024, 4, 0)))), fragment...))
	for _, args := range [][]string{nil, {"-movflags", "frag_keyframe+empty_moov"}} {
		small, err := encode(slices.Concat([]string{"-t", "0.2", "-s", "32x32", "-c:v", "libx264", "-c:a", "aac"}, args)...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(small)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		file := newMemory(p)
		index, err := ReadIndex(t.Context(), file)
		if err != nil {
			return
		}
		next := index.Batches(file, 0)
		var last *media.Batch
		for {
			b, err := next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("what the index says is not there: %v", err)
			}
			if last != nil && b.DTS() < last.DTS() {
				t.Fatalf("time runs back from %v to %v", last.DTS(), b.DTS())
			}
			last = b
		}
		if last == nil {
			t.Fatal("there are no batches")
		}
	})
}
