// The house rule: imports run one way.

package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// mayImport lists, for the packages below a folder, which of the module's folders
// they may import from. The first line that fits counts.
var mayImport = []struct {
	folder string
	may    []string
}{
	{"core/media", nil},
	{"core", []string{"core"}},
	{"pipeline/plugin", []string{"core", "pipeline/plugin"}},
	{"pipeline", []string{"core", "pipeline"}},
	{"plugins", []string{"core", "pipeline/plugin"}},
	{"cmd", []string{"core", "pipeline", "plugins"}},
	{"examples", []string{"core", "pipeline"}},
}

func TestImportsRunOneWay(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; packages++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, path := range p.Imports {
			if why := forbidden(strings.TrimPrefix(p.ImportPath, module+"/"), path); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, path, why)
			}
		}
	}
	if packages < 10 {
		t.Errorf("only %d packages were found", packages)
	}
}

// forbidden says why the package in a folder may not import path.
func forbidden(folder, path string) string {
	own, inModule := strings.CutPrefix(path, module+"/")
	outside := !inModule && strings.Contains(path, ".")
	switch {
	case outside && within(folder, "core/media"):
		return "core/media imports the standard library only"
	case within(folder, "core") && strings.Contains(path, "yaml"):
		return "core knows no YAML"
	case within(folder, "core") && path == "os/exec":
		return "core knows no processes"
	case !inModule, folder == own+"/plugin": // the main of a plugin
		return ""
	}
	for _, rule := range mayImport {
		if !within(folder, rule.folder) {
			continue
		}
		for _, may := range rule.may {
			if within(own, may) {
				return ""
			}
		}
		return rule.folder + " may import from: " + strings.Join(rule.may, ", ")
	}
	return ""
}

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}
