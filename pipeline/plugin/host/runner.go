// One process of a plugin: its start, its output and its end. It is go-plugin's
// Runner, so that go-plugin does the handshake and forwards the log.

package host

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mediad/mediad/pipeline/plugin/wire"
)

// A runner runs a command in a process group of its own. Its standard input is a
// pipe that ends when the daemon does, however that happens.
type runner struct {
	cmd    *exec.Cmd
	life   *os.File // our end of its standard input; nil when it was not started
	stdout handshake
	tail   tail // of its standard error

	mu     sync.Mutex
	killed bool
	gone   bool // the process id may be another's by now

	exited chan struct{} // closed when the process has ended
	status string        // how; set before exited is closed
}

func newRunner(cmd *exec.Cmd) *runner {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return &runner{cmd: cmd, exited: make(chan struct{})}
}

// Start implements go-plugin's Runner.
func (r *runner) Start(context.Context) error {
	stdin, life, err := os.Pipe()
	if err != nil {
		return err
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdin.Close(), life.Close())
	}
	errs, stderr, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdin.Close(), life.Close(), out.Close(), stdout.Close())
	}
	r.stdout.r, r.tail.r, r.tail.ended = bufio.NewReaderSize(out, 4096), errs, make(chan struct{})
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = stdin, stdout, stderr
	err = r.start()
	for _, theirs := range []*os.File{stdin, stdout, stderr} {
		theirs.Close()
	}
	if err != nil {
		return errors.Join(err, life.Close(), out.Close(), errs.Close())
	}
	r.life = life
	go func() {
		_ = r.cmd.Wait()
		r.status = r.cmd.ProcessState.String()
		r.kill() // what it has started
		r.mu.Lock()
		r.gone = true
		r.mu.Unlock()
		// A process that left the group may hold the pipes open for ever.
		deadline := time.Now().Add(time.Second)
		_ = out.SetReadDeadline(deadline)
		_ = errs.SetReadDeadline(deadline)
		close(r.exited)
	}()
	return nil
}

func (r *runner) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.killed {
		return errEnded
	}
	return r.cmd.Start()
}

// kill kills the process and all of its group. One that has not started never will.
func (r *runner) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed = true
	if r.cmd.Process != nil && !r.gone {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// pid is the process id, 0 when it was not started.
func (r *runner) pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd.Process == nil {
		return 0
	}
	return r.cmd.Process.Pid
}

// release lets the process end by itself, and kills it if it has not in time.
func (r *runner) release(patience time.Duration) {
	if r.life == nil {
		return
	}
	r.life.Close()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-r.exited:
	case <-timer.C:
		r.kill()
		<-r.exited
	}
}

// last describes what the process said last, to end an error with; "" if it said nothing.
func (r *runner) last() string {
	select {
	case <-r.exited:
		<-r.tail.ended // soon, by the deadline of the pipe
	default:
	}
	if said := r.tail.String(); said != "" {
		return "; it said: " + said
	}
	return ""
}

// The rest is what go-plugin asks for.

// Wait implements go-plugin's Runner.
func (r *runner) Wait(context.Context) error {
	<-r.exited
	return nil
}

// Kill implements go-plugin's Runner.
func (r *runner) Kill(context.Context) error {
	r.kill()
	return nil
}

// ID implements go-plugin's Runner.
func (r *runner) ID() string {
	if pid := r.pid(); pid != 0 {
		return strconv.Itoa(pid)
	}
	return ""
}

// Stdout implements go-plugin's Runner.
func (r *runner) Stdout() io.ReadCloser { return io.NopCloser(&r.stdout) }

// Stderr implements go-plugin's Runner.
func (r *runner) Stderr() io.ReadCloser { return io.NopCloser(&r.tail) }

// Name implements go-plugin's Runner.
func (r *runner) Name() string { return r.cmd.Path }

// Diagnose implements go-plugin's Runner.
func (r *runner) Diagnose(context.Context) string { return "" }

// PluginToHost implements go-plugin's Runner.
func (r *runner) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin implements go-plugin's Runner.
func (r *runner) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// handshake reads the one line that a plugin prints and passes it on. Whatever comes after
// it is read, so that the plugin does not wait for us, and dropped.
type handshake struct {
	r    *bufio.Reader
	done bool

	mu   sync.Mutex
	line string
}

func (h *handshake) Read(p []byte) (int, error) {
	if h.done {
		_, _ = io.Copy(io.Discard, h.r)
		return 0, io.EOF
	}
	h.done = true
	line, err := h.r.ReadSlice('\n')
	h.mu.Lock()
	h.line = string(bytes.TrimSpace(line))
	h.mu.Unlock()
	if len(line) == 0 && err != nil {
		return 0, io.EOF
	}
	n := copy(p[:len(p)-1], bytes.TrimSpace(line))
	p[n] = '\n'
	return n + 1, nil
}

// wrong says what is wrong with the line, nil when it may be right.
func (h *handshake) wrong(path string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	parts := strings.Split(h.line, "|")
	_, err := strconv.Atoi(parts[0])
	switch {
	case h.line == "":
		return nil
	case err != nil || len(parts) < 5:
		return fmt.Errorf("%s is no plugin for mediad: it says %q where the handshake should be", path, shorten(h.line, 80))
	case parts[1] != strconv.Itoa(wire.Version):
		return fmt.Errorf("%s speaks version %s of the plugin protocol, this daemon speaks version %d: build one of them anew",
			path, parts[1], wire.Version)
	case parts[4] != "grpc":
		return fmt.Errorf("%s speaks %q, a plugin for mediad speaks grpc", path, parts[4])
	}
	return nil
}

func shorten(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return s
}

// tail reads standard error and keeps the last lines, or those from a panic on.
// Lines of the log are left out: they are in the log.
type tail struct {
	r     *os.File
	end   sync.Once
	ended chan struct{} // closed at the end

	mu    sync.Mutex
	part  []byte
	lines []string
	panic bool
}

const tailLines = 3

// Read ends at any error. It is called again after that where the last line had no end, as
// that of a process which was killed.
func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.keep(p[:n])
	if err != nil {
		t.end.Do(func() {
			t.keep([]byte{'\n'})
			close(t.ended)
		})
		err = io.EOF
	}
	return n, err
}

func (t *tail) keep(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range p {
		if c != '\n' {
			if len(t.part) < 256 {
				t.part = append(t.part, c)
			}
			continue
		}
		t.add(strings.TrimSpace(string(t.part)))
		t.part = t.part[:0]
	}
}

func (t *tail) add(line string) {
	if line == "" || strings.HasPrefix(line, `{"@`) || t.panic && len(t.lines) == tailLines {
		return
	}
	if !t.panic && (strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:")) {
		t.panic, t.lines = true, nil
	}
	if t.lines = append(t.lines, line); len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, " / ")
}
