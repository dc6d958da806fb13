// mediad stage new: a folder in which to begin a stage of one's own.

package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/spf13/cobra"
)

//go:embed template
var template embed.FS

const module = "github.com/mediad/mediad"

var kindName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

func stageNewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "new NAME",
		Short:   "Make a folder with a reader of your own: go.mod, code, a test that passes",
		Example: "  mediad stage new reader-mine\n  cd reader-mine && go test ./... && go build -o ../plugins.d/ .",
		Args:    cobra.ExactArgs(1),
	}
	source := cmd.Flags().String("mediad", "", "a checkout of mediad to build against (default: the one this is run in, else the version of this program)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !kindName.MatchString(args[0]) {
			return fmt.Errorf("%q is no name of a kind: lower case letters, digits and dashes", args[0])
		}
		if err := begin(args[0], *source); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is begun. In it: go test ./... ; go build -o ../plugins.d/ . ; then `use: %s` in pipelines.yaml, with plugins: {dir: ./plugins.d}\n", args[0], args[0])
		return nil
	}
	return cmd
}

// begin makes the folder. It leaves an existing one alone.
func begin(name, source string) error {
	if err := os.Mkdir(name, 0o755); err != nil {
		return err
	}
	mod, err := modFile(name, source)
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	files := map[string][]byte{"go.mod": mod}
	for _, file := range []string{"main.go", "reader.go", "reader_test.go"} {
		text, err := template.ReadFile("template/" + file + ".txt")
		if err != nil {
			return err
		}
		files[file] = bytes.ReplaceAll(text, []byte("NAME"), []byte(name))
	}
	if source, ok := checkout(source); ok {
		if files["go.sum"], err = os.ReadFile(filepath.Join(source, "go.sum")); err != nil {
			return err
		}
	}
	var clip bytes.Buffer
	w := flv.NewWriter(&clip, 0)
	for _, b := range stagetest.Film(5, 200) {
		if err := w.Write(b); err != nil {
			return err
		}
	}
	files["testdata/clip.flv"] = clip.Bytes()
	if err := os.Mkdir(filepath.Join(name, "testdata"), 0o755); err != nil {
		return err
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(name, file), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// modFile makes the go.mod. Against a checkout it asks for what mediad itself
// asks for, so that it builds without a `go mod tidy`.
func modFile(name, source string) ([]byte, error) {
	dir, ok := checkout(source)
	if !ok {
		if v := version(); strings.HasPrefix(v, "v") {
			return fmt.Appendf(nil, "module %s\n\ngo 1.26\n\nrequire %s %s\n", name, module, v), nil
		}
		return nil, errors.New("this mediad has no version: say with --mediad where its source is")
	}
	own, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return nil, err
	}
	mod := strings.Replace(string(own), "module "+module+"\n", "module "+name+"\n", 1)
	return fmt.Appendf([]byte(mod), "\nrequire %s v0.0.0\n\nreplace %s => %s\n", module, module, dir), nil
}

// checkout finds mediad's source: at the path given, or around the working folder.
func checkout(given string) (dir string, ok bool) {
	dir, err := filepath.Abs(given)
	if err != nil {
		return "", false
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module "+module+"\n") {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if given != "" || parent == dir {
			return "", false
		}
		dir = parent
	}
}
