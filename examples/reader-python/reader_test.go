// Package readerpython_test runs the plugin in Python as the daemon would.
package readerpython_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/dump"
	"github.com/mediad/mediad/pipeline/plugin/host"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"github.com/mediad/mediad/pipeline/stagetest"
	readerdisk "github.com/mediad/mediad/plugins/reader-disk"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plugin serves a stage of the plugin, which logs to log, until the test ends.
func plugin(t *testing.T, root string, log io.Writer) media.Reader {
	t.Helper()
	kind, err := host.Kind(t.Context(), host.Binary{Path: "./reader-python"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return run(t, kind, root, log)
}

// run serves a stage of a kind until the test ends.
func run(t *testing.T, kind stage.Kind, root string, log io.Writer) media.Reader {
	t.Helper()
	settings, err := kind.Decode(map[string]any{"root": root})
	if err != nil {
		t.Fatal(err)
	}
	made, err := kind.New(stage.Env{
		Name:    "test/python",
		Log:     hclog.New(&hclog.LoggerOptions{Output: log}),
		Metrics: prometheus.NewRegistry(),
	}, settings)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- made.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return made.(media.Reader)
}

// folder has films, and what is none.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, args := range []string{
		"-i SAMPLE -c copy film.flv", "-i SAMPLE -vn -c copy sound.flv", "-i SAMPLE -an -c copy silent.flv",
		"-stream_loop 60 -i SAMPLE -c copy long.flv",
	} {
		ffmpeg := exec.Command("ffmpeg", append([]string{"-v", "error"}, strings.Fields(strings.Replace(args, "SAMPLE", sample, 1))...)...)
		ffmpeg.Dir = dir
		if out, err := ffmpeg.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for name, content := range map[string]string{"text.flv": "no film", "empty.flv": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(sample, filepath.Join(dir, "outside.flv")); err != nil {
		t.Fatal(err)
	}
	return dir
}

var sample, _ = filepath.Abs("../../media/sample.flv")

func TestConformance(t *testing.T) {
	r := plugin(t, folder(t), io.Discard)
	for _, name := range []string{"film.flv", "film", "sound.flv", "silent.flv"} {
		t.Run(name, func(t *testing.T) {
			stagetest.TestReader(t, stagetest.Reader{Reader: r, Name: name, Missing: "missing"})
		})
	}
}

// TestSameAsReaderDisk compares it with the reader of FLV that mediad has in Go.
func TestSameAsReaderDisk(t *testing.T) {
	dir := folder(t)
	python, disk := plugin(t, dir, io.Discard), run(t, readerdisk.Kind(), dir, io.Discard)
	for _, name := range []string{"film.flv", "sound.flv", "silent.flv"} {
		for _, from := range []time.Duration{media.Newest, 0, 1500 * time.Millisecond, time.Hour} {
			req := media.OpenRequest{Name: name, From: from}
			got, want := lines(t, python, req), lines(t, disk, req)
			if got != want {
				t.Errorf("%s from %v: %s", name, from, difference(got, want))
			}
		}
	}
}

var meta = regexp.MustCompile(` meta=\d+`)

// lines are the batches of a request as text. The reader in Go leaves out of the
// metadata what is not true of a stream.
func lines(t *testing.T, r media.Reader, req media.OpenRequest) string {
	t.Helper()
	src, err := r.Open(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	return meta.ReplaceAllString(rest(t, src), "")
}

// rest reads a source to its end.
func rest(t *testing.T, src media.Source) string {
	t.Helper()
	var text strings.Builder
	for p := dump.NewPrinter(&text); ; {
		b, err := src.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return text.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Print(b); err != nil {
			t.Fatal(err)
		}
	}
}

// logLines is a log that can be read while it is written.
type logLines struct {
	mu   sync.Mutex
	text []byte
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// TestKilled kills the process while a film is being read, which goes on in the next one.
func TestKilled(t *testing.T) {
	var log logLines
	r := plugin(t, folder(t), &log)
	want := lines(t, r, media.OpenRequest{Name: "long"})
	src, err := r.Open(t.Context(), media.OpenRequest{Name: "long"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	started := regexp.MustCompile(`plugin started: .*pid=(\d+)`).FindStringSubmatch(log.String())
	if started == nil {
		t.Fatalf("no pid is in the log: %s", &log)
	}
	pid, _ := strconv.Atoi(started[1])
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := meta.ReplaceAllString(rest(t, src), ""); got != want {
		t.Error(difference(got, want))
	}
	if !strings.Contains(log.String(), "source resumed") {
		t.Errorf("the film was in memory before the process was killed: %s", &log)
	}
}

// difference is the first line in which texts differ.
func difference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d is %q, want %q", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(a), len(b))
}

func TestErrors(t *testing.T) {
	r := plugin(t, folder(t), io.Discard)
	for name, want := range map[string]error{"missing": media.ErrNotFound, "outside.flv": media.ErrNotFound, "text.flv": nil, "empty.flv": nil} {
		src, err := r.Open(t.Context(), media.OpenRequest{Name: name})
		switch {
		case err == nil:
			src.Close()
			t.Errorf("%s was opened", name)
		case want != nil && !errors.Is(err, want), !strings.Contains(err.Error(), name):
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// TestGeneratedCode keeps stage_pb2.py what is made from stage.proto.
func TestGeneratedCode(t *testing.T) {
	out, err := exec.Command("/usr/bin/python3", "-c", "import stage_pb2; print(stage_pb2.DESCRIPTOR.serialized_pb.hex())").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := hex.DecodeString(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	var got descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	// Python leaves out what JSON calls the fields.
	plain := func(f *descriptorpb.FileDescriptorProto) string {
		return regexp.MustCompile(` +json_name:"\w+"`).ReplaceAllString(f.String(), "")
	}
	if plain(&got) != plain(protodesc.ToFileDescriptorProto(pb.File_stage_proto)) {
		t.Error("stage_pb2.py is not what stage.proto says: see reader-python for how it is made")
	}
}
