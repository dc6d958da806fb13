// Package machine makes machines for tests that do what an operator does: with the programs and files of this one,
// but processes and a network of their own, and of what is written nothing stays. It needs root.
package machine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/lab"
)

// A Machine lives as long as the test.
type Machine struct {
	dir  string // where commands begin
	init int    // the process that keeps it
}

// New makes a machine on which commands begin in the folder dir. It sees that and all else as it is here, and what it
// writes, /tmp included, is its own. Only devices and Go's caches are shared; the folders in shows, which may lie on file
// systems of their own, can be read.
func New(t testing.TB, dir string, shows ...string) *Machine {
	t.Helper()
	caches, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	layers := t.TempDir()
	keep := exec.CommandContext(context.Background(), "sh", "-ec", `
		mount --make-rprivate /
		mount -t tmpfs tmpfs "$LAYERS"
		cd "$LAYERS"
		mkdir up work up2 work2 new
		mount -t overlay overlay -o "lowerdir=/,upperdir=$LAYERS/up,workdir=$LAYERS/work" new
		for shared in /dev $CACHES; do
			mkdir -p "$shared" "new$shared"
			mount --rbind "$shared" "new$shared"
		done
		mount -t sysfs -o ro sysfs new/sys
		for shown in $SHOWS; do
			mkdir -p "new$shown"
			mount --bind "$shown" "new$shown"
			mount -o remount,bind,ro "new$shown"
		done
		mkdir -p "new$DIR"
		mount -t overlay overlay -o "lowerdir=$DIR,upperdir=$LAYERS/up2,workdir=$LAYERS/work2" "new$DIR"
		ip link set lo up
		exec chroot new sh -ec 'mount -t proc proc /proc; echo up; exec sleep infinity'`)
	keep.Env = append(os.Environ(), "LAYERS="+layers, "DIR="+dir, "SHOWS="+strings.Join(shows, " "),
		"CACHES="+strings.ReplaceAll(string(caches), "\n", " "))
	keep.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	out := &lab.Log{}
	keep.Stdout, keep.Stderr = out, out
	if err := keep.Start(); err != nil {
		t.Fatalf("a machine of its own, which needs root: %v", err)
	}
	t.Cleanup(func() {
		_ = keep.Process.Kill() // and with it all that runs there
		_ = keep.Wait()
	})
	for began := time.Now(); out.String() != "up"; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("a machine of its own is not up, it says %q", out)
		}
	}
	return &Machine{dir: dir, init: keep.Process.Pid}
}

// Command is one of the shell, in a process group of its own. It ends with the machine at the latest.
func (m *Machine) Command(line string) *exec.Cmd {
	at := fmt.Sprintf("/proc/%d/root", m.init)
	cmd := exec.CommandContext(context.Background(), "nsenter", "-t", fmt.Sprint(m.init), "-n", "-m", "-p", "--root="+at, "--wd="+at+m.dir, "sh", "-c", line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = os.Environ()
	return cmd
}

// Start starts a command that runs until the test ends, when it has half a minute to do so.
func (m *Machine) Start(t testing.TB, cmd *exec.Cmd) *lab.Log {
	t.Helper()
	out := &lab.Log{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		timer := time.AfterFunc(30*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait()
		timer.Stop()
		if t.Failed() {
			t.Logf("%s prints\n%s", cmd.Args[len(cmd.Args)-1], out)
		}
	})
	return out
}
