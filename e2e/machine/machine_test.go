package machine

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNothingStays: what a machine writes and removes stays its own, in /tmp and in its folder too, and what it is
// shown it cannot change.
func TestNothingStays(t *testing.T) {
	dir, shown := t.TempDir(), t.TempDir()
	for _, folder := range []string{dir, shown} {
		if err := os.WriteFile(filepath.Join(folder, "here"), []byte("as it was\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := New(t, dir, shown)
	for _, test := range []struct {
		line  string
		fails bool
	}{
		{"cat here " + shown + "/here", false},
		{"rm here && touch new /tmp/mediad-stays", false},
		{"rm " + shown + "/here || touch " + shown + "/new", true},
		{"test $(ls -d /proc/[0-9]* | wc -l) -lt 10", false},
	} {
		if out, err := m.Command(test.line).CombinedOutput(); (err != nil) != test.fails {
			t.Errorf("%s: %v: %s", test.line, err, out)
		}
	}
	for _, path := range []string{filepath.Join(dir, "here"), filepath.Join(shown, "here")} {
		if text, err := os.ReadFile(path); err != nil || string(text) != "as it was\n" {
			t.Errorf("%s: %v: %q", path, err, text)
		}
	}
	for _, path := range []string{filepath.Join(dir, "new"), filepath.Join(shown, "new"), "/tmp/mediad-stays"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s stays", path)
		}
	}
}
