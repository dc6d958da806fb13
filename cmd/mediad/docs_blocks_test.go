// What the documents show, as far as it can be said without running it (e2e/docs_test.go does that):
// files are right, the programs of commands are known, and these know the flags.

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mediad/mediad/e2e/page"
	"github.com/mediad/mediad/pipeline"
	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"
)

// runWhole are pages that another test runs from their first block to the last.
var runWhole = []string{"cluster.md", "plugins.md"}

func TestDocuments(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, path := range append(pages, "../../README.md", "../../examples/cluster/README.md") {
		if slices.Contains(runWhole, filepath.Base(path)) {
			continue
		}
		for _, b := range page.Read(t, path) {
			if err := checked(b); err != nil {
				t.Errorf("%s: %v", b, err)
			}
			seen[b.Language]++
		}
	}
	for _, language := range []string{"yaml", "sh", "console", "json", "ini"} {
		if seen[language] == 0 {
			t.Errorf("no document has a block of %q: %v", language, seen)
		}
	}
}

// checked says what is wrong with a block. Languages that it does not know are left to e2e.
func checked(b page.Block) error {
	switch b.Language {
	case "yaml":
		return checkYAML(b)
	case "json":
		if !json.Valid([]byte(b.Text)) {
			return errors.New("this is no JSON")
		}
	case "ini":
		return checkSysctl(b)
	case "sh", "console":
		commands := b.Lines()
		if b.Language == "sh" {
			commands = b.Commands()
		}
		var errs []error
		for _, c := range commands {
			for _, words := range page.Programs(c.Text) {
				if err := checkProgram(words); err != nil {
					errs = append(errs, fmt.Errorf("line %d: %s: %w", c.Line, strings.Join(words, " "), err))
				}
			}
		}
		return errors.Join(errs...)
	}
	return nil
}

// checkYAML checks a pipelines.yaml: a whole one, or what stands in the place of the shipped one's. Files of
// other programs have their names.
func checkYAML(b page.Block) error {
	var part map[string]any
	if err := yaml.Unmarshal([]byte(b.Text), &part); err != nil {
		return err
	}
	switch b.File {
	case "mediamtx.yml", "prometheus.yml", "alerts.yml": // the last is checked beside the metrics, in e2e/console
		return nil
	}
	text := []byte(b.Text)
	if part["version"] == nil {
		shipped, err := os.ReadFile("../../pipelines.yaml")
		if err != nil {
			return err
		}
		var whole map[string]any
		if err := yaml.Unmarshal(shipped, &whole); err != nil {
			return err
		}
		lines, _ := part["pipelines"].(map[string]any)
		maps.Copy(whole["pipelines"].(map[string]any), lines)
		delete(part, "pipelines")
		maps.Copy(whole, part)
		if text, err = yaml.Marshal(whole); err != nil {
			return err
		}
	}
	_, err := pipeline.Parse(b.Page, text, pipeline.Kinds(kinds(nil, nil)), func(string) (string, bool) { return "", false })
	return err
}

// checkSysctl checks that the kernel has what is set.
func checkSysctl(b page.Block) error {
	for line := range strings.Lines(b.Text) {
		name, _, _ := strings.Cut(line, " = ")
		if _, err := os.Stat("/proc/sys/" + strings.ReplaceAll(name, ".", "/")); err != nil {
			return err
		}
	}
	return nil
}

// others are programs that the documents may name and that are not looked into.
var others = strings.Fields("apt-get cat cd curl docker dpkg ethtool find git grep gst-launch-1.0 head journalctl ln ls mkdir mpstat mpv " +
	"nft nginx nstat openssl pkill rtmpdump sed sleep ss sysctl systemctl tar tc vlc")

// checkProgram checks one program with its arguments.
func checkProgram(words []string) error {
	switch words[0] {
	case "sudo":
		return checkProgram(words[1:])
	case "mediad", "./mediad", "./bin/mediad", "./start":
		if words[0] == "./start" { // which runs it, see examples/cluster
			return nil
		}
		return checkMediad(words[1:])
	case "go":
		if len(words) > 2 && words[1] == "run" && words[2] == "./cmd/mediad" {
			return checkMediad(words[3:])
		}
		return checkPackages(words[1:])
	case "make":
		return checkTarget(words[1:])
	case "ffmpeg", "ffplay", "ffprobe":
		return checkFlags(words)
	}
	if !slices.Contains(others, words[0]) {
		return errors.New("this program is not known here")
	}
	return nil
}

// checkMediad has mediad's own commands find the command, its flags and its arguments.
func checkMediad(args []string) error {
	cmd, rest, err := root().Find(args)
	if err != nil {
		return err
	}
	if !cmd.Runnable() || !cmd.HasParent() {
		return errors.New("there is no such command")
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if cmd.Args == nil {
		return cobra.NoArgs(cmd, cmd.Flags().Args())
	}
	return cmd.Args(cmd, cmd.Flags().Args())
}

// checkPackages checks that the packages are there which go is to work on.
func checkPackages(args []string) error {
	for _, arg := range args {
		if folder, ok := strings.CutPrefix(strings.TrimSuffix(arg, "/..."), "./"); ok {
			if _, err := os.Stat("../../" + folder); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTarget checks that the Makefile has a target.
func checkTarget(args []string) error {
	text, err := os.ReadFile("../../Makefile")
	if err == nil && len(args) > 0 && !bytes.Contains(text, []byte("\n"+args[0]+":")) {
		err = errors.New("the Makefile has no such target")
	}
	return err
}

// flagsOf are those that a program of ffmpeg's explains.
var flagsOf = sync.OnceValues(func() (map[string]bool, error) {
	flags := map[string]bool{"ffmpeg i": true} // which it explains in no list
	for _, program := range []string{"ffmpeg", "ffplay", "ffprobe"} {
		text, err := exec.Command(program, "-hide_banner", "-h", "full").Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", program, err)
		}
		for _, m := range regexp.MustCompile(`(?m)^ *-([a-zA-Z0-9_-]+)`).FindAllSubmatch(text, -1) {
			flags[program+" "+string(m[1])] = true
		}
	}
	return flags, nil
})

// checkFlags checks the flags of ffmpeg, ffplay or ffprobe.
func checkFlags(words []string) error {
	flags, err := flagsOf()
	if err != nil {
		return err
	}
	for _, word := range words[1:] {
		flag, ok := strings.CutPrefix(word, "-")
		flag, _, _ = strings.Cut(flag, ":") // of which stream
		if ok && flag != "" && !strings.ContainsAny(flag[:1], "0123456789") && !flags[words[0]+" "+flag] {
			return fmt.Errorf("-%s is none of its flags", flag)
		}
	}
	return nil
}

// TestDocuments_Wrong checks that the checks find something.
func TestDocuments_Wrong(t *testing.T) {
	for _, b := range []page.Block{
		{Language: "yaml", Text: "version: 1\npipelines: {a: [{use: reader-disc}]}\n"},
		{Language: "yaml", Text: "listen: {rtpm: \":1935\"}\n"},
		{Language: "yaml", Text: "pipelines:\n  live: [{use: ingest, with: {app: live, kye: x}}]\n"},
		{Language: "json", Text: "{...}"},
		{Language: "ini", Text: "net.core.no_such = 1\n"},
		{Language: "console", Text: "frobnicate x\n"},
		{Language: "console", Text: "mediad runn\n"},
		{Language: "console", Text: "mediad run --fast\n"},
		{Language: "console", Text: "mediad run now\n"},
		{Language: "console", Text: "ls; sudo mediad stage describe\n"},
		{Language: "sh", Text: "$ ffmpeg -i x -no_such_flag 1 y\n"},
		{Language: "sh", Text: "$ make nothing\n"},
		{Language: "sh", Text: "$ go test ./nowhere/...\n"},
	} {
		if err := checked(b); err == nil {
			t.Errorf("%q is found right", b.Text)
		}
	}
}
