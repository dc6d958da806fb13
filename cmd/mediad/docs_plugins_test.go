// docs/plugins.md, run as it stands.

package main

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/mediad/mediad/e2e/page"
)

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
	file := func(b page.Block) {
		if err := os.WriteFile(filepath.Join(dir, b.File), []byte(f.words.Replace(b.Text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	page.Follow(t, "../../docs/plugins.md", page.Rules{"go": file, "yaml": file, "sh": f.run, "log": f.logged})
}

// run runs the commands of a block, and compares what they print with the lines that follow. One
// with nothing after it must print nothing.
func (f *follower) run(b page.Block) {
	f.t.Helper()
	for _, c := range b.Commands() {
		if c.Starts {
			f.start(strings.Fields(c.Text))
			continue
		}
		cmd := exec.CommandContext(f.t.Context(), "sh", "-c", f.words.Replace(strings.ReplaceAll(c.Text, "PID", f.pid)))
		cmd.Dir, cmd.Env = f.dir, f.env
		out, err := cmd.CombinedOutput()
		if err != nil && c.Output == "" || !page.Matches(string(out), c.Output) {
			f.t.Fatalf("%s: %v: it prints\n%s\nthe page has\n%s", c, err, out, c.Output)
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
func (f *follower) logged(b page.Block) {
	f.t.Helper()
	for want := range strings.Lines(b.Text) {
		f.until(func(line string) bool { return page.Matches(line, want) }, want)
	}
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
