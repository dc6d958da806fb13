// docs/plugins.md, run as it stands.

package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// A fence is a block of the page: ```LANGUAGE FILE.
type fence struct {
	line           int
	language, file string
	text           string
}

func fences(t *testing.T, path string) []fence {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []fence
	var now *fence
	for i, line := range strings.SplitAfter(string(page), "\n") {
		head, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && now == nil:
			language, file, _ := strings.Cut(head, " ")
			now = &fence{line: i + 1, language: language, file: file}
		case isFence:
			list = append(list, *now)
			now = nil
		case now != nil:
			now.text += line
		}
	}
	return list
}

// A reader of the page, and what is particular to the machine that it is read on.
type follower struct {
	t      *testing.T
	dir    string
	env    []string
	words  *strings.Replacer // what is written on the page, and what is done
	daemon *exec.Cmd
	log    *bufio.Scanner
	pid    string // of the plugin
}

func TestPluginsDocument(t *testing.T) {
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	rtmp, http := freeAddress(t), freeAddress(t)
	f := &follower{
		t:   t,
		dir: dir,
		env: append(os.Environ(), "GOBIN="+bin, "PATH="+bin+":"+os.Getenv("PATH")),
		words: strings.NewReplacer(
			"git clone https://github.com/mediad/mediad", "ln -s "+source+" mediad",
			`":1935"`, `"`+rtmp+`"`,
			"127.0.0.1:8080", http,
			"rtmp://localhost/", "rtmp://"+rtmp+"/",
		),
	}
	done := map[string]int{}
	for _, b := range fences(t, "../../docs/plugins.md") {
		done[b.language]++
		switch {
		case b.file != "":
			if err := os.WriteFile(filepath.Join(dir, b.file), []byte(f.words.Replace(b.text)), 0o600); err != nil {
				t.Fatal(err)
			}
		case b.language == "sh":
			f.run(b)
		case b.language == "log":
			f.logged(b)
		default:
			t.Errorf("docs/plugins.md:%d: a block of %q is neither a file nor run", b.line, b.language)
		}
	}
	if done["sh"] < 8 || done["go"] < 2 || done["yaml"] < 2 || done["log"] < 1 {
		t.Errorf("the page has only these blocks: %v", done)
	}
}

// run runs the commands of a block, the lines with "$ ", and compares what they print
// with the lines that follow. One with nothing after it must print nothing.
func (f *follower) run(b fence) {
	f.t.Helper()
	for _, part := range strings.Split("\n"+b.text, "\n$ ")[1:] {
		command, want, _ := strings.Cut(part, "\n")
		if words, ok := strings.CutSuffix(command, " &"); ok {
			f.start(strings.Fields(words))
			continue
		}
		cmd := exec.CommandContext(f.t.Context(), "sh", "-c", f.words.Replace(strings.ReplaceAll(command, "PID", f.pid)))
		cmd.Dir, cmd.Env = f.dir, f.env
		out, err := cmd.CombinedOutput()
		if err != nil && want == "" || !matches(string(out), want) {
			f.t.Fatalf("docs/plugins.md:%d: %s: %v: it prints\n%s\nthe page has\n%s", b.line, command, err, out, want)
		}
	}
}

// start starts the daemon, which runs until the test ends, and waits for its plugin.
func (f *follower) start(words []string) {
	f.t.Helper()
	f.daemon = exec.Command(filepath.Join(f.dir, "bin", words[0]), words[1:]...)
	f.daemon.Dir, f.daemon.Env = f.dir, f.env
	stderr, err := f.daemon.StderrPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.daemon.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = f.daemon.Process.Signal(syscall.SIGTERM)
		for f.log.Scan() { // to its end
		}
		if err := f.daemon.Wait(); err != nil {
			f.t.Error(err)
		}
	})
	f.log = bufio.NewScanner(stderr)
	f.until(func(line string) bool {
		pid := regexp.MustCompile(`plugin started: .*pid=(\d+)`).FindStringSubmatch(line)
		if pid != nil {
			f.pid = pid[1]
		}
		return pid != nil
	}, "plugin started")
}

// until reads the daemon's log up to a line.
func (f *follower) until(is func(line string) bool, what string) {
	f.t.Helper()
	for f.log.Scan() {
		if is(f.log.Text()) {
			return
		}
	}
	f.t.Fatalf("the daemon's log ends without %q", what)
}

// logged waits for the lines of a block in the daemon's log.
func (f *follower) logged(b fence) {
	f.t.Helper()
	for want := range strings.Lines(b.text) {
		f.until(func(line string) bool { return matches(line, want) }, want)
	}
}

// matches reports whether text is what the page has: "..." stands for anything in
// a line, and for any lines where it stands alone. Spaces are as wide as they like.
func matches(text, want string) bool {
	var pattern strings.Builder
	for line := range strings.Lines(want) {
		line = strings.Join(strings.Fields(line), " ")
		if line == "..." {
			pattern.WriteString(`(.*\n)*`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, `.*`) + `\n`)
	}
	var got strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintln(&got, strings.Join(strings.Fields(line), " "))
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(got.String())
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
