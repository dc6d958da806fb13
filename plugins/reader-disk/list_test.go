package readerdisk

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

func TestList(t *testing.T) {
	root := t.TempDir()
	for i, name := range []string{"old.flv", "shows/a/new.mp4", "notes.txt", "shows/.part"} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, make([]byte, 10+i), 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 1, 1+i, 0, 0, 0, 0, time.UTC)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"away.flv", "shows/up.flv"} { // what leads out is not listed
		if err := os.Symlink("/etc/passwd", filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := newReader(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, Settings{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i].Modified = list[i].Modified.UTC()
	}
	want := []media.Entry{
		{Name: "shows/a/new.mp4", Size: 11, Modified: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)},
		{Name: "old.flv", Size: 10, Modified: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
	}
	if !slices.Equal(list, want) {
		t.Errorf("got  %v\nwant %v", list, want)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if _, err := r.List(t.Context()); err == nil {
		t.Error("a folder that is gone was listed")
	}
}
