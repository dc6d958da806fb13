package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
	"go.uber.org/goleak"
)

// The test binary is mediad itself when a test starts it.
const asMediad = "TEST_AS_MEDIAD"

func TestMain(m *testing.M) {
	if os.Getenv(asMediad) != "" {
		main()
	}
	os.Setenv(asMediad, "1")
	goleak.VerifyTestMain(m)
}

// mediad is a command that runs mediad in the root of the module.
func mediad(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Dir = "../.."
	return cmd
}

// write puts text into a file for a test and returns its name.
func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pipelines.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const listening = `version: 1
listen: {rtmp: "127.0.0.1:0", http: "127.0.0.1:0"}
`

const vod = `pipelines:
  vod:
    - use: reader-disk
      with: {root: ./media}
    - use: stream
      with: {app: vod}
`

func TestExitCodes(t *testing.T) {
	right := write(t, listening+vod)
	typo := write(t, listening+strings.ReplaceAll(vod, "reader-disk", "reader-disc"))
	twice := write(t, listening+vod+"  more: [{from: vod/reader-disk}, {use: stream, with: {app: vod}}]\n")
	noFolder := write(t, listening+strings.ReplaceAll(vod, "./media", "./nowhere"))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := write(t, strings.Replace(listening+vod, "127.0.0.1:0", taken.Addr().String(), 1))
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"check -c " + right, 0, "is right"},
		{"check -c " + typo, 2, `:5:12: vod/reader-disc: there is no kind of stage called "reader-disc" (did you mean "reader-disk"?)`},
		{"check -c /nowhere", 2, "no such file"},
		{"graph -c " + right, 0, "reader-disk -> stream"},
		{"graph --format dot --config " + right, 0, "digraph"},
		{"graph --format png -c " + right, 2, "not one of text, dot, mermaid"},
		{"graph -c " + typo, 2, ":5:12: "},
		{"run -c " + typo, 2, ":5:12: "},
		{"run -c " + busy, 1, "another program uses the address"},
		{"run -c " + twice, 1, `stream: serve app "vod": `},
		{"run -c " + noFolder, 2, ":6:20: vod/reader-disk: root: "},
		{"version", 0, "mediad "},
		{"explain vod/x --api http://" + taken.Addr().String() + "0", 1, "is mediad running"},
		{"explain", 2, "accepts 1 arg"},
		{"chekc", 2, "unknown command"},
		{"check --conf x", 2, "unknown flag"},
		{"check x", 2, "unknown command"},
		{"", 2, "a command is wanted"},
		{"--help", 0, "explain"},
	} {
		cmd := mediad(t.Context(), strings.Fields(test.args)...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(string(out), test.want) {
			t.Errorf("mediad %s: exit code %d, want %d with %q:\n%s", test.args, code, test.code, test.want, out)
		}
	}
}

// The shipped file is right with the kinds that are built in.
func TestShippedFile(t *testing.T) {
	if out, err := mediad(t.Context(), "check").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// start runs mediad with the sample and what stands below the listeners in its file.
func start(t *testing.T, text string) *lab.Daemon {
	t.Helper()
	return lab.Start(t, os.Args[0], text, func(d *lab.Daemon) {
		sample, err := os.ReadFile("../../media/sample.flv")
		lab.Must(t, err)
		lab.Must(t, os.WriteFile(d.Path("media", "sample.flv"), sample, 0o600))
	})
}

func TestRun_ServesHTTPAndExplains(t *testing.T) {
	r := start(t, vod)
	for _, path := range []string{"/healthz", "/metrics", "/api/channels", "/api/pipelines"} {
		if _, err := r.Get(path); err != nil {
			t.Error(err)
		}
	}
	out, err := mediad(t.Context(), "explain", "vod/sample", "--api", "http://"+r.HTTP).CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^->\s+vod/reader-disk\s+here\s+-\s+-\s+disk\s+10`).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
	explain := mediad(t.Context(), "explain", "film/sample", "--api", "http://"+r.HTTP)
	if out, _ := explain.CombinedOutput(); explain.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "begins with one of vod/") {
		t.Errorf("%s", out)
	}
}

func TestT71_FirstSignalDrainsSecondEndsNow(t *testing.T) {
	t.Run("first", func(t *testing.T) {
		r := start(t, vod)
		r.Signal(syscall.SIGTERM)
		r.Says(t, "stopped")
		if err := r.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("second", func(t *testing.T) {
		r := start(t, "drain: 10m\n"+vod)
		viewer := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-re", "-i", r.URL("vod/sample"), "-f", "null", "-")
		if err := viewer.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = viewer.Process.Kill(); _ = viewer.Wait() }()
		r.Says(t, "play begins")
		r.Signal(syscall.SIGTERM)
		r.Says(t, "stopping")
		r.Signal(syscall.SIGINT)
		var exit *exec.ExitError
		if err := r.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
			t.Errorf("the second signal did not end it, the viewer did: %v", err)
		}
	})
}

func TestClientURL(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:9000": "http://127.0.0.1:9000",
		":9000":          "http://127.0.0.1:9000",
		"[::]:9000":      "http://127.0.0.1:9000",
		"[::1]:9000":     "http://[::1]:9000",
		"media:9000":     "http://media:9000",
		"":               "http://127.0.0.1:8080",
	} {
		file := write(t, strings.Replace(listening+vod, `http: "127.0.0.1:0"`, `http: "`+listen+`"`, 1))
		if got := (client{base: new(string), file: &file}).url(); got != want {
			t.Errorf("%s: %s, want %s", listen, got, want)
		}
	}
	nowhere := "/nowhere"
	if got := (client{base: new(string), file: &nowhere}).url(); got != "http://127.0.0.1:8080" {
		t.Error(got)
	}
}

// What answers may be no mediad at all.
func TestExplain_OfSomethingElse(t *testing.T) {
	for _, code := range []int{http.StatusOK, http.StatusNotFound} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "<html>hello</html>")
		}))
		cmd := root()
		cmd.SetArgs([]string{"explain", "vod/x", "--api", other.URL})
		cmd.SetOut(new(bytes.Buffer))
		err := cmd.ExecuteContext(t.Context())
		other.Close()
		if err == nil || !strings.Contains(err.Error(), "is it mediad?") {
			t.Error(err)
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	}
}

// TestStageCommands runs single stages: a reader into a writer and back, in each
// format that can be read again.
func TestStageCommands(t *testing.T) {
	dir := t.TempDir()
	run := func(in []byte, args ...string) []byte {
		t.Helper()
		cmd := mediad(t.Context(), append([]string{"stage"}, args...)...)
		cmd.Stdin = bytes.NewReader(in)
		var problem bytes.Buffer
		cmd.Stderr = &problem
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("stage %v: %v: %s", args, err, &problem)
		}
		return out
	}
	want := run(nil, "run", "reader-disk", "root=media", "sample.flv", "--from", "5s")
	if !bytes.HasPrefix(want, []byte("header video=h264:")) || !bytes.Contains(want, []byte("  video key dts=4000 ")) {
		t.Errorf("from 5s: %.200s", want)
	}
	for _, format := range []string{"flv", "json"} {
		film := run(nil, "run", "reader-disk", "root=media", "sample.flv", "--from", "5s", "--format", format)
		run(film, "run", "writer-disk", "root="+dir, format+".flv")
		back := run(nil, "run", "reader-disk", "root="+dir, format+".flv")
		through := run(film, "run", "cache", "film")
		// The recording begins at 0, so its times are others, its frames are not.
		if got, want := hashesOf(back), hashesOf(want); got != want {
			t.Errorf("%s: the frames recorded are not those read:\n%.300s\nwant\n%.300s", format, got, want)
		}
		if got, want := hashesOf(through), hashesOf(want); got != want {
			t.Errorf("%s: the frames through the cache are not those read", format)
		}
	}
	if out := run(nil, "list"); !bytes.Contains(out, []byte("reader-disk")) {
		t.Errorf("list: %s", out)
	}
	if out := run(nil, "describe", "broadcast"); !bytes.Contains(out, []byte("window")) {
		t.Errorf("describe: %s", out)
	}
	if out := run(nil, "test", "broker"); bytes.Contains(out, []byte("FAIL")) || bytes.Count(out, []byte("ok ")) < 10 {
		t.Errorf("test: %s", out)
	}
}

var hash = regexp.MustCompile(`hash=\w+`)

func hashesOf(lines []byte) string { return string(bytes.Join(hash.FindAll(lines, -1), []byte("\n"))) }
