package flv

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// programs seeds a fuzz target with bytes that stand for what is to be done.
func programs(f *testing.F, n int) {
	for seed := range byte(20) {
		program := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(program)
		f.Add(program)
	}
}

// batchesBy makes of four bytes each a frame: with a time that goes on, or if jumps are
// wanted anywhere, under a header that changes now and then.
func batchesBy(program []byte, jumps bool) (batches []*media.Batch) {
	h := &media.Header{Video: media.Format{Codec: "h264", Config: avcConfig}, Audio: media.Format{Codec: "aac", Config: aacConfig}}
	b := media.NewBuilder(media.NoClock)
	var now time.Duration
	end := func() {
		if batch := b.Batch(h); batch != nil {
			batches = append(batches, batch)
		}
	}
	for ; len(program) >= 4; program = program[4:] {
		op, step, size := program[0], time.Duration(program[1])*time.Millisecond, 10+int(program[2])
		now += step
		f := media.Frame{Track: media.Audio, Body: aacFrame(size)}
		switch {
		case op < 16 && jumps:
			now += time.Duration(int8(program[3])) * time.Minute
		case op < 24 && jumps:
			end()
			config := append(bytes.Clone(avcConfig), program[3])
			h = &media.Header{Video: media.Format{Codec: "h264", Config: config}, Audio: h.Audio}
			f = media.Frame{Track: media.Video, Key: true, Body: avcFrame(true, size)}
		case op < 48:
			f = media.Frame{Track: media.Video, Key: true, Body: avcFrame(true, size)}
		case op < 150:
			f = media.Frame{Track: media.Video, Body: avcFrame(false, size)}
		}
		if f.Key || op%4 == 0 {
			end()
		}
		f.DTS, f.PTS = now, now
		b.Copy(f)
	}
	end()
	return batches
}

// Any frames that go on in time are read as they were written.
func FuzzWriterReader(f *testing.F) {
	programs(f, 200)
	f.Fuzz(func(t *testing.T, program []byte) {
		batches := batchesBy(program, false)
		if len(batches) == 0 {
			return
		}
		var file bytes.Buffer
		w := NewWriter(&file, 0)
		for _, b := range batches {
			if err := w.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		_, got := readAll(t, memory(file.Bytes()), 0)
		if !sameFrames(framesOf(got), framesOf(batches)) {
			t.Fatalf("%d frames are read, %d were written", len(framesOf(got)), len(framesOf(batches)))
		}
		for _, b := range got {
			if h, want := b.Header(), batches[0].Header(); !bytes.Equal(h.Video.Config, want.Video.Config) || !bytes.Equal(h.Audio.Config, want.Audio.Config) {
				t.Fatal("another configuration")
			}
		}
	})
}

// Whatever is recorded, with codecs that change and times that jump: a file that is cut at
// any byte is repaired to what was whole by then, with the same times and the same headers
// as in the whole file; and a repaired file is left as it is by another repair.
func FuzzRepairCut(f *testing.F) {
	programs(f, 200)
	f.Fuzz(func(t *testing.T, program []byte) {
		batches := batchesBy(program, true)
		if len(batches) == 0 {
			return
		}
		d := new(disk)
		r, err := NewRecording(d, batches[0].Header())
		if err != nil {
			t.Fatal(err)
		}
		head := len(d.memory)
		var ends []int // of each batch
		for _, b := range batches {
			if err := r.Write(b); err != nil {
				t.Fatal(err)
			}
			ends = append(ends, len(d.memory))
		}
		open := bytes.Clone(d.memory)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		whole := recordedFrames(t, d.memory)
		if len(whole) != len(framesOf(batches)) {
			t.Fatalf("%d frames are recorded of %d", len(whole), len(framesOf(batches)))
		}
		rng := rand.New(rand.NewPCG(uint64(len(program)), uint64(program[0])))
		for range 10 {
			n := head + rng.IntN(len(open)-head+1)
			d := &disk{memory: bytes.Clone(open[:n])}
			result, err := Repair(t.Context(), d, int64(n))
			if err != nil {
				t.Fatalf("cut at %d: %v", n, err)
			}
			least := 0
			for i, end := range ends {
				if end <= n {
					least += len(batches[i].Frames())
				}
			}
			got := recordedFrames(t, d.memory)
			if len(got) < least || !sameFrames(got, whole[:len(got)]) {
				t.Fatalf("cut at %d of %d: %d frames, %d were whole, or others", n, len(open), len(got), least)
			}
			if result.Empty != (len(got) == 0) {
				t.Fatalf("cut at %d: %+v, but %d frames", n, result, len(got))
			}
			again := &disk{memory: bytes.Clone(d.memory)}
			if _, err := Repair(t.Context(), again, again.Size()); err != nil || !result.Empty && !bytes.Equal(again.memory, d.memory) {
				t.Fatalf("a second repair changes the file, or fails: %v", err)
			}
		}
	})
}

// recordedFrames are the frames of a recording.
func recordedFrames(t *testing.T, p memory) []media.Frame {
	t.Helper()
	_, batches := readAll(t, p, 0)
	return framesOf(batches)
}
