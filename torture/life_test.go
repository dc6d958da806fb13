// Numbers 66 to 72: configuration and life.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/lab"
)

func TestTorments_Life(t *testing.T) {
	t.Parallel()
	open(t, "").suffer(t, []ordeal{
		{66, "Typo", refusedFile("\n  x:\n    - use: stream\n      with: {ap: x}\n", ":29:14: ", `did you mean "app"?`), "", "", false},
		{67, "ManyMistakes", refusedFile(mistakes, "cache_size", "lots", "nothing-like-it", "y is given twice", "cycle: u/cache needs itself"), "", "", false},
		{68, "AliasBomb", refusedFile(bomb(), "alias"), "", "", false},
		{68, "TenMegabytes", refusedFile(strings.Repeat("# nothing\n", 1<<20), "more than 1048576 bytes"), "", "", false},
		{69, "WrongReload", wrongReload, "reload refused", "mediad_reloads_refused_total", false},
		{70, "RightReload", rightReload, "", "", false},
		{72, "OtherOrigins", otherOrigins, "request refused", "mediad_api_refused_total", false},
	})
}

const mistakes = `
  x:
    - use: cache
      with: {memory: lots, cache_size: 1}
  y:
    - use: nothing-like-it
  y:
    - use: stream
  u: [{from: v}, {use: cache}]
  v: [{from: u}, {use: cache}]
`

func bomb() string {
	text := "\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		text += fmt.Sprintf("  a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), ", "))
	}
	return text
}

// refusedFile has a file checked that must be refused with these words.
func refusedFile(rest string, words ...string) func(*testing.T, *house) {
	return func(t *testing.T, h *house) {
		must(t, os.WriteFile(h.Path("wrong.yaml"), []byte("version: 1\nlisten: {}\n"+healthy+rest), 0o644))
		began := time.Now()
		out, code := h.Command("check", "-c", "wrong.yaml")
		if code != 2 || time.Since(began) > 20*time.Second {
			t.Errorf("exit code %d after %v", code, time.Since(began))
		}
		for _, word := range words {
			if !strings.Contains(out, word) {
				t.Errorf("%q is missing in what is said:\n%.2000s", word, out)
			}
		}
		t.Logf("saw: %.300s; ", strings.ReplaceAll(strings.TrimSpace(out), "\n", " / "))
	}
}

// wrongReload writes a wrong file, which is refused, and the right one again.
func wrongReload(t *testing.T, h *house) {
	must(t, h.Configure("pipelines: {x: [{use: nothing}]}"))
	if err := h.Reload(); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("a wrong file: %v", err)
	}
	must(t, h.Configure(healthy))
	must(t, h.Reload())
}

// rightReload adds a pipeline, changes it, and removes it again.
func rightReload(t *testing.T, h *house) {
	more := "  more:\n    - from: on-demand/reader-disk\n    - use: cache\n      with: {memory: %dMiB}\n    - use: stream\n      with: {app: more}\n"
	for i := range 3 {
		must(t, h.Configure(healthy+fmt.Sprintf(more, 16+i)))
		must(t, h.Reload())
		if s := h.played(t, "more/healthy.flv"); s.unbroken() != filmFrames {
			t.Errorf("the new pipeline plays %d frames, %s", s.unbroken(), s.end)
		}
	}
	must(t, h.Configure(healthy))
	must(t, h.Reload())
}

// otherOrigins asks as a web page of another host would.
func otherOrigins(t *testing.T, h *house) {
	for _, change := range []func(*http.Request){
		func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		func(r *http.Request) { r.Host = "evil.example" },
	} {
		for path, method := range map[string]string{"/api/channels": http.MethodGet, "/api/reload": http.MethodPost} {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.HTTP+path, nil)
			must(t, err)
			change(req)
			resp, err := http.DefaultClient.Do(req)
			must(t, err)
			body, err := io.ReadAll(resp.Body)
			must(t, errors.Join(err, resp.Body.Close()))
			if resp.StatusCode != http.StatusForbidden || !bytes.Contains(body, []byte("evil.example")) {
				t.Errorf("%s with host %s and %v: %s %s", method, req.Host, req.Header, resp.Status, body)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// SIGTERM stops accepting at once, ends live viewers, finishes recordings, and gives
// those who watch a film the drain.
func TestT71_Stops(t *testing.T) {
	t.Parallel()
	h := open(t, "")
	sent := h.publisher.Sent()
	began := time.Now()
	h.Signal(syscall.SIGTERM)
	must(t, lab.Eventually(10*time.Second, func() error {
		r, err := h.Raw(host)
		if err == nil {
			_ = r.Close()
			return fmt.Errorf("it still accepts")
		}
		return nil
	}))
	select {
	case <-h.Exited():
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	if err := h.Stop(); err != nil {
		t.Errorf("it ends with %v", err)
	}
	if n := recorded(t, h.recordings(t, "recordings", "healthy", 1)[0], 0); n < sent {
		t.Errorf("%d frames are recorded, %d were sent before", n, sent)
	}
	t.Logf("saw: ended after %v with a drain of 2 s, the recording finished", time.Since(began).Round(10*time.Millisecond))
	_ = h.publisher.Close()
	for _, v := range append(h.viewers, h.film) {
		_ = v.Close()
	}
}
