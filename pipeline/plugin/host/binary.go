// Package host is the daemon's side of plugins: it finds them, describes them as
// stage kinds, and runs them as stages. A stage that runs in a process of its own
// is started again when it fails, and what it was reading goes on where it was.
package host

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mediad/mediad/core/stage"
)

// A Binary is a program that serves one stage kind by plugin.Serve, or as
// stage.proto describes it.
type Binary struct {
	Name string // of the kind
	Path string
	Args []string
	// SHA256 is what the file must have, in hex; empty: anything.
	SHA256 string
	// Memory is how large the process may grow (resident set); 0: as large as it likes.
	Memory stage.Size
}

func (b Binary) String() string { return b.Path }

// Discover lists the executables in the folder dir, each a kind by the name of its
// file. Nothing is started.
func Discover(dir string) ([]Binary, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("plugins: %w", err)
	}
	var found []Binary
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path, err := filepath.Abs(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("plugins: %w", err)
		}
		info, err := os.Stat(path) // follows links
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		found = append(found, Binary{Name: e.Name(), Path: path})
	}
	return found, nil
}

// verify compares the file with its pin.
func (b Binary) verify() error {
	if b.SHA256 == "" {
		return nil
	}
	f, err := os.Open(b.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("%s: %w", b.Path, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, b.SHA256) {
		return fmt.Errorf("%s has the sha256 %s, but %s is wanted: it is another build, or was tampered with", b.Path, got, b.SHA256)
	}
	return nil
}

// passed are the variables that a plugin gets from the daemon's environment. All
// else that it should know are its settings.
var passed = []string{"PATH", "HOME", "TMPDIR", "TZ", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"}

func environment() []string {
	var env []string
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
