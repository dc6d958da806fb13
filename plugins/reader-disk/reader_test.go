// Files are found, kept inside the root, and one version of them is played.

package readerdisk

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// film makes a film with a keyframe a second once, and returns it as flv or mp4.
var film = sync.OnceValue(func() map[string][]byte {
	dir, err := os.MkdirTemp("", "film")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	files := map[string][]byte{}
	for _, format := range []string{"flv", "mp4"} {
		path := filepath.Join(dir, "film."+format)
		out, err := exec.Command("ffmpeg", "-v", "error",
			"-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=8,noise=alls=30:allf=t", "-f", "lavfi", "-i", "sine=d=8",
			"-c:v", "libx264", "-preset", "ultrafast", "-b:v", "4M", "-g", "25", "-bf", "2", "-c:a", "aac", path).CombinedOutput()
		if err != nil {
			panic(string(out))
		}
		if files[format], err = os.ReadFile(path); err != nil {
			panic(err)
		}
	}
	return files
})

// newTestReader returns a reader of a folder, and the lines of its log.
func newTestReader(t *testing.T, root string) (*reader, *strings.Builder) {
	t.Helper()
	log := &strings.Builder{}
	settings, err := Kind().Decode(map[string]any{"root": root})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Kind().New(stage.Env{
		Name:    "test/reader-disk",
		Log:     hclog.New(&hclog.LoggerOptions{Output: log}),
		Metrics: prometheus.NewRegistry(),
	}, settings)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*reader), log
}

func write(t *testing.T, path string, p []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// drain reads a source to its end.
func drain(t *testing.T, s media.Source) (frames int, last time.Duration) {
	t.Helper()
	for {
		b, err := s.Next(t.Context())
		if err == io.EOF {
			return frames, last
		}
		if err != nil {
			t.Fatal(err)
		}
		frames += len(b.Frames())
		last = b.DTS()
	}
}

func TestOpen(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "one.flv"), film()["flv"])
	write(t, filepath.Join(root, "two.mp4"), film()["mp4"])
	write(t, filepath.Join(root, "deep/both.flv"), film()["flv"])
	write(t, filepath.Join(root, "deep/both.mp4"), film()["mp4"])
	write(t, filepath.Join(root, "bare"), film()["flv"])
	write(t, filepath.Join(root, "folder.flv/x.mp4"), film()["mp4"])
	write(t, filepath.Join(root, "folder.mp4"), film()["mp4"])
	write(t, filepath.Join(root, "text.txt"), []byte("no media at all"))
	write(t, filepath.Join(root, "empty.flv"), nil)
	if err := syscall.Mkfifo(filepath.Join(root, "pipe.flv"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ := newTestReader(t, root)
	for _, test := range []struct {
		name string
		size int   // of the file that is found
		err  error // nil and size 0: an error of the format
	}{
		{"one", len(film()["flv"]), nil},
		{"one.flv", len(film()["flv"]), nil},
		{"two", len(film()["mp4"]), nil},
		{"deep/both", len(film()["flv"]), nil},
		{"bare", len(film()["flv"]), nil},
		{"folder.flv/x", len(film()["mp4"]), nil},
		{"folder", len(film()["mp4"]), nil}, // folder.flv is none
		{"one.mp4", 0, media.ErrNotFound},
		{"deep", 0, media.ErrNotFound},
		{"pipe", 0, media.ErrNotFound},
		{"one.flv/more", 0, media.ErrNotFound},
		{strings.Repeat("long", 100), 0, media.ErrNotFound},
		{"text.txt", 0, nil},
		{"empty.flv", 0, nil},
	} {
		s, err := r.Open(t.Context(), media.OpenRequest{Name: test.name})
		if test.size == 0 {
			if err == nil || test.err != nil && !errors.Is(err, test.err) {
				t.Errorf("%s: error %v, want %v", test.name, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		info := s.Info()
		if frames, _ := drain(t, s); frames < 500 {
			t.Errorf("%s: %d frames", test.name, frames)
		}
		if info.Name != test.name || info.Size != int64(test.size) || info.Version == "" || info.Live ||
			info.Duration < 7*time.Second || info.Duration > 9*time.Second {
			t.Errorf("%s: info %+v", test.name, info)
		}
		cost, err := r.Cost(t.Context(), media.OpenRequest{Name: test.name})
		if err != nil || cost.Total() != media.CostDisk {
			t.Errorf("%s: cost %+v, %v", test.name, cost, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.Cost(t.Context(), media.OpenRequest{Name: "none"}); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("cost of what is not there: %v", err)
	}
	if _, err := r.Open(t.Context(), media.OpenRequest{Name: "one", LiveOnly: true}); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("live only: %v", err)
	}
	if n := testutil.ToFloat64(r.errors.WithLabelValues("not found")); n != 6 {
		t.Errorf("%v times not found", n)
	}
}

func TestT25_NamesStayInRoot(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write(t, filepath.Join(dir, "secret.flv"), film()["flv"])
	write(t, filepath.Join(root, "in.flv"), film()["flv"])
	for link, to := range map[string]string{
		"out.flv": "../secret.flv", "absolute.flv": filepath.Join(dir, "secret.flv"), "up": "..",
		"inside.flv": "in.flv", "loop.flv": "loop.flv",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	r, _ := newTestReader(t, root)
	for _, name := range []string{
		"out", "out.flv", "absolute", "up/secret", "up/secret.flv", "../secret", "../secret.flv", "in/../../secret",
		filepath.Join(dir, "secret"), filepath.Join(dir, "secret.flv"), "loop",
	} {
		if s, err := r.Open(t.Context(), media.OpenRequest{Name: name}); !errors.Is(err, media.ErrDenied) && !errors.Is(err, media.ErrNotFound) {
			t.Errorf("%s: source %v, error %v", name, s, err)
		}
	}
	s, err := r.Open(t.Context(), media.OpenRequest{Name: "inside"})
	if err != nil {
		t.Fatalf("a link that stays inside: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestT26_FileChanges(t *testing.T) {
	for _, format := range []string{"flv", "mp4"} {
		whole := film()[format]
		other := append([]byte(nil), whole...)
		for i := len(other) / 2; i < len(other); i++ {
			other[i] ^= 0x55
		}
		for _, test := range []struct {
			name   string
			change func(path string) error
			ends   bool // the play ends early
		}{
			{"shrinks", func(p string) error { return os.Truncate(p, int64(len(whole)/2)) }, true},
			{"is emptied", func(p string) error { return os.Truncate(p, 0) }, true},
			{"is written over", func(p string) error { return os.WriteFile(p, other, 0o600) }, true},
			{"is written over, larger", func(p string) error { return os.WriteFile(p, append(other, other...), 0o600) }, true},
			{"is replaced", func(p string) error {
				return errors.Join(os.WriteFile(p+".new", other, 0o600), os.Rename(p+".new", p))
			}, false},
			{"is removed", os.Remove, false},
		} {
			t.Run(format+" "+test.name, func(t *testing.T) {
				root := t.TempDir()
				path := filepath.Join(root, "film."+format)
				write(t, path, whole)
				old := time.Now().Add(-time.Hour)
				if err := os.Chtimes(path, old, old); err != nil {
					t.Fatal(err)
				}
				r, log := newTestReader(t, root)
				s, err := r.Open(t.Context(), media.OpenRequest{Name: "film"})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				b, err := s.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := test.change(path); err != nil {
					t.Fatal(err)
				}
				_, last := drain(t, s)
				last = max(last, b.DTS())
				if ends := last < 6*time.Second; ends != test.ends {
					t.Errorf("the last batch is at %v", last)
				}
				if test.ends && (strings.Count(log.String(), "\n") != 1 || testutil.ToFloat64(r.errors.WithLabelValues("changed")) != 1) {
					t.Errorf("log: %s", log)
				}
			})
		}
	}
}

// A recording that grows while it is played is played to its end as it is then,
// also when what stands before is completed at last.
func TestGrowingRecording(t *testing.T) {
	whole := film()["flv"]
	root := t.TempDir()
	path := filepath.Join(root, "film.flv")
	write(t, path, whole[:len(whole)/2])
	r, _ := newTestReader(t, root)
	s, err := r.Open(t.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(whole[len(whole)/2:], int64(len(whole)/2)); err != nil {
		t.Fatal(err)
	}
	first := len(b.Frames())
	if b, err = s.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(whole[:1], 0); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	frames, _ := drain(t, s)
	if frames += first + len(b.Frames()); frames < 540 {
		t.Errorf("%d frames", frames)
	}
}

func TestT34_OneIndexForAll(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "film.mp4"), film()["mp4"])
	r, _ := newTestReader(t, root)
	one, err := r.Open(t.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		t.Fatal(err)
	}
	index := testutil.ToFloat64(r.read)
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	r, _ = newTestReader(t, root)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			s, err := r.Open(t.Context(), media.OpenRequest{Name: "film"})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := testutil.ToFloat64(r.read); got != index {
		t.Errorf("100 viewers read %v bytes for the index, one reads %v", got, index)
	}
}

func TestSeek(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "film.mp4"), film()["mp4"])
	write(t, filepath.Join(root, "film.flv"), film()["flv"])
	r, _ := newTestReader(t, root)
	for _, name := range []string{"film.flv", "film.mp4"} {
		for from := range 7 {
			from := time.Duration(from)*time.Second + 700*time.Millisecond
			s, err := r.Open(t.Context(), media.OpenRequest{Name: name, From: from})
			if err != nil {
				t.Fatal(err)
			}
			b, err := s.Next(t.Context())
			if err != nil || !b.Join() || b.DTS() > from || b.DTS() <= from-time.Second {
				t.Errorf("%s from %v: batch at %v, %v", name, from, b.DTS(), err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestClose(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "film.mp4"), film()["mp4"])
	r, _ := newTestReader(t, root)
	s, err := r.Open(t.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for err == nil {
		_, err = s.Next(t.Context())
	}
	if err != media.ErrClosed && err != io.EOF {
		t.Errorf("error %v", err)
	}
	all.Wait()
	if _, err := s.Next(t.Context()); err != media.ErrClosed && err != io.EOF {
		t.Errorf("error %v", err)
	}
}

func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	for root, want := range map[string]string{
		"/no/such/folder": "there is no folder", file: "is no folder",
	} {
		_, err := newReader(stage.Env{}, Settings{Root: root})
		var wrong *stage.SettingError
		if !errors.As(err, &wrong) || wrong.Setting != "root" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", root, err)
		}
	}
}

func BenchmarkBatches(b *testing.B) {
	root := b.TempDir()
	big := filepath.Join(root, "film.flv")
	out, err := exec.Command("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=1280x720:r=25:d=60", "-f", "lavfi", "-i", "sine=d=60",
		"-c:v", "libx264", "-preset", "ultrafast", "-b:v", "4M", "-g", "50", "-c:a", "aac", big,
		"-c:v", "libx264", "-preset", "ultrafast", "-b:v", "4M", "-g", "50", "-c:a", "aac", filepath.Join(root, "film.mp4")).CombinedOutput()
	if err != nil {
		b.Fatal(string(out))
	}
	for _, name := range []string{"film.flv", "film.mp4"} {
		b.Run(name, func(b *testing.B) {
			r, err := newReader(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, Settings{Root: root, Index: 64 << 20})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				s, err := r.Open(context.Background(), media.OpenRequest{Name: name})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(s.Info().Size)
				for err == nil {
					_, err = s.Next(context.Background())
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
