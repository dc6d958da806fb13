// docs/cluster.md and examples/cluster, run as they stand.

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/page"
)

// A reader of the page has the machines that its prompts name: a to h, and one without a name.
type reader struct {
	t     *testing.T
	hosts map[string]*host
	dirs  map[string]string
}

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
	page.Follow(t, "../../docs/cluster.md", page.Rules{"yaml": r.file, "sh": r.run})
}

// file gives a file to all machines; one that the example has must be that.
func (r *reader) file(b page.Block) {
	r.t.Helper()
	for _, dir := range r.dirs {
		path := filepath.Join(dir, b.File)
		if have, err := os.ReadFile(path); err == nil {
			if string(have) != b.Text {
				r.t.Errorf("%s: %s of the example is another one", b, b.File)
			}
		} else if err := os.WriteFile(path, []byte(b.Text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

// run runs the commands of a block, and compares what they print with the lines that
// follow. What the nodes tell may take some time to be so.
func (r *reader) run(b page.Block) {
	r.t.Helper()
	for _, c := range b.Commands() {
		if c.Starts {
			r.start(c.Host, c.Text)
			continue
		}
		if strings.Contains(c.Text, "openssl") {
			defer r.certificates()
		}
		eventually(r.t, c.String(), func() error {
			out, err := r.sh(c.Host, c.Text)
			if !page.Matches(out, c.Output) || err != nil && c.Output == "" {
				return fmt.Errorf("%v: it prints\n%s\nthe page has\n%s", err, out, c.Output)
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
