package archive

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A stuck is a shelf to which nothing can be written for a while.
type stuck struct {
	*shelf
	from, to time.Time
}

func (s *stuck) Create(ctx context.Context, req media.CreateRequest) (media.Sink, error) {
	f, err := s.shelf.Create(ctx, req)
	return &stuckSink{f, s}, err
}

type stuckSink struct {
	media.Sink
	stuck *stuck
}

func (s *stuckSink) Write(ctx context.Context, b *media.Batch) error {
	if time.Now().After(s.stuck.from) {
		time.Sleep(time.Until(s.stuck.to))
	}
	return s.Sink.Write(ctx, b)
}

// A recording that was behind at the full hour begins its new file where it would have
// begun otherwise, and calls it so.
func TestT58_RotationWhileBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroadcast(), new(shelf)
		c := b.on("demo")
		start := time.Now()
		writer := &stuck{s, start.Add(50 * time.Minute), start.Add(80 * time.Minute)}
		_, _, stop := runInto(t, b, writer, nil)
		want := play(c, 0, 3*time.Hour, 500*time.Millisecond)
		stop()
		if got := s.batches(); !slices.Equal(got, want) {
			t.Errorf("%d batches in the files, want %d", len(got), len(want))
		}
		if len(s.files) != 3 {
			t.Fatalf("files: %s", s.names())
		}
		for i, f := range s.files {
			hour := time.Duration(i) * time.Hour
			if first := f.batches[0].DTS(); first < hour || first > hour+2*time.Second {
				t.Errorf("file %d begins at %v", i, first)
			}
			if name := start.Add(hour).Format("demo/2006-01-02/15-04"); f.name[:len(name)] != name {
				t.Errorf("file %d is called %s", i, f.name)
			}
		}
	})
}
