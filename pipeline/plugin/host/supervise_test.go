package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin/internal/film"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// readOn reads src to its end and compares that, behind what was read, with the film.
func readOn(t *testing.T, src media.Source, read, film []*media.Batch) {
	t.Helper()
	for {
		b, err := src.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		read = append(read, b)
	}
	got, want := frames(read), frames(film)
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("frame %d is %s, want %s", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d frames came, want %d", len(got), len(want))
	}
	for i, b := range read[1:] {
		if b.Header() != read[0].Header() {
			t.Errorf("the batch %d has another header than those before it", i+1)
		}
	}
}

// frames tells the frames of batches, wherever these are divided.
func frames(list []*media.Batch) []string {
	var text []string
	for _, b := range list {
		for _, f := range b.Frames() {
			text = append(text, fmt.Sprintf("%v %v %v %v %x", f.Track, f.Key, f.DTS, f.PTS, f.Body[:3]))
		}
	}
	return text
}

// serveUntilFailed serves a stage that cannot be served, and returns the error.
func serveUntilFailed(t *testing.T, s *testStage) error {
	t.Helper()
	err := s.Serve(t.Context())
	if err == nil {
		t.Fatal("Serve went well")
	}
	if _, openErr := s.Open(t.Context(), media.OpenRequest{Name: "film"}); !errors.Is(openErr, media.ErrUnavailable) {
		t.Errorf("Open of a stage that has failed: %v", openErr)
	}
	return err
}

// switching is a binary that is the film plugin when it is described, and then is
// started with other arguments.
func switching(t *testing.T, args ...string) *testStage {
	s := build(t, Binary{}, quick, stage.Env{}, nil)
	s.binary.Args = args
	return s
}

func TestT35_CrashAtStart(t *testing.T) {
	s := switching(t, "crash")
	err := serveUntilFailed(t, s)
	contains(t, err, "given up after 5 failures within 1m0s", filmPath, "exit status 2", "panic: boom in main")
	if !errors.Is(err, stage.ErrGivenUp) {
		t.Errorf("whoever runs the stage may try again after %v", err)
	}
	if starts, givenUp := testutil.ToFloat64(s.metrics.starts), testutil.ToFloat64(s.metrics.givenUp); starts != 5 || givenUp != 1 {
		t.Errorf("%v starts, given up %v times", starts, givenUp)
	}
	var waits []time.Duration
	for _, told := range regexp.MustCompile(`the plugin failed and is started again:.* in=(\S+)`).FindAllStringSubmatch(s.log.String(), -1) {
		wait, err := time.ParseDuration(told[1])
		if err != nil {
			t.Fatal(err)
		}
		if len(waits) > 0 && wait <= waits[len(waits)-1] {
			t.Errorf("after %v it waits %v", waits, wait)
		}
		waits = append(waits, wait)
	}
	if len(waits) != 4 {
		t.Errorf("it waits %v between five starts:\n%s", waits, s.log)
	}
}

// Failures that are far enough apart are not held against a plugin.
func TestT35_FailuresAreForgotten(t *testing.T) {
	forgetful := quick
	forgetful.window, forgetful.failures = 10*time.Millisecond, 2
	s := run(t, Binary{}, forgetful, stage.Env{}, nil)
	for range 4 {
		kill(t, s)
		process1(t, s)
		time.Sleep(2 * forgetful.window)
	}
	if n := testutil.ToFloat64(s.metrics.starts); n != 5 {
		t.Errorf("%v starts, want 5", n)
	}
}

func TestT35_NeverStarts(t *testing.T) {
	short := quick
	short.start, short.failures = 300*time.Millisecond, 2
	s := switching(t, "silent")
	s.limits = short
	contains(t, serveUntilFailed(t, s), filmPath, "no handshake within 300ms")
}

func TestT36_CrashInTheMiddle(t *testing.T) {
	for _, trouble := range []string{"crash", "hang"} {
		t.Run(trouble, func(t *testing.T) {
			once := filepath.Join(t.TempDir(), "done")
			s := run(t, Binary{}, quick, stage.Env{}, map[string]any{"once": once})
			src := open(t, s, trouble)
			read := readSome(t, src, 3)
			if err := os.WriteFile(once+".go", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			readOn(t, src, read, film.Batches(5, 100))
			want := map[string]string{"crash": "panic: boom in Next", "hang": "panic: plugin: Open or Next of hang hangs"}[trouble]
			if !strings.Contains(s.log.String(), want) {
				t.Errorf("%q should be in the log:\n%s", want, s.log)
			}
		})
	}
}

// TestASlowReadIsNoHang has a read that takes long but ends when it is told to.
func TestASlowReadIsNoHang(t *testing.T) {
	slow := quick
	slow.call, slow.stuck = 100*time.Millisecond, 100*time.Millisecond
	s := run(t, Binary{}, slow, stage.Env{}, nil)
	pid := process1(t, s)
	src := open(t, s, "slow")
	readSome(t, src, 3)
	if _, err := src.Next(t.Context()); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("%v, want an error that wraps %v", err, media.ErrUnavailable)
	}
	if now := process1(t, s); now != pid {
		t.Errorf("the process %d was replaced by %d", pid, now)
	}
}

func TestT36_KilledBetweenReads(t *testing.T) {
	patient := quick
	patient.failures = 100
	s := run(t, Binary{}, patient, stage.Env{}, large)
	for reads := range 8 {
		src := open(t, s, "film")
		read := readSome(t, src, reads)
		kill(t, s)
		readOn(t, src, read, film.Batches(10, 64<<10))
	}
	if n := testutil.ToFloat64(s.metrics.resumes); n != 8 {
		t.Errorf("%v sources were resumed, want 8", n)
	}
}

// TestT36_ManyReadWhileItCrashes has a plugin that is killed again and again under
// those who read from it.
func TestT36_ManyReadWhileItCrashes(t *testing.T) {
	patient := quick
	patient.failures = 100
	s := run(t, Binary{}, patient, stage.Env{}, large)
	want := frames(film.Batches(10, 64<<10))
	var readers sync.WaitGroup
	var sources []media.Source
	for range 8 {
		sources = append(sources, open(t, s, "film"))
	}
	for i, src := range sources {
		readers.Go(func() {
			var read []*media.Batch
			for {
				b, err := src.Next(t.Context())
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Error(err)
					return
				}
				read = append(read, b)
				if i == 0 && len(read)%5 == 0 {
					kill(t, s)
				}
			}
			if !slices.Equal(frames(read), want) {
				t.Error("other frames came than those of the film")
			}
		})
	}
	readers.Wait()
	// How many is not said: a kill may meet a process that is about to be started again, and
	// a busy machine one that does not answer in time.
	if n := testutil.ToFloat64(s.metrics.starts); n < 2 {
		t.Errorf("%v starts: the process was not killed", n)
	}
}

// large are settings of a film that is not in the connection as a whole.
var large = map[string]any{"gops": "10", "size": "64KiB"}

func readSome(t *testing.T, src media.Source, n int) []*media.Batch {
	t.Helper()
	var read []*media.Batch
	for range n {
		b, err := src.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		read = append(read, b)
	}
	return read
}

// kill kills the process of a stage.
func kill(t *testing.T, s *testStage) {
	t.Helper()
	r, err := s.ready(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	if err := syscall.Kill(r.run.pid(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
	<-r.ctx.Done()
}

func TestT36_AnotherVersionAfterACrash(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, map[string]any{"version": "pid", "gops": "10", "size": "64KiB"})
	src := open(t, s, "film")
	readSome(t, src, 1)
	kill(t, s)
	var err error
	for err == nil {
		_, err = src.Next(t.Context())
	}
	if !errors.Is(err, media.ErrChanged) {
		t.Errorf("%v, want an error that wraps %v", err, media.ErrChanged)
	}
}

func TestT36_LiveGoesOnAfterACrash(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	src := open(t, s, "live")
	last := time.Duration(0)
	for i := range 20 {
		b, err := src.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b.DTS() <= last {
			t.Fatalf("time goes back from %v to %v", last, b.DTS())
		}
		if last = b.DTS(); i == 5 {
			kill(t, s)
		}
	}
	if n := src.(interface{ Skips() int }).Skips(); n != 1 {
		t.Errorf("%d skips, want 1 for the gap", n)
	}
}

func TestT37_Hang(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	pid := process1(t, s)
	_, err := s.Open(t.Context(), media.OpenRequest{Name: "hang-open"})
	if !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("%v, want an error that wraps %v", err, media.ErrUnavailable)
	}
	contains(t, err, filmPath, "hangs: no answer to Open within 2s")
	eventually(t, "the process is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	readOn(t, open(t, s, "film"), nil, film.Batches(5, 100)) // in the next one
}

func TestT37_Stopped(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	pid := process1(t, s)
	_, err := s.Open(t.Context(), media.OpenRequest{Name: "stuck"})
	contains(t, err, filmPath, "hangs: no answer to the question for its health within 1s")
	eventually(t, "the process is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

// What a plugin has started goes with it: all of its group is killed.
func TestT37_ProcessGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	s := run(t, Binary{Path: "/bin/sh", Args: []string{"-c", "sleep 1000 & echo $! >" + file + "; exec " + filmPath}}, quick, stage.Env{}, nil)
	pid := process1(t, s)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || syscall.Kill(child, 0) != nil {
		t.Fatalf("the plugin's child is %q: %v", text, err)
	}
	_, err = s.Open(t.Context(), media.OpenRequest{Name: "stuck"})
	contains(t, err, "hangs")
	for _, gone := range []int{pid, child} {
		eventually(t, "the process is gone", func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", gone))
			return err != nil || strings.Contains(string(stat), ") Z ") // its own parent may not have noticed
		})
	}
}

// process1 is the pid of a stage's process.
func process1(t *testing.T, s *testStage) int {
	t.Helper()
	r, err := s.ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r.run.pid()
}

func TestPanicInACall(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	_, err := s.Open(t.Context(), media.OpenRequest{Name: "panic"})
	contains(t, err, filmPath, "exit status 2", "panic: boom in Open")
	_, err = s.Open(t.Context(), media.OpenRequest{Name: "exit"})
	contains(t, err, filmPath, "exit status 7")
}

func TestT38_NoPlugin(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("Some text.\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	short := quick
	short.start = 300 * time.Millisecond
	for name, c := range map[string]struct {
		binary Binary
		want   []string
	}{
		"garbage":       {Binary{Path: filmPath, Args: []string{"garbage"}}, []string{filmPath, "is no plugin", "Hello, I am"}},
		"silent":        {Binary{Path: filmPath, Args: []string{"silent"}}, []string{filmPath, "no handshake within"}},
		"ends":          {Binary{Path: filmPath, Args: []string{"exit"}}, []string{filmPath, "exit status 3", "nothing to do here"}},
		"true":          {Binary{Path: "/bin/true"}, []string{"/bin/true", "ended before its handshake", "exit status 0"}},
		"no executable": {Binary{Path: text}, []string{text, "cannot be started"}},
		"no file":       {Binary{Path: text + "2"}, []string{text + "2", "no such file"}},
		"another build": {Binary{Path: filmPath, SHA256: strings.Repeat("0", 64)}, []string{filmPath, "sha256", "000000"}},
	} {
		t.Run(name, func(t *testing.T) {
			limits := quick
			if name == "silent" {
				limits = short
			}
			_, err := newKind(t.Context(), c.binary, limits, hclog.NewNullLogger())
			contains(t, err, c.want...)
		})
	}
}

func TestT38_GarbageAfterTheStart(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, map[string]any{"noise": "8"})
	readOn(t, open(t, s, "film"), nil, film.Batches(5, 100))
}

func TestT39_WrongVersion(t *testing.T) {
	_, err := newKind(t.Context(), Binary{Path: filmPath, Args: []string{"version"}}, quick, hclog.NewNullLogger())
	contains(t, err, filmPath, "version 2", "version 1")
}

func TestT40_MemoryHog(t *testing.T) {
	s := run(t, Binary{Memory: 128 << 20}, quick, stage.Env{}, map[string]any{"once": filepath.Join(t.TempDir(), "done")})
	// It is tried once more, in the next process, where it takes no memory.
	if _, err := s.Open(t.Context(), media.OpenRequest{Name: "hog"}); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("%v, want an error that wraps %v", err, media.ErrNotFound)
	}
	if want := filmPath + " has grown to"; !strings.Contains(s.log.String(), want) || !strings.Contains(s.log.String(), "past its memory of 128MiB") {
		t.Errorf("%q should be in the log:\n%s", want, s.log)
	}
	readOn(t, open(t, s, "film"), nil, film.Batches(5, 100))
}

func TestWrongSettingsAreNotTriedAgain(t *testing.T) {
	s := build(t, Binary{}, quick, stage.Env{}, map[string]any{"refuse": "I do not like it"})
	err := serveUntilFailed(t, s)
	var wrong *stage.SettingError
	if !errors.As(err, &wrong) || wrong.Setting != "refuse" || wrong.Err.Error() != "I do not like it" {
		t.Errorf("%v", err)
	}
}

func TestStop(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	pid := process1(t, s)
	src := open(t, s, "film")
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if _, err := src.Next(ctx); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				t.Error("a source of a stopped stage waits")
			}
			break
		}
	}
	if !strings.Contains(s.log.String(), "film is served") {
		t.Errorf("the plugin's own line is not in the log:\n%s", s.log)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+fmt.Sprint(os.Getpid())+"-*")); len(left) > 0 {
		t.Errorf("folders are left behind: %v", left)
	}
}

// TestDrain ends the stage while a film is being read, as a reload does that
// replaces it: the film is read to its end.
func TestDrain(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	src := open(t, s, "film")
	if _, err := src.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	for {
		_, err := src.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the film broke off: %v", err)
		}
	}
	src.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// While there is no process because one has failed, the stage tells so.
func TestAway(t *testing.T) {
	slow := quick
	slow.backoff = 200 * time.Millisecond
	s := run(t, Binary{}, slow, stage.Env{}, nil)
	src := open(t, s, "live")
	if _, err := src.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Away(); err != nil {
		t.Errorf("with a process: %v", err)
	}
	killed := time.Now()
	_ = syscall.Kill(s.running().run.pid(), syscall.SIGKILL)
	eventually(t, "it is away", func() bool {
		since, err := s.Away()
		return err != nil && strings.Contains(err.Error(), filmPath+" has ended") && !since.Before(killed)
	})
	eventually(t, "it is back", func() bool {
		_, err := s.Away()
		return err == nil
	})
}
