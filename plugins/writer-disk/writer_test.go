// The writer on real folders: names, repair, what is kept, and disks that fail.

package writerdisk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if root := os.Getenv("WRITERDISK_RECORD"); root != "" {
		recordForEver(root)
	}
	goleak.VerifyTestMain(m)
}

// open makes a writer and ends it with the test. It is not served.
func open(t *testing.T, root string, keep Keep) *Writer {
	t.Helper()
	w := New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Drain: 2 * time.Second},
		Settings{Root: root, Sync: 10 * time.Millisecond, Keep: keep})
	if _, err := w.folder(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// record writes batches under a name.
func record(t *testing.T, w *Writer, req media.CreateRequest, batches ...*media.Batch) {
	t.Helper()
	s, err := w.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// file is a File on a disk.
type file struct{ *os.File }

func (f file) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return f.File.ReadAt(p, off)
}
func (f file) Size() int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// read returns the batches of a recording.
func read(root, name string) ([]*media.Batch, error) {
	f, err := os.Open(filepath.Join(root, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	x, err := flv.ReadIndex(context.Background(), file{f})
	if err != nil {
		return nil, err
	}
	next := x.Batches(file{f}, 0)
	var batches []*media.Batch
	for {
		b, err := next(context.Background())
		if err == io.EOF {
			return batches, nil
		}
		if err != nil {
			return nil, err
		}
		batches = append(batches, b)
	}
}

func frames(batches []*media.Batch) []media.Frame {
	var all []media.Frame
	for _, b := range batches {
		all = append(all, b.Frames()...)
	}
	return all
}

func count(t *testing.T, root, name string) int {
	t.Helper()
	batches, err := read(root, name)
	if err != nil {
		t.Fatal(err)
	}
	return len(frames(batches))
}

// tree is the files and folders below root.
func tree(t *testing.T, root string) string {
	t.Helper()
	var names []string
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, _ fs.DirEntry, err error) error {
		if name != "." {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// back reads what is below a folder.
type back string

func (b back) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	f, err := os.Open(filepath.Join(string(b), req.Name+".flv"))
	if err != nil {
		return nil, err
	}
	x, err := flv.ReadIndex(context.Background(), file{f})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return source{f, x.Batches(file{f}, req.From)}, nil
}

type source struct {
	file *os.File
	next func(context.Context) (*media.Batch, error)
}

func (s source) Info() media.Info                               { return media.Info{} }
func (s source) Next(ctx context.Context) (*media.Batch, error) { return s.next(ctx) }
func (s source) Close() error                                   { return s.file.Close() }

func TestConformance(t *testing.T) {
	root := t.TempDir()
	w := open(t, root, Keep{})
	stagetest.TestWriter(t, stagetest.Writer{Writer: w, Name: "a/b", Back: back(root)})
}

func TestNames(t *testing.T) {
	root := t.TempDir()
	w := open(t, root, Keep{})
	film := stagetest.Film(2, 100)
	for _, name := range []string{"a", "a.flv", "a", "d/e/f", "with.dot"} {
		record(t, w, media.CreateRequest{Name: name}, film...)
	}
	record(t, w, media.CreateRequest{Name: "empty/x"})
	if got := tree(t, root); got != "a-2.flv a-3.flv a.flv d d/e d/e/f.flv empty with.dot.flv" {
		t.Errorf("files: %s", got)
	}
	if n := testutil.ToFloat64(w.metrics.files); n != 6 {
		t.Errorf("%v files counted", n)
	}
}

func TestT25_OutOfRoot(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	w := open(t, root, Keep{})
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../x", "/x", "link/x", "..", "a/../../x", "a\x00b"} {
		if _, err := w.Create(t.Context(), media.CreateRequest{Name: name}); err == nil {
			t.Errorf("%q was created", name)
		}
	}
	if got := tree(t, outside); got != "" {
		t.Errorf("outside there is %s", got)
	}
}

func TestAppend(t *testing.T) {
	root := t.TempDir()
	w := open(t, root, Keep{})
	film := stagetest.Film(2, 100)
	n := len(frames(film))
	again := media.CreateRequest{Name: "a", Append: true}
	record(t, w, again, film...)
	record(t, w, again, film...)
	if got := count(t, root, "a.flv"); got != 2*n {
		t.Errorf("%d frames, want %d", got, 2*n)
	}
	// Another codec goes into another file.
	h := *film[0].Header()
	h.Audio.Config = append([]byte{h.Audio.Config[0], h.Audio.Config[1]}, 9, 9)
	record(t, w, again, media.NewBatch(&h, media.NoClock, film[0].Frames()...))
	if got := tree(t, root); got != "a-2.flv a.flv" {
		t.Errorf("files: %s", got)
	}
	if got := count(t, root, "a.flv"); got != 2*n {
		t.Errorf("%d frames, want %d", got, 2*n)
	}
	// What was under way when the writer before failed may be there already.
	record(t, w, media.CreateRequest{Name: "d"}, film...)
	record(t, w, media.CreateRequest{Name: "d", Append: true}, film[len(film)-1], film[0])
	if got, want := count(t, root, "d.flv"), n+len(film[0].Frames()); got != want {
		t.Errorf("%d frames, want %d", got, want)
	}
	// A file that is just repaired is waited for.
	w.repairing <- struct{}{}
	w.claim("d.flv")
	time.AfterFunc(10*time.Millisecond, func() {
		w.release("d.flv")
		<-w.repairing
	})
	record(t, w, media.CreateRequest{Name: "d", Append: true}, film...)
	// A file that is being written cannot be appended to, and another's has no room.
	s, err := w.Create(t.Context(), media.CreateRequest{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if _, err := w.Create(t.Context(), media.CreateRequest{Name: "b", Append: true}); !errors.Is(err, media.ErrBusy) {
		t.Errorf("append to what is being written: %v", err)
	}
	var other bytes.Buffer
	ow := flv.NewWriter(&other, 0)
	for _, b := range film {
		if err := ow.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "c.flv"), other.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	record(t, w, media.CreateRequest{Name: "c", Append: true}, film...)
	if got, err := os.ReadFile(filepath.Join(root, "c.flv")); err != nil || !bytes.Equal(got, other.Bytes()) || count(t, root, "c-2.flv") != n {
		t.Errorf("another's file was changed: %v", err)
	}
}

// Recordings that are open when the stage stops are finished by it.
func TestServe(t *testing.T) {
	root := t.TempDir()
	w := New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Drain: time.Second},
		Settings{Root: root, Sync: time.Second, Keep: Keep{Age: time.Hour}})
	film := stagetest.Film(2, 100)
	s, err := w.Create(t.Context(), media.CreateRequest{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), film[0]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), film[1]); !errors.Is(err, media.ErrClosed) {
		t.Errorf("Write after the end: %v", err)
	}
	if got := count(t, root, "a.flv"); got != len(film[0].Frames()) {
		t.Errorf("%d frames", got)
	}
	if _, err := w.Create(t.Context(), media.CreateRequest{Name: "late"}); !errors.Is(err, media.ErrClosed) {
		t.Errorf("Create after the end: %v", err)
	}
}

// crashed returns the bytes of a recording that was never finished.
func crashed(t *testing.T, film []*media.Batch) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := flv.NewRecording(f, &media.Header{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range film {
		if err := r.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	p, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRepair(t *testing.T) {
	root := t.TempDir()
	film := stagetest.Film(3, 100)
	cut := crashed(t, film)
	for name, p := range map[string][]byte{
		"cut.flv":   cut[:len(cut)-10],
		"none.flv":  crashed(t, nil),
		"zero.flv":  nil,
		"text.flv":  []byte("this is no FLV"),
		"other.bin": nil,
	} {
		if err := os.WriteFile(filepath.Join(root, name), p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := open(t, root, Keep{})
	s, err := w.Create(t.Context(), media.CreateRequest{Name: "cut"}) // it is at work meanwhile
	if err != nil {
		t.Fatal(err)
	}
	w.repair(t.Context(), w.root)
	if err := s.Write(t.Context(), film[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, root); got != "cut-2.flv cut.flv other.bin text.flv" {
		t.Errorf("files: %s", got)
	}
	if got := count(t, root, "cut.flv"); got != len(frames(film))-1 {
		t.Errorf("%d frames of %d", got, len(frames(film)))
	}
	if n := testutil.ToFloat64(w.metrics.repaired); n != 1 {
		t.Errorf("%v counted", n)
	}
}

func TestKeep(t *testing.T) {
	film := stagetest.Film(2, 100)
	const each = 74_000 // about what a recording of the film takes
	for name, c := range map[string]struct {
		keep Keep
		want string
	}{
		"all":    {Keep{}, "a a/1.flv b b/2.flv b/3.flv b/open.flv foreign.flv"},
		"age":    {Keep{Age: 36 * time.Hour}, "b b/3.flv b/open.flv foreign.flv"},
		"size":   {Keep{Size: 3*each + each/2}, "b b/2.flv b/3.flv b/open.flv foreign.flv"},
		"little": {Keep{Size: 1}, "b b/open.flv foreign.flv"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			w := open(t, root, c.keep)
			for i, name := range []string{"a/1", "b/2", "b/3"} {
				record(t, w, media.CreateRequest{Name: name}, film...)
				days(t, root, name+".flv", 3-i)
			}
			if err := os.WriteFile(filepath.Join(root, "foreign.flv"), []byte("FLV"), 0o644); err != nil {
				t.Fatal(err)
			}
			days(t, root, "foreign.flv", 100)
			s, err := w.Create(t.Context(), media.CreateRequest{Name: "b/open"})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Write(t.Context(), film[0]); err != nil {
				t.Fatal(err)
			}
			days(t, root, "b/open.flv", 100)
			if err := w.sweep(w.root); err != nil {
				t.Error(err)
			}
			if got := tree(t, root); got != c.want {
				t.Errorf("kept: %s, want %s", got, c.want)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// days makes a file that old.
func days(t *testing.T, root, name string, n int) {
	t.Helper()
	at := time.Now().Add(-time.Duration(n) * 24 * time.Hour)
	at = at.Add(time.Hour)
	if err := os.Chtimes(filepath.Join(root, name), at, at); err != nil {
		t.Fatal(err)
	}
}

func TestSettings(t *testing.T) {
	k := Kind()
	for text, want := range map[string]Keep{"7d": {Age: 7 * 24 * time.Hour}, "36h": {Age: 36 * time.Hour}, "500GiB": {Size: 500 << 30}} {
		got, err := k.Decode(map[string]any{"root": "x", "keep": text})
		if err != nil || got.(*Settings).Keep != want {
			t.Errorf("keep %s: %v, %v", text, got, err)
		}
	}
	for setting, value := range map[string]string{"keep": "7 apples", "sync": "1ns", "root": ""} {
		values := map[string]any{"root": "x", setting: value}
		var wrong *stage.SettingError
		if _, err := k.Decode(values); !errors.As(err, &wrong) || wrong.Setting != setting {
			t.Errorf("%s: %v", setting, err)
		}
	}
	if got := (Keep{Size: 1 << 30}).String() + (Keep{Age: 48 * time.Hour}).String(); got != "1GiB2d" {
		t.Error(got)
	}
}

// tmpfs mounts a file system of 4 MiB.
func tmpfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatalf("mount a tmpfs, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// On a full disk Write says so, and what was written before can be played. When
// there is room again, recording works again.
func TestT55_DiskFull(t *testing.T) {
	root := tmpfs(t)
	w := open(t, root, Keep{})
	film := stagetest.Film(100, 3000)
	s, err := w.Create(t.Context(), media.CreateRequest{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	written := 0
	for _, b := range film {
		if err = s.Write(t.Context(), b); err != nil {
			break
		}
		written += len(b.Frames())
	}
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, media.ErrFull) || !strings.Contains(err.Error(), "a.flv") {
		t.Fatalf("on a full disk: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if got := count(t, root, "a.flv"); got != written || written == 0 {
		t.Errorf("%d frames, %d were written", got, written)
	}
	if n := testutil.ToFloat64(w.metrics.errors.WithLabelValues("full")); n != 1 {
		t.Errorf("%v errors counted", n)
	}
	if err := os.Remove(filepath.Join(root, "a.flv")); err != nil {
		t.Fatal(err)
	}
	record(t, w, media.CreateRequest{Name: "b"}, film[:2]...)
	if got := count(t, root, "b.flv"); got != 100 {
		t.Errorf("%d frames", got)
	}
}

// An fsync that fails is the error of the next Write.
func TestT56_SyncFails(t *testing.T) {
	root := t.TempDir()
	w := open(t, root, Keep{})
	film := stagetest.Film(2, 100)
	created, err := w.Create(t.Context(), media.CreateRequest{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	s := created.(*sink)
	if err := s.Write(t.Context(), film[0]); err != nil {
		t.Fatal(err)
	}
	if w.lag() < 0 {
		t.Error("lag")
	}
	s.syncer.mu.Lock()
	s.syncer.failed = syscall.EIO
	s.syncer.mu.Unlock()
	if err := s.Write(t.Context(), film[1]); !errors.Is(err, syscall.EIO) {
		t.Errorf("after a failed fsync: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := testutil.ToFloat64(w.metrics.errors.WithLabelValues("io")); n != 1 || w.lag() != 0 {
		t.Errorf("%v errors counted, lag %v", n, w.lag())
	}
}

// recordForEver is what the process of TestT57 does: it records, and tells of each
// batch that was written.
func recordForEver(root string) {
	w := New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, Settings{Root: root, Sync: 10 * time.Millisecond})
	for n := 0; ; n++ {
		s, err := w.Create(context.Background(), media.CreateRequest{Name: fmt.Sprint(n)})
		if err != nil {
			panic(err)
		}
		for _, b := range stagetest.Film(4, 500) {
			if err := s.Write(context.Background(), b); err != nil {
				panic(err)
			}
			fmt.Println(n, len(b.Frames()))
		}
		if err := s.Close(context.Background()); err != nil {
			panic(err)
		}
	}
}

// Killed at any point, all that was written can be played after a repair.
func TestT57_Kill(t *testing.T) {
	times := 30
	if os.Getenv("TORTURE") != "" { // see docs/torture.md
		times = 100
	}
	for range times {
		root := t.TempDir()
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "WRITERDISK_RECORD="+root)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		// It is killed behind some line of its output, and a little later.
		told := bufio.NewScanner(out)
		want := map[int]int{}
		line := func() bool {
			var file, frames int
			if !told.Scan() {
				return false
			}
			if _, err := fmt.Sscan(told.Text(), &file, &frames); err != nil {
				t.Fatalf("%q: %v", told.Text(), err)
			}
			want[file] += frames
			return true
		}
		for range 1 + rand.IntN(20) {
			line()
		}
		time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() { _ = child.Process.Kill() })
		for line() {
		}
		_ = child.Wait()

		w := open(t, root, Keep{})
		w.repair(t.Context(), w.root)
		for file, n := range want {
			if got := count(t, root, fmt.Sprintf("%d.flv", file)); got < n {
				t.Errorf("file %d: %d frames, %d were written", file, got, n)
			}
		}
	}
}
