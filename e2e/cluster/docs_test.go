// docs/cluster.md and examples/cluster, run as they stand.

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const page = "../../docs/cluster.md"

// A fence is a block of the page: ```LANGUAGE FILE.
type fence struct {
	line           int
	language, file string
	text           string
}

func fences(t *testing.T) (list []fence) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var now *fence
	for i, line := range strings.SplitAfter(string(text), "\n") {
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

// A reader of the page has the machines that its prompts name: a to h, and one without a name.
type reader struct {
	t     *testing.T
	hosts map[string]*host
	dirs  map[string]string
}

// prompt is before each command; the machine is the letter.
var prompt = regexp.MustCompile(`(?m)^([a-h]?)\$ `)

func TestDocument(t *testing.T) {
	t.Parallel()
	r := &reader{t: t, hosts: map[string]*host{}, dirs: map[string]string{}}
	l := newLab(t, 9)
	for i, name := range []string{"", "a", "b", "c", "d", "e", "f", "g", "h"} {
		h := l.hosts[i]
		r.hosts[name], r.dirs[name] = h, t.TempDir()
		if name != "" {
			h.do("ip", "-n %s address add 10.0.0.%d/24 dev nodes", h.netns, i)
		}
		if err := os.Mkdir(filepath.Join(r.dirs[name], "media"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	example, err := filepath.Abs("../../examples/cluster")
	if err != nil {
		t.Fatal(err)
	}
	r.sh("", "cp "+example+"/* .")
	did := map[string]int{}
	for _, f := range fences(t) {
		did[f.language]++
		switch f.language {
		case "yaml":
			r.file(f)
		case "sh":
			r.run(f)
		default:
			t.Errorf("%s:%d: a block of %q is neither a file nor run", page, f.line, f.language)
		}
	}
	if did["yaml"] < 4 || did["sh"] < 8 {
		t.Errorf("the page has only these blocks: %v", did)
	}
}

// file gives a file to all machines; one that the example has must be that.
func (r *reader) file(f fence) {
	r.t.Helper()
	for _, dir := range r.dirs {
		path := filepath.Join(dir, f.file)
		if have, err := os.ReadFile(path); err == nil {
			if string(have) != f.text {
				r.t.Errorf("%s:%d: %s of the example is another one", page, f.line, f.file)
			}
		} else if err := os.WriteFile(path, []byte(f.text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

// run runs the commands of a block, and compares what they print with the lines that
// follow. What the nodes tell may take some time to be so.
func (r *reader) run(f fence) {
	r.t.Helper()
	at := prompt.FindAllStringSubmatchIndex(f.text, -1)
	for i, m := range at {
		end := len(f.text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		machine := f.text[m[2]:m[3]]
		command, want, _ := strings.Cut(f.text[m[1]:end], "\n")
		if words, ok := strings.CutSuffix(command, " &"); ok {
			r.start(machine, words)
			continue
		}
		if strings.Contains(command, "openssl") {
			defer r.certificates()
		}
		eventually(r.t, fmt.Sprintf("%s:%d: %s", page, f.line, command), func() error {
			out, err := r.sh(machine, command)
			if !matches(out, want) || err != nil && want == "" {
				return fmt.Errorf("%v: it prints\n%s\nthe page has\n%s", err, out, want)
			}
			return nil
		})
	}
}

// sh runs a command on a machine.
func (r *reader) sh(machine, command string) (string, error) {
	out, err := r.command(machine, command).CombinedOutput()
	return string(out), err
}

func (r *reader) command(machine, line string) *exec.Cmd {
	cmd := r.hosts[machine].command("sh", "-c", "mount --bind /dev/null /proc/stat; mount --bind /dev/null /proc/diskstats; "+line)
	cmd.Dir = r.dirs[machine]
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	return cmd
}

// start starts what runs until the test ends.
func (r *reader) start(machine, line string) {
	r.t.Helper()
	out := &log{}
	cmd := r.command(machine, line)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait()
		timer.Stop()
		if r.t.Failed() {
			r.t.Logf("%s$ %s printed\n%s", machine, line, out)
			for _, name := range []string{"a", "b", "c"} {
				if text, err := os.ReadFile(filepath.Join(r.dirs[machine], name, "log")); err == nil {
					r.t.Logf("its %s/log:\n%s", name, text)
				}
			}
		}
	})
}

// certificates gives the three machines theirs, as the page says.
func (r *reader) certificates() {
	r.t.Helper()
	for i, machine := range []string{"a", "b", "c"} {
		for name, as := range map[string]string{"ca.crt": "ca.crt", fmt.Sprintf("%d.crt", i+1): "node.crt", fmt.Sprintf("%d.key", i+1): "node.key"} {
			text, err := os.ReadFile(filepath.Join(r.dirs[""], name))
			if err == nil {
				err = os.WriteFile(filepath.Join(r.dirs[machine], as), text, 0o600)
			}
			if err != nil {
				r.t.Fatal(err)
			}
		}
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
