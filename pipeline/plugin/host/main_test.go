package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

// filmPath is the plugin for the tests.
var filmPath string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "as-daemon" {
		asDaemon()
		return
	}
	dir, err := os.MkdirTemp("", "mediad-test-")
	if err != nil {
		panic(err)
	}
	filmPath = filepath.Join(dir, "film")
	if out, err := exec.Command("go", "build", "-o", filmPath, "./testdata/film").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// quick are limits for tests.
var quick = limits{
	start:    10 * time.Second,
	call:     2 * time.Second,
	stuck:    20 * time.Second,
	ping:     100 * time.Millisecond,
	pong:     time.Second,
	memory:   20 * time.Millisecond,
	exit:     2 * time.Second,
	backoff:  10 * time.Millisecond,
	window:   time.Minute,
	failures: 5,
}

// testStage is a stage that is being served.
type testStage struct {
	*Stage
	log      *logLines
	registry *prometheus.Registry
	stop     func() error
}

// run serves a stage of the film plugin until the test ends.
func run(t *testing.T, b Binary, limits limits, env stage.Env, values map[string]any) *testStage {
	t.Helper()
	s := build(t, b, limits, env, values)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	t.Cleanup(func() { _ = s.stop() })
	return s
}

func build(t *testing.T, b Binary, limits limits, env stage.Env, values map[string]any) *testStage {
	t.Helper()
	if b.Path == "" {
		b.Path = filmPath
	}
	log := &logLines{}
	registry := prometheus.NewRegistry()
	env.Metrics = prometheus.WrapRegistererWith(prometheus.Labels{"stage": "film"}, registry)
	env.Name, env.Drain = "test/film", time.Second
	env.Log = hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Debug})
	kind, err := newKind(t.Context(), b, limits, env.Log)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := kind.Decode(values)
	if err != nil {
		t.Fatal(err)
	}
	made, err := kind.New(env, settings)
	if err != nil {
		t.Fatal(err)
	}
	return &testStage{Stage: made.(*Stage), log: log, registry: registry}
}

// logLines is the log of a stage.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// eventually waits until ok, for as long as a test may take.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it does not happen that %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func open(t *testing.T, r media.Reader, name string) media.Source {
	t.Helper()
	src, err := r.Open(t.Context(), media.OpenRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

// contains reports an error that lacks one of the parts.
func contains(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("it went well, want an error with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q should be in the error: %v", part, err)
		}
	}
}
