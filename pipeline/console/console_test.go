package console

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// get asks a console for a path.
func get(c *Console, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.Handler().ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, nil))
	return w
}

func assets(t *testing.T) (names []string) {
	t.Helper()
	entries, err := fs.ReadDir(static, "static")
	if err != nil || len(entries) < 5 {
		t.Fatal(err, entries)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestHandler_Pages(t *testing.T) {
	c := New(Options{Stages: newLab().stages})
	types := map[string]string{".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
	for _, name := range append(assets(t), "../..") {
		url, want := "/console/"+name, http.StatusOK
		switch name {
		case "index.html":
			url = "/"
		case "../..":
			url, want = "/console/..%2f..%2fconsole.go", http.StatusBadRequest
		}
		w := get(c, url)
		if w.Code != want {
			t.Errorf("%s: %d, want %d", url, w.Code, want)
		}
		h := w.Header()
		if csp := h.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'self'; media-src 'self' blob:;") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: Content-Security-Policy: %s", url, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: may be sniffed", url)
		}
		if got := h.Get("Content-Type"); want == http.StatusOK && !strings.HasPrefix(got, types[path.Ext(name)]) {
			t.Errorf("%s: Content-Type: %s", url, got)
		}
	}
	for url, want := range map[string]int{"/nothing": http.StatusNotFound, "/console/": http.StatusNotFound, "/api/media": http.StatusOK} {
		if w := get(c, url); w.Code != want {
			t.Errorf("%s: %d, want %d", url, w.Code, want)
		}
	}
}

// TestT17_AssetsAskNobodyElse checks that the page loads what is here alone, and makes
// no markup of texts.
func TestT17_AssetsAskNobodyElse(t *testing.T) {
	never := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setTimeout\(['"]|\sstyle=|\son[a-z]+=|<style|javascript:`)
	elsewhere := regexp.MustCompile(`(https?:)?//[a-z0-9.-]+\.[a-z]+`)
	local := regexp.MustCompile(`(?:src|href)="([^#"][^"]*)"|from '\./([^']+)'|fetch\('([^']+)'|EventSource\('([^']+)'`)
	names := assets(t)
	for _, name := range names {
		text, err := fs.ReadFile(static, "static/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if found := never.Find(text); found != nil {
			t.Errorf("%s has %q", name, found)
		}
		for _, url := range elsewhere.FindAll(text, -1) {
			if string(url) != "http://www.w3.org" { // the name of a namespace, which is not asked for
				t.Errorf("%s has %q", name, url)
			}
		}
		for _, m := range local.FindAllStringSubmatch(string(text), -1) {
			url := strings.Join(m[1:], "")
			if url != "/api/events" && url != "/api/media" && url != "/api/ticket?name=" && !slices.Contains(names, path.Base(url)) {
				t.Errorf("%s loads %s, which is not there", name, url)
			}
		}
	}
}

// watcher takes events as a browser does.
type watcher struct {
	*httptest.ResponseRecorder
	cancel context.CancelFunc
	done   chan struct{}
}

func watch(c *Console) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{httptest.NewRecorder(), cancel, make(chan struct{})}
	go func() {
		defer close(w.done)
		c.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/events", nil))
	}()
	return w
}

func (w *watcher) events() []string {
	return strings.SplitAfter(strings.TrimSuffix(w.Body.String(), "\n\n"), "\n\n")
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newLab()
		c := New(Options{Stages: lab.stages, Metrics: lab})
		ctx, stop := context.WithCancel(t.Context())
		go c.Serve(ctx)
		time.Sleep(4500 * time.Millisecond) // between two ticks
		if lab.looks != 0 {
			t.Errorf("%d snapshots were made for nobody", lab.looks)
		}
		first := watch(c)
		synctest.Wait()
		if n := len(first.events()); n != 1 {
			t.Fatalf("there are %d events at once, want 1", n)
		}
		second := watch(c)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := len(first.events()); n != 4 || lab.looks != 4 {
			t.Errorf("in 3 s there are %d events of %d snapshots, want 4", n, lab.looks)
		}
		if first.Body.String() != second.Body.String() {
			t.Error("two watchers see different events")
		}
		var s Snapshot
		data := strings.TrimPrefix(second.events()[2], "retry: 1000\ndata: ")
		if err := json.Unmarshal([]byte(data), &s); err != nil || s.Over != 1 || len(s.Stages) != len(lab.list) {
			t.Errorf("%v: %s", err, data)
		}
		first.cancel()
		<-first.done
		stop()
		<-second.done // it is ended with the console
	})
}

func TestEvents_TooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newLab()
		c := New(Options{Stages: lab.stages, Metrics: lab})
		var all []*watcher
		for range maxWatchers {
			all = append(all, watch(c))
		}
		synctest.Wait()
		if w := get(c, "/api/events"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one too many is answered %d %s", w.Code, w.Body)
		}
		for _, w := range all {
			w.cancel()
			<-w.done
		}
		if c.watchers != 0 {
			t.Errorf("%d watchers are left", c.watchers)
		}
	})
}

// TestT17_TextsStayTexts puts markup, and what would be another event, where texts come
// from outside. No channel can have such a name.
func TestT17_TextsStayTexts(t *testing.T) {
	const hostile = "<img src=x onerror=alert(1)>\n\ndata: {}\n\n</script>"
	if media.CheckName(hostile) == nil || media.CheckName("<img src=x onerror=alert(1)>") == nil {
		t.Error("markup is taken for a name")
	}
	lab := newLab()
	lab.list[0].State, lab.list[0].Err = pipeline.Failed, errors.New(hostile)
	c := New(Options{Stages: lab.stages, Metrics: lab, Host: hostile})
	c.publish(c.observer.look(time.Now()))
	event, _ := c.current()
	text := strings.TrimPrefix(strings.TrimSuffix(string(event), "\n\n"), "retry: 1000\ndata: ")
	if strings.ContainsAny(text, "\n<>") {
		t.Errorf("the event is cut or has markup: %s", text)
	}
	var s Snapshot
	if err := json.Unmarshal([]byte(text), &s); err != nil || s.Host != hostile || s.Stages[0].Error != hostile {
		t.Error(err, s.Host)
	}
}

func TestMedia(t *testing.T) {
	lab := newLab()
	c := New(Options{Stages: lab.stages, Metrics: prometheus.NewRegistry()})
	var shelves []Shelf
	w := get(c, "/api/media")
	if err := json.Unmarshal(w.Body.Bytes(), &shelves); err != nil || len(shelves) != 1 {
		t.Fatal(err, w.Body)
	}
	// Through the cache and the broker; the playout reads it too, but gives it another name.
	if s := shelves[0]; s.App.Name != "vod" || s.Stage != "on-demand/reader" || len(s.Entries) != 1 || s.Entries[0].Name != "film.flv" || s.Error != "one folder is missing" {
		t.Errorf("%+v", s)
	}
	get(c, "/api/media")
	if lab.lists != 1 {
		t.Errorf("the reader was asked %d times in a moment", lab.lists)
	}
}
