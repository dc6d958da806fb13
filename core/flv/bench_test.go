package flv

import (
	"errors"
	"io"
	"testing"
)

// BenchmarkRead reads all batches of a file in memory.
func BenchmarkRead(b *testing.B) {
	file := memory(sample(20, 0))
	x, err := ReadIndex(b.Context(), file)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(file)))
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
