// What the container formats (FLV, MP4) need of a file, wherever it lies.

package media

import (
	"context"
	"time"
)

// A File is random access to one version of recorded media. Calls may be made
// side by side.
type File interface {
	// ReadAt is as in io.ReaderAt, and ends when ctx does. Content that has
	// changed since the File was opened is an error that wraps ErrChanged.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// Size is the size in bytes, as it is now: a recording may be growing.
	// It is -1 when it is not known (an origin that does not tell).
	Size() int64
}

// An Index is what a container format knows of one version of a file: enough to
// start at any position without reading the file through. It is immutable and
// shared by all who have the file open.
type Index interface {
	// Span is the DTS of the first frame and the time from it to the end, 0
	// when that is not known.
	Span() (start, duration time.Duration)
	// Batches returns a function that reads the batches of f from the last join
	// point at or before from, or from the first frame when there is none: sound
	// may begin before the first keyframe. It returns io.EOF at the end and is
	// used by one goroutine.
	Batches(f File, from time.Duration) func(ctx context.Context) (*Batch, error)
	// Bytes is the memory that the index holds.
	Bytes() int
}
