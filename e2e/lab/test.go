// What tests want of a daemon and of the programs beside it: that they end with the
// test, and are told of when it fails.

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Main builds the daemon into a new folder, dir, runs the tests, and returns the code to
// exit with.
func Main(m *testing.M, race bool, dir *string) int {
	var err error
	if *dir, err = os.MkdirTemp("", "mediad-test-"); err == nil {
		defer os.RemoveAll(*dir)
		err = Build(context.Background(), *dir, race, "github.com/mediad/mediad/cmd/mediad")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// Start runs a daemon in a folder of its own, which prepare makes ready. It is stopped
// when the test ends, and must exit with 0.
func Start(t testing.TB, binary, pipelines string, prepare ...func(*Daemon)) *Daemon {
	t.Helper()
	d, err := New(binary, t.TempDir(), pipelines)
	Must(t, err)
	for _, f := range prepare {
		f(d)
	}
	t.Cleanup(func() {
		if err := d.finish(); err != nil {
			t.Errorf("mediad: %v", err)
		}
		for _, p := range d.ports {
			p.Release()
		}
		if t.Failed() {
			t.Logf("the end of mediad's log:\n%s", d.Log.Tail(100))
		}
	})
	Must(t, d.Start())
	return d
}

// MountFor mounts a file system in memory for as long as a test goes on.
func (d *Daemon) MountFor(t testing.TB, folder, size string) {
	t.Helper()
	Must(t, d.Mount(folder, size))
	t.Cleanup(func() { Must(t, d.Unmount(folder)) })
}

// finish stops the daemon, unless the test has done so.
func (d *Daemon) finish() error {
	switch {
	case d.exited == nil:
		return nil
	case d.told:
		<-d.exited
		return nil
	case d.Lives() != nil:
		return errors.Join(d.Lives(), d.err)
	}
	return d.Stop()
}

// Says waits for the next line of the log with a text.
func (d *Daemon) Says(t testing.TB, text string) (line string) {
	t.Helper()
	Await(t, "the daemon says "+text, func() error {
		var ok bool
		if line, ok = d.Log.next(text); !ok {
			return fmt.Errorf("it says:\n%s", d.Log.Tail(40))
		}
		return nil
	})
	return line
}

// Must fails the test for an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Await asks again and again until check is content; a minute is a failure, even on a busy machine.
func Await(t testing.TB, what string, check func() error) {
	t.Helper()
	if err := Eventually(time.Minute, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// A Program runs beside the daemon, such as a client.
type Program struct {
	Name string // with its arguments
	Out  Log    // what it prints
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; set before done is closed
}

// Launch starts a program; it is killed when the test ends.
func Launch(t testing.TB, name string, args ...string) *Program {
	t.Helper()
	p := &Program{Name: name + " " + strings.Join(args, " "), t: t, done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.Out, &p.Out
	Must(t, p.cmd.Start())
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.Kill)
	return p
}

// Kill ends the program, if it has not ended.
func (p *Program) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Wait waits for the program's own end.
func (p *Program) Wait() error {
	p.t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(3 * time.Minute):
		p.t.Fatalf("%s: has not ended after 3 minutes\n%s", p.Name, &p.Out)
		return nil
	}
}

// Run runs a program to its end, which must be with 0, and returns what it prints.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	p := Launch(t, name, args...)
	if err := p.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", p.Name, err, &p.Out)
	}
	return p.Out.String()
}
