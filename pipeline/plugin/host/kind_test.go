package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin/internal/film"
)

// TestKind checks that a plugin's kind is as the kind itself, in all that is said of it.
func TestKind(t *testing.T) {
	got, err := newKind(t.Context(), Binary{Path: filmPath}, quick, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	want := film.Kind()
	if got.Name != want.Name || got.Summary != want.Summary || got.Ports != want.Ports {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !reflect.DeepEqual(got.Describe(), want.Describe()) {
		t.Errorf("got  %+v\nwant %+v", got.Describe(), want.Describe())
	}
}

func TestSettings(t *testing.T) {
	kind, err := newKind(t.Context(), Binary{Path: filmPath}, quick, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range map[string]map[string]any{
		"size": {"size": "many"}, "tick": {"tick": "5"}, "gops": {"gops": "x"}, "rot": {"rot": "1"},
	} {
		_, err := kind.Decode(values)
		var wrong *stage.SettingError
		if !errors.As(err, &wrong) || wrong.Setting != name {
			t.Errorf("%v: %v", values, err)
		}
	}
	set := map[string]any{"size": "3KiB", "tick": "1d", "gops": "7", "tags": []string{"x", "y z"}, "once": "a, b"}
	decoded, err := kind.Decode(set)
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]any{}
	for name, v := range toValues(decoded, kind.Settings()) {
		text[name] = v.Text[0]
		if name == "tags" {
			text[name] = v.Text
		}
	}
	got, err := film.Kind().Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	want, err := film.Kind().Decode(set)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the plugin has %+v, want %+v, %v", got, want, err)
	}
}

func TestDiscover(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"reader-mine": 0o755, "README": 0o644, ".hidden": 0o755, "reader-other": 0o700} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	found, err := Discover(dir)
	want := []Binary{{Name: "reader-mine", Path: filepath.Join(dir, "reader-mine")}, {Name: "reader-other", Path: filepath.Join(dir, "reader-other")}}
	if err != nil || !reflect.DeepEqual(found, want) {
		t.Errorf("%v, %v, want %v", found, err, want)
	}
	if _, err := Discover(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestPin(t *testing.T) {
	file, err := os.ReadFile(filmPath)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(file)
	b := Binary{Path: filmPath, SHA256: hex.EncodeToString(sum[:])}
	if err := b.verify(); err != nil {
		t.Error(err)
	}
	b.SHA256 = b.SHA256[2:] + "00"
	contains(t, b.verify(), filmPath, b.SHA256, hex.EncodeToString(sum[:]))
}

func TestStartedByHand(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), filmPath).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "This is a plugin for mediad, the stage kind film") {
		t.Errorf("%v: %s", err, out)
	}
}
