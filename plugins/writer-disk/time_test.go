package writerdisk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/archive"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// A day of a channel in files of an hour, of which the last ones are kept: by size or by
// age, what is kept is the end of the day, each frame once.
func TestADayOfRecording(t *testing.T) {
	for _, keep := range []Keep{{Size: 5 << 20}, {Age: 5 * time.Hour}} {
		t.Run(keep.String(), func(t *testing.T) {
			root := memoryFolder(t)
			synctest.Test(t, func(t *testing.T) { recordADay(t, root, keep) })
			files := strings.Fields(tree(t, root))
			files = slices.DeleteFunc(files, func(name string) bool { return filepath.Ext(name) != ".flv" })
			if len(files) < 4 || len(files) > 7 {
				t.Fatalf("kept: %v", files)
			}
			next := -1
			for _, name := range files {
				batches, err := read(root, name)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range frames(batches) {
					var n int
					if _, err := fmt.Sscanf(string(f.Body[5:13]), "%d", &n); err != nil {
						t.Fatal(err)
					}
					if next >= 0 && n != next {
						t.Fatalf("%s: frame %d follows frame %d", name, n, next-1)
					}
					next = n + 1
				}
			}
			if next != day {
				t.Errorf("it ends with frame %d of %d", next-1, day)
			}
		})
	}
}

const (
	step = 2 * time.Second // from one keyframe to the next
	day  = int(24 * time.Hour / step)
)

// memoryFolder is one where an fsync takes no time.
func memoryFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "mediad-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A dated writer gives finished files the time of the test's clock, by which they grow old.
type dated struct{ *Writer }

func (d dated) Create(ctx context.Context, req media.CreateRequest) (media.Sink, error) {
	s, err := d.Writer.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	return datedSink{s.(*sink)}, nil
}

type datedSink struct{ *sink }

func (s datedSink) Write(ctx context.Context, b *media.Batch) error {
	if err := s.sink.Write(ctx, b); err != nil {
		return err
	}
	return os.Chtimes(filepath.Join(s.writer.settings.Root, s.path), time.Now(), time.Now())
}

func (s datedSink) Close(ctx context.Context) error {
	defer func() { _ = os.Chtimes(filepath.Join(s.writer.settings.Root, s.path), time.Now(), time.Now()) }()
	return s.sink.Close(ctx)
}

func recordADay(t *testing.T, root string, keep Keep) {
	env := stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Drain: 10 * time.Second}
	live, err := broadcast.Kind().New(env, broadcast.Kind().Settings())
	if err != nil {
		t.Fatal(err)
	}
	w := New(env, Settings{Root: root, Sync: time.Minute, Keep: keep})
	env.Inputs = []stage.Input{{Name: "live/broadcast", Reader: live.(media.Reader)}}
	env.Output = dated{w}
	a, err := archive.New(env, archive.Settings{Rotate: time.Hour, Path: "{channel}/{2006-01-02}/{15-04-05}"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	for _, s := range []stage.Stage{live, a, w} {
		serving.Go(func() {
			if err := s.Serve(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	sink, err := live.(media.Writer).Create(ctx, media.CreateRequest{Name: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	h := &media.Header{Video: media.Format{Codec: "h264", Config: []byte{0x17, 0, 0, 0, 0, 1, 2, 3}}}
	for n := range day {
		at := time.Duration(n) * step
		body := fmt.Appendf([]byte{0x17, 1, 0, 0, 0}, "%08d%500s", n, "")
		b := media.NewBatch(h, media.NoClock, media.Frame{Track: media.Video, Key: true, DTS: at, PTS: at, Body: body})
		if err := sink.Write(ctx, b); err != nil {
			t.Fatal(err)
		}
		time.Sleep(step)
	}
	if err := sink.Close(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	serving.Wait()
}
