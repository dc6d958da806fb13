package mp4

import (
	"errors"
	"io"
	"testing"
)

// BenchmarkRead reads all batches of a file in memory.
func BenchmarkRead(b *testing.B) {
	p, err := film()
	if err != nil {
		b.Fatal(err)
	}
	file := newMemory(p)
	x, err := ReadIndex(b.Context(), file)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		next := x.Batches(file, 0)
		for {
			_, err := next(b.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
