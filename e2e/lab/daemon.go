// Package lab runs the real daemon on this machine, for tests and the soak, with
// publishers whose frames carry numbers and viewers who count them.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Build builds the daemon, and what else the paths name, into a folder. The
// names of the files are the last elements of the paths.
func Build(ctx context.Context, dir string, race bool, packages ...string) error {
	args := []string{"build"}
	if race {
		args = append(args, "-race")
	}
	build := exec.CommandContext(ctx, "go", append(append(args, "-o", dir+"/"), packages...)...)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w\n%s", packages, err, out)
	}
	return nil
}

// A Daemon is a mediad in a folder of its own.
type Daemon struct {
	Dir        string // it runs there; media/ and recordings/ are in it
	RTMP, HTTP string // addresses
	Log        *Log
	binary     string
	ports      []Port
	cmd        *exec.Cmd
	exited     chan struct{} // closed when the process has ended
	err        error         // how; set before exited is closed
	told       bool          // to end
}

// New makes the folder of a daemon with a configuration, the text from
// `pipelines:` on. Nothing runs yet.
func New(binary, dir, pipelines string) (*Daemon, error) {
	d := &Daemon{Dir: dir, binary: binary, Log: &Log{}}
	for _, address := range []*string{&d.RTMP, &d.HTTP} {
		p, err := Reserve()
		if err != nil {
			return nil, err
		}
		d.ports = append(d.ports, p)
		*address = p.Address
	}
	for _, folder := range []string{"media", "recordings"} {
		if err := os.MkdirAll(d.Path(folder), 0o755); err != nil {
			return nil, err
		}
	}
	return d, d.Configure(pipelines)
}

// Configure writes another configuration, which a reload or a start takes up.
func (d *Daemon) Configure(pipelines string) error {
	text := fmt.Sprintf("version: 1\nlisten: {rtmp: %q, http: %q}\npprof: true\n%s", d.RTMP, d.HTTP, pipelines)
	return os.WriteFile(d.Path("pipelines.yaml"), []byte(text), 0o644)
}

// Start starts the process and waits until it is healthy. It may be called again
// after Stop and Kill.
func (d *Daemon) Start() error {
	d.told = false
	d.cmd = exec.Command(d.binary, "run") //nolint:noctx // it is ended by Stop
	d.cmd.Dir = d.Dir
	d.cmd.Stdout, d.cmd.Stderr = d.Log, d.Log
	d.exited = make(chan struct{})
	if err := d.cmd.Start(); err != nil {
		return err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	return Eventually(time.Minute, func() error {
		if err := d.Lives(); err != nil {
			return Final(err)
		}
		_, err := d.Get("/healthz")
		return err
	})
}

// Lives says how the process has ended, nil while it runs.
func (d *Daemon) Lives() error {
	select {
	case <-d.exited:
		if d.err == nil {
			return errors.New("mediad has ended, as if it had been told to")
		}
		return fmt.Errorf("mediad has ended: %w\n%s", d.err, d.Log.Tail(40))
	default:
		return nil
	}
}

// Stop ends the daemon as an operator would and returns how it exited.
func (d *Daemon) Stop() error {
	d.Signal(syscall.SIGTERM)
	return d.Wait()
}

// Wait waits until the daemon, which was told to end, has ended, and returns how.
func (d *Daemon) Wait() error {
	d.told = true
	select {
	case <-d.exited:
		return d.err
	case <-time.After(time.Minute):
		d.Signal(syscall.SIGQUIT) // the goroutines go to the log
		<-d.exited
		return errors.New("did not end within a minute")
	}
}

// Kill ends it as a power cut would.
func (d *Daemon) Kill() {
	d.told = true
	d.Signal(syscall.SIGKILL)
	<-d.exited
}

// Command runs the daemon's binary for another command in its folder, and returns
// what it prints and the code it exits with.
func (d *Daemon) Command(args ...string) (out string, code int) {
	cmd := exec.Command(d.binary, args...) //nolint:noctx // they are short
	cmd.Dir = d.Dir
	text, _ := cmd.CombinedOutput()
	return string(text), cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the process; one that has ended gets none.
func (d *Daemon) Signal(s syscall.Signal) { _ = d.cmd.Process.Signal(s) }

// Exited is closed when the process has ended.
func (d *Daemon) Exited() <-chan struct{} { return d.exited }

// PID is the id of the process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Plugins are the processes that the daemon has started.
func (d *Daemon) Plugins() ([]int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.PID()))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for _, word := range strings.Fields(string(text)) {
			var pid int
			if _, err := fmt.Sscan(word, &pid); err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Path is a path in the daemon's folder.
func (d *Daemon) Path(elem ...string) string {
	return filepath.Join(append([]string{d.Dir}, elem...)...)
}

// URL is what an app is published to and played from.
func (d *Daemon) URL(app string) string { return "rtmp://" + d.RTMP + "/" + app }

// client keeps no connection: one would be a goroutine of the daemon.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Get asks the daemon's HTTP listener.
func (d *Daemon) Get(path string) ([]byte, error) { return d.ask(http.MethodGet, path) }

// Reload makes the daemon read its configuration again.
func (d *Daemon) Reload() error {
	_, err := d.ask(http.MethodPost, "/api/reload")
	return err
}

func (d *Daemon) ask(method, path string) ([]byte, error) {
	req, err := http.NewRequest(method, "http://"+d.HTTP+path, nil) //nolint:noctx // the client has a timeout
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

// Mount puts a file system in memory of a size, such as 4m, at a folder.
func (d *Daemon) Mount(folder, size string) error {
	if err := os.MkdirAll(d.Path(folder), 0o755); err != nil {
		return err
	}
	return syscall.Mount("tmpfs", d.Path(folder), "tmpfs", 0, "size="+size)
}

// Unmount takes it away, even if it is in use.
func (d *Daemon) Unmount(folder string) error {
	return syscall.Unmount(d.Path(folder), syscall.MNT_DETACH)
}

// Metrics are the values of /metrics by series.
type Metrics map[string]float64

// Metrics reads them.
func (d *Daemon) Metrics() (Metrics, error) {
	text, err := d.Get("/metrics")
	if err != nil {
		return nil, err
	}
	m := Metrics{}
	for line := range strings.Lines(string(text)) {
		at := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(line[at:], &v); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		m[line[:at]] = v
	}
	return m, nil
}

// Has says whether there is a metric of a name.
func (m Metrics) Has(name string) bool {
	for series := range m {
		if series == name || strings.HasPrefix(series, name+"{") {
			return true
		}
	}
	return false
}

// Sum adds up the series of a metric, `name` or `name{label="value",...}`, that have
// at least these labels.
func (m Metrics) Sum(series string) float64 {
	name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	sum := 0.0
next:
	for key, v := range m {
		n, has, _ := strings.Cut(key, "{")
		if n != name {
			continue
		}
		for label := range strings.SplitSeq(labels, ",") {
			if !strings.Contains(has, label) {
				continue next
			}
		}
		sum += v
	}
	return sum
}

// Held is what a daemon holds.
type Held struct {
	Goroutines, Descriptors int
	Heap                    int64 // bytes in use after a collection
}

func (h Held) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.1f MB of heap", h.Goroutines, h.Descriptors, float64(h.Heap)/1e6)
}

// Held collects the garbage and tells what is left.
func (d *Daemon) Held() (Held, error) {
	if _, err := d.Get("/debug/pprof/heap?gc=1"); err != nil {
		return Held{}, err
	}
	m, err := d.Metrics()
	return Held{int(m["go_goroutines"]), int(m["process_open_fds"]), int64(m["go_memstats_heap_alloc_bytes"])}, err
}

// A Log keeps the lines that a daemon prints.
type Log struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines []string
	read  int // lines, by next
}

// Write takes what was printed.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	for {
		line, err := l.text.ReadString('\n')
		if err != nil {
			l.text.WriteString(line)
			return len(p), nil
		}
		l.lines = append(l.lines, strings.TrimRight(line, "\n"))
	}
}

// next returns the next line with a text, behind the one that was returned last.
func (l *Log) next(text string) (line string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, line := range l.lines[l.read:] {
		if strings.Contains(line, text) {
			l.read += i + 1
			return line, true
		}
	}
	return "", false
}

// String is all that was printed, without what follows the last end of a line.
func (l *Log) String() string { return strings.Join(l.From(0), "\n") }

// Len is how many lines there are.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// From returns the lines from the nth on.
func (l *Log) From(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines[n:]...)
}

// Tail returns the last n lines.
func (l *Log) Tail(n int) string {
	return strings.Join(l.From(max(0, l.Len()-n)), "\n")
}

// Troubles are the warnings and errors from line n on.
func (l *Log) Troubles(n int) (lines []string) {
	for _, line := range l.From(n) {
		if strings.Contains(line, "[WARN]") || strings.Contains(line, "[ERROR]") {
			lines = append(lines, line)
		}
	}
	return lines
}

// A final error ends Eventually at once.
type final struct{ error }

// Final marks an error that waiting does not mend.
func Final(err error) error { return final{err} }

// Eventually asks again and again until check is content, for a limited time.
func Eventually(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		var f final
		switch {
		case err == nil:
			return nil
		case errors.As(err, &f):
			return f.error
		case time.Now().After(deadline):
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
