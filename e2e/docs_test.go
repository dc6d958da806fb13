package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/page"
)

// elsewhere are the pages that have a test of their own: TestPluginsDocument in cmd/mediad, TestDocument in
// e2e/cluster; and those without a command.
var elsewhere = []string{"plugins.md", "cluster.md", "cluster-figures.md", "soak.md", "stages.md"}

// TestDocuments does what stands in README.md and docs, page by page, each on a machine of its own: what has a
// prompt is run and what it prints compared, files that have a name are written, URLs in pages asked for. Blocks
// of "console" are what cannot be done here; cmd/mediad checks them, as it does all files.
func TestDocuments(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(err, "no documents")
	}
	for _, path := range append(pages, "../README.md") {
		name := filepath.Base(path)
		if slices.Contains(elsewhere, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			nothing := func(page.Block) {}
			page.Follow(t, path, page.Rules{
				"sh": m.run, "yaml": m.file, "html": m.html, "log": m.logged, "nginx": m.nginx,
				"console": nothing, "json": nothing, "ini": nothing,
			})
		})
	}
}

// A machine is one for a reader of a page: this one with a network, processes and a copy of the source of its own,
// so that the ports are free, a page may kill what it has started, and nothing stays.
type machine struct {
	t      *testing.T
	root   string // of the source
	bin    string // programs that go before this machine's
	init   int    // the process that keeps it
	daemon *log   // of the one that was started last
}

// watched is ffplay for some seconds and without a screen; it is content when the time of what it plays advances.
const watched = `#!/bin/sh
out=$(SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy timeout 5 /usr/bin/ffplay -v error -stats "$@" 2>&1 </dev/null | tr '\r' '\n')
echo "$out" | grep -qE '^ *[0-9]+\.[0-9]+ (A-V|M-V|M-A):' || { echo "$out" | tail -3; exit 1; }
`

func newMachine(t *testing.T) *machine {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, root: root, bin: t.TempDir(), daemon: &log{}}
	for _, err := range []error{
		os.WriteFile(filepath.Join(m.bin, "ffplay"), []byte(watched), 0o755),
		os.Symlink(binary, filepath.Join(m.bin, "mediad")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	layer := t.TempDir()
	keep := exec.Command("sh", "-ec", fmt.Sprintf(`mount --make-rprivate /
		mount -t proc proc /proc
		mount -t tmpfs tmpfs %[2]s
		mkdir %[2]s/up %[2]s/work
		mount -t overlay overlay -o lowerdir=%[1]s,upperdir=%[2]s/up,workdir=%[2]s/work %[1]s
		cd %[1]s
		rm -rf media/recordings plugins.d mediad
		ip link set lo up
		echo ready
		exec sleep infinity`, root, layer))
	keep.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	out := &log{}
	keep.Stdout, keep.Stderr = out, out
	if err := keep.Start(); err != nil {
		t.Fatalf("a machine of its own, which needs root: %v", err)
	}
	t.Cleanup(func() {
		_ = keep.Process.Kill() // and with it all that runs there
		_ = keep.Wait()
	})
	m.init = keep.Process.Pid
	eventually(t, "the machine is up", func() error {
		if text := out.String(); text != "ready\n" {
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
	return m
}

// command is one that runs on the machine, in the folder of the source.
func (m *machine) command(line string) *exec.Cmd {
	cmd := exec.Command("nsenter", "-t", fmt.Sprint(m.init), "-n", "-m", "-p", "sh", "-c", "cd "+m.root+" && "+line)
	cmd.Env = append(os.Environ(), "PATH="+m.bin+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// run runs the commands of a block. What a daemon tells may take some time to be so.
func (m *machine) run(b page.Block) {
	m.t.Helper()
	for _, c := range b.Commands() {
		if c.Starts {
			m.start(c)
			continue
		}
		eventually(m.t, c.String(), func() error {
			out, err := m.command(c.Text).CombinedOutput()
			if !page.Matches(string(out), c.Output) || err != nil && c.Output == "" {
				return fmt.Errorf("%v: it prints\n%s\nthe page has\n%s", err, out, c.Output)
			}
			return nil
		})
	}
}

// start starts what runs until the test ends.
func (m *machine) start(c page.Command) {
	m.t.Helper()
	out := &log{}
	cmd := m.command(c.Text)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	daemon := strings.Contains(c.Text, "mediad")
	if daemon {
		m.daemon = out
	}
	m.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait()
		timer.Stop()
		if m.t.Failed() || bytes.Contains([]byte(out.String()), []byte("DATA RACE")) {
			m.t.Errorf("%s prints\n%s", c, out)
		}
	})
	if daemon {
		eventually(m.t, c.String()+" is healthy", func() error {
			out, err := m.command("curl -sf http://localhost:8080/healthz").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s\n%s", err, out, m.daemon)
			}
			return nil
		})
	}
}

// file writes a file that has a name. What stands in one without a name is for the eye, and checked by cmd/mediad.
func (m *machine) file(b page.Block) {
	m.t.Helper()
	if b.File == "" {
		return
	}
	cmd := m.command("cat > " + b.File)
	cmd.Stdin = strings.NewReader(b.Text)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v: %s", b, err, out)
	}
}

var localURL = regexp.MustCompile(`http://localhost:8080/[^\s"'<>]+`)

// html asks for what a page plays.
func (m *machine) html(b page.Block) {
	m.t.Helper()
	urls := localURL.FindAllString(b.Text, -1)
	if len(urls) == 0 {
		m.t.Errorf("%s plays nothing", b)
	}
	for _, url := range urls {
		eventually(m.t, b.String()+": "+url, func() error {
			out, _ := m.command("curl -s -o /dev/null -m 2 -w '%{http_code}' " + url).Output() // a channel has no end
			if string(out) != "200" {
				return fmt.Errorf("the answer is %s", out)
			}
			return nil
		})
	}
}

// logged waits for lines of the daemon's log, in any order.
func (m *machine) logged(b page.Block) {
	m.t.Helper()
	for want := range strings.Lines(b.Text) {
		eventually(m.t, b.String()+": "+want, func() error {
			for line := range strings.Lines(m.daemon.String()) {
				if page.Matches(line, want) {
					return nil
				}
			}
			return fmt.Errorf("the log has\n%s", m.daemon)
		})
	}
}

// nginx has nginx check a file of its own.
func (m *machine) nginx(b page.Block) {
	m.t.Helper()
	b.File = "nginx.conf"
	b.Text = "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\nevents {}\n" + b.Text
	m.file(b)
	if out, err := m.command("nginx -t -p . -c nginx.conf -g 'pid nginx.pid; error_log stderr;'").CombinedOutput(); err != nil {
		m.t.Errorf("%s: %v: %s", b, err, out)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestDocumentsLinks checks that what the documents refer to is there.
func TestDocumentsLinks(t *testing.T) {
	pages, err := filepath.Glob("../*/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(err, "no documents")
	}
	for _, path := range append(pages, "../README.md", "../ARCHITECTURE.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			to := path
			if file != "" {
				to = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(t, to), anchor) {
				t.Errorf("%s: %s: there is no such heading", path, m[1])
			}
		}
	}
}

// anchors are what the headings of a page are called in links.
func anchors(t *testing.T, path string) (list []string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		list = append(list, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return list
}
