// A daemon on a host of the lab, and what its operator can ask.

package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A node is a mediad on a host, with a folder of its own.
type node struct {
	*host
	dir    string
	cmd    *exec.Cmd
	log    *log
	exited chan struct{} // closed when the process is over
	err    error         // how it ended; read it after that
}

// node makes the folder of a node with a pipelines.yaml; run starts it.
func (h *host) node(config string) *node {
	h.t.Helper()
	n := &node{host: h, dir: h.t.TempDir(), log: &log{}}
	for _, folder := range []string{"media", "recordings"} {
		if err := os.Mkdir(n.path(folder), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := os.WriteFile(n.path("pipelines.yaml"), []byte(config), 0o644); err != nil {
		h.t.Fatal(err)
	}
	n.spend(0, 0)
	h.t.Cleanup(func() {
		n.stop()
		if h.t.Failed() {
			h.t.Logf("log of %s:\n%s", n.name, n.log)
		}
	})
	return n
}

// start runs the process and does not wait for anything. After stop or kill it
// may be called again. The process sees a machine of its own that is idle until busy is called, however
// busy the lab makes the real one.
func (n *node) start() {
	n.t.Helper()
	n.cmd = n.command("sh", "-ec", `mount --bind "$1" /proc/stat; mount --bind /dev/null /proc/diskstats; exec "$2" run`,
		"sh", n.path("stat"), filepath.Join(bin, "mediad"))
	n.cmd.Dir = n.dir
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	exited := make(chan struct{})
	n.exited = exited
	go func(cmd *exec.Cmd) {
		n.err = cmd.Wait()
		close(exited)
	}(n.cmd)
}

// run is start, and waits until the node is healthy.
func (n *node) run() {
	n.t.Helper()
	n.start()
	n.healthy()
}

func (n *node) healthy() {
	n.t.Helper()
	eventually(n.t, n.name+" is healthy", func() error {
		select {
		case <-n.exited:
			n.t.Fatalf("%s ended at start: %v\n%s", n.name, n.err, n.log)
		default:
		}
		return n.get("/healthz", nil)
	})
}

// stop ends the daemon as an operator would; it must exit with 0. What does not run is left alone.
func (n *node) stop() {
	if n.exited == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	n.thaw() // if the test has failed before
	select {
	case <-n.exited:
		if n.err != nil {
			n.t.Errorf("%s: %v", n.name, n.err)
		}
	case <-time.After(30 * time.Second):
		_ = n.cmd.Process.Signal(syscall.SIGQUIT) // the goroutines go to the log
		<-n.exited
		n.t.Errorf("%s did not end within half a minute of SIGTERM", n.name)
	}
	n.exited = nil
}

// kill ends it as a power cut would.
func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	<-n.exited
	n.exited = nil
}

// freeze stops the process where it stands, thaw lets it go on.
func (n *node) freeze() { _ = n.cmd.Process.Signal(syscall.SIGSTOP) }
func (n *node) thaw()   { _ = n.cmd.Process.Signal(syscall.SIGCONT) }

// busy makes the node believe that so much of its processors is in use, until the test
// ends.
func (n *node) busy(part float64) {
	ctx := n.t.Context()
	go func() {
		const step = 100 * time.Millisecond
		for used, idle := 0.0, 0.0; rest(ctx, step); {
			used, idle = used+100*part, idle+100*(1-part)
			n.spend(int(used), int(idle))
		}
	}()
}

// spend writes what the node sees for /proc/stat: the processor times of proc(5).
func (n *node) spend(used, idle int) {
	text := fmt.Sprintf("cpu  %012d 0 0 %012d 0 0 0 0 0 0\nbtime 1700000000\n", used, idle)
	f, err := os.OpenFile(n.path("stat"), os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text) // as long as the text before, in its place
		err = errors.Join(err, f.Close())
	}
	if err != nil && n.t.Context().Err() == nil {
		n.t.Error(err)
	}
}

func (n *node) path(elem ...string) string {
	return filepath.Join(append([]string{n.dir}, elem...)...)
}

func (n *node) url(path string) string { return "rtmp://" + n.public + "/" + path }

// get reads from the node's HTTP listener, into v as JSON unless that is nil.
func (n *node) get(path string, v any) error {
	body, err := n.fetch(path)
	if err == nil && v != nil {
		err = json.Unmarshal(body, v)
	}
	return err
}

func (n *node) fetch(path string) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+n.public+":8080"+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s%s: %s: %s", n.name, path, resp.Status, body.Bytes())
	}
	return body.Bytes(), nil
}

// mediad runs a command of mediad on the host and returns what it prints.
func (n *node) mediad(args ...string) string {
	n.t.Helper()
	cmd := n.command(filepath.Join(bin, "mediad"), args...)
	cmd.Dir = n.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("mediad %s on %s: %v: %s", strings.Join(args, " "), n.name, err, out)
	}
	return string(out)
}

// metric returns the sum of all series of a metric, 0 when there are none.
func (n *node) metric(name string) (sum float64) {
	n.t.Helper()
	text, err := n.fetch("/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		series, rest, _ := strings.Cut(lines.Text(), " ")
		if series, _, _ = strings.Cut(series, "{"); series != name {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndex(rest, " ")+1:], 64)
		if err != nil {
			n.t.Fatalf("%s: %v", lines.Text(), err)
		}
		sum += v
	}
	return sum
}

// cpu is the time that the process has used (proc(5): fields 14 and 15 of stat,
// in hundredths of a second).
func (n *node) cpu() time.Duration {
	n.t.Helper()
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	fields := strings.Fields(string(p[bytes.LastIndexByte(p, ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		n.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// log keeps what a daemon prints.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// patience is how long anything may take that has no bound of its own. On a busy machine some elections
// of a leader may miss, and each costs 4 to 9 s.
const patience = 90 * time.Second

// eventually polls until check is content, and returns how long that took.
func eventually(t *testing.T, what string, check func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := check()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > patience {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
