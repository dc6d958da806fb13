package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
	"github.com/mediad/mediad/e2e/machine"
	"github.com/mediad/mediad/e2e/page"
)

// elsewhere are the pages that have a test of their own: TestPluginsDocument in cmd/mediad, TestDocument in
// e2e/cluster; and those without a command.
var elsewhere = []string{"plugins.md", "cluster.md", "cluster-figures.md", "soak.md", "stages.md", "torture-run.md"}

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
			r := newReader(t)
			nothing := func(page.Block) {}
			page.Follow(t, path, page.Rules{
				"sh": r.run, "yaml": r.file, "html": r.html, "log": r.logged, "nginx": r.nginx,
				"console": nothing, "json": nothing, "ini": nothing,
			})
		})
	}
}

// A reader of a page has a machine to do on it what stands there.
type reader struct {
	t       *testing.T
	machine *machine.Machine
	bin     string   // programs that go before the machine's
	daemon  *lab.Log // of the one that was started last
}

// watched is ffplay for some seconds and without a screen; it is content when the time of what it plays advances.
const watched = `#!/bin/sh
out=$(SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy timeout 5 /usr/bin/ffplay -v error -stats "$@" 2>&1 </dev/null | tr '\r' '\n')
echo "$out" | grep -qE '^ *[0-9]+\.[0-9]+ (A-V|M-V|M-A):' || { echo "$out" | tail -3; exit 1; }
`

func newReader(t *testing.T) *reader {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, bin: t.TempDir(), daemon: &lab.Log{}}
	r.machine = machine.New(t, root, r.bin, built)
	for _, err := range []error{
		os.WriteFile(filepath.Join(r.bin, "ffplay"), []byte(watched), 0o755),
		os.Symlink(binary(), filepath.Join(r.bin, "mediad")),
		r.command("rm -rf media/recordings plugins.d mediad").Run(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *reader) command(line string) *exec.Cmd {
	cmd := r.machine.Command(line)
	cmd.Env = append(cmd.Env, "PATH="+r.bin+":"+os.Getenv("PATH"))
	return cmd
}

// run runs the commands of a block. What a daemon tells may take some time to be so.
func (r *reader) run(b page.Block) {
	r.t.Helper()
	for _, c := range b.Commands() {
		if c.Starts {
			r.start(c)
			continue
		}
		lab.Await(r.t, c.String(), func() error {
			out, err := r.command(c.Text).CombinedOutput()
			if !page.Matches(string(out), c.Output) || err != nil && c.Output == "" {
				return fmt.Errorf("%v: it prints\n%s\nthe page has\n%s", err, out, c.Output)
			}
			return nil
		})
	}
}

// start starts what runs until the test ends, and waits until a daemon is healthy.
func (r *reader) start(c page.Command) {
	r.t.Helper()
	if strings.HasPrefix(c.Text, "go run ") { // which compiles for as long as it takes
		if out, err := r.command("go build -o /dev/null ./cmd/mediad").CombinedOutput(); err != nil {
			r.t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
	out := r.machine.Start(r.t, r.command(c.Text))
	if !strings.Contains(c.Text, "mediad") {
		return
	}
	r.daemon = out
	r.t.Cleanup(func() {
		if strings.Contains(out.String(), "DATA RACE") {
			r.t.Error(out)
		}
	})
	lab.Await(r.t, c.String()+" is healthy", func() error {
		if said, err := r.command("curl -sf http://localhost:8080/healthz").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s\n%s", err, said, out)
		}
		return nil
	})
}

// file writes a file that has a name. What stands in one without a name is for the eye, and checked by cmd/mediad.
func (r *reader) file(b page.Block) {
	r.t.Helper()
	if b.File == "" {
		return
	}
	cmd := r.command("cat > " + b.File)
	cmd.Stdin = strings.NewReader(b.Text)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v: %s", b, err, out)
	}
}

var localURL = regexp.MustCompile(`http://localhost:8080/[^\s"'<>]+`)

// html asks for what a page plays.
func (r *reader) html(b page.Block) {
	r.t.Helper()
	urls := localURL.FindAllString(b.Text, -1)
	if len(urls) == 0 {
		r.t.Errorf("%s plays nothing", b)
	}
	for _, url := range urls {
		lab.Await(r.t, b.String()+": "+url, func() error {
			out, _ := r.command("curl -s -o /dev/null -m 2 -w '%{http_code}' " + url).Output() // a channel has no end
			if string(out) != "200" {
				return fmt.Errorf("the answer is %s", out)
			}
			return nil
		})
	}
}

// logged waits for lines of the daemon's log, in any order.
func (r *reader) logged(b page.Block) {
	r.t.Helper()
	for want := range strings.Lines(b.Text) {
		lab.Await(r.t, b.String()+": "+want, func() error {
			for line := range strings.Lines(r.daemon.String()) {
				if page.Matches(line, want) {
					return nil
				}
			}
			return fmt.Errorf("the log has\n%s", r.daemon)
		})
	}
}

// nginx has nginx check a file of its own.
func (r *reader) nginx(b page.Block) {
	r.t.Helper()
	b.File = "nginx.conf"
	b.Text = "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\nevents {}\n" + b.Text
	r.file(b)
	if out, err := r.command("nginx -t -p . -c nginx.conf -g 'pid nginx.pid; error_log stderr;'").CombinedOutput(); err != nil {
		r.t.Errorf("%s: %v: %s", b, err, out)
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
