// The formats are told apart; indexes are read once; sources end once.

package container

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mediad/mediad/core/media"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// text is a file in memory.
type text string

func (s text) Size() int64  { return int64(len(s)) }
func (s text) Close() error { return nil }
func (s text) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return strings.NewReader(string(s)).ReadAt(p, off)
}

func TestOpenTellsFormats(t *testing.T) {
	for _, test := range []struct{ file, want string }{
		{"FLV\x09", "FLV: "},
		{"\x00\x00\x00\x08ftyp", "MP4: "},
		{"\x00\x00\x00\x08moov", "MP4: "},
		{"RIFF1234WAVE", `"RIFF1234WAVE", which is none of the formats that can be played: ["FLV" "MP4"]`},
		{"", "is empty"},
		{"F", `"F"`},
	} {
		_, err := Open(t.Context(), text(test.file))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: error %v, want one with %q", test.file, err, test.want)
		}
	}
}

// sized is an index of a size, whose batches are errors.
type sized struct {
	bytes int
	errs  []error
}

func (s *sized) Span() (start, duration time.Duration) { return time.Second, time.Minute }
func (s *sized) Bytes() int                            { return s.bytes }
func (s *sized) Batches(media.File, time.Duration) func(context.Context) (*media.Batch, error) {
	return func(ctx context.Context) (*media.Batch, error) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, err
	}
}

func TestIndexesBound(t *testing.T) {
	x := NewIndexes(100)
	loads := 0
	get := func(name, version string, bytes int) {
		t.Helper()
		if _, err := x.Get(t.Context(), name, version, func() (media.Index, error) {
			loads++
			return &sized{bytes: bytes}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name, version string
		bytes, loads  int // loads so far
	}{
		{"a", "1", 40, 1}, {"b", "1", 40, 2}, {"a", "1", 40, 2},
		{"c", "1", 40, 3},                    // b goes
		{"a", "1", 40, 3}, {"b", "1", 40, 4}, // c goes
		{"a", "2", 40, 5}, {"a", "2", 40, 5}, {"a", "1", 40, 6}, // one version of each
		{"big", "1", 101, 7}, {"big", "1", 101, 8}, // never kept
		{"no version", "", 1, 9}, {"no version", "", 1, 10},
	} {
		get(step.name, step.version, step.bytes)
		if loads != step.loads {
			t.Fatalf("after %+v there were %d loads", step, loads)
		}
		if x.bytes > x.max {
			t.Fatalf("after %+v there are %d bytes", step, x.bytes)
		}
	}
}

// One loads for all. When its context ends another does.
func TestIndexesSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := NewIndexes(100)
		first, leave := context.WithCancel(t.Context())
		loads := 0
		go func() {
			_, err := x.Get(first, "a", "1", func() (media.Index, error) {
				loads++
				<-first.Done()
				return nil, first.Err()
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the first had error %v", err)
			}
		}()
		synctest.Wait()
		want := &sized{bytes: 1}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				got, err := x.Get(t.Context(), "a", "1", func() (media.Index, error) {
					loads++
					time.Sleep(time.Second)
					return want, nil
				})
				if got != want || err != nil {
					t.Errorf("%v, %v", got, err)
				}
			})
		}
		synctest.Wait()
		leave()
		all.Wait()
		if loads != 2 {
			t.Errorf("%d loads", loads)
		}
	})
}

// A failure is told to those who wait, and not kept.
func TestIndexesFailure(t *testing.T) {
	x := NewIndexes(100)
	broken := errors.New("broken")
	loads := 0
	for range 2 {
		_, err := x.Get(t.Context(), "a", "1", func() (media.Index, error) { loads++; return nil, broken })
		if err != broken {
			t.Fatal(err)
		}
	}
	if loads != 2 || len(x.names) != 0 {
		t.Errorf("%d loads, %d names", loads, len(x.names))
	}
}

func TestSource(t *testing.T) {
	broken, told := errors.New("broken"), 0
	failed := func(error) error { told++; return io.EOF }
	s := NewSource(media.Info{Name: "n"}, text(""), &sized{errs: []error{broken}}, 0, failed)
	if i := s.Info(); i.Name != "n" || i.Start != time.Second || i.Duration != time.Minute {
		t.Errorf("info %+v", i)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ended); err != context.Canceled {
		t.Errorf("error %v", err)
	}
	for range 2 {
		if _, err := s.Next(t.Context()); err != io.EOF || told != 1 {
			t.Errorf("error %v, told %d times", err, told)
		}
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Next(t.Context()); err != media.ErrClosed {
		t.Errorf("error %v", err)
	}
}
