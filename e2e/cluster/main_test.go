// Package lab runs several real daemons as the nodes of one service, each on
// a host of its own: a network namespace of this machine. Links are cut, slowed and
// measured, nodes killed and stopped, and what publishers, viewers and operators
// see is checked.
package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// bin is the folder with the programs under test, built once: mediad and nats-server.
var bin = os.Getenv("MEDIAD_LAB")

func TestMain(m *testing.M) {
	if bin == "" {
		os.Exit(enter())
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "the lab's network:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter builds the programs and runs this test again in network and mount namespaces of its own. All
// that the lab makes is in these, so nothing is left behind however it ends, and nobody
// needs to be root.
func enter() int {
	dir, err := os.MkdirTemp("", "mediad-lab-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for name, pkg := range map[string]string{"mediad": "../../cmd/mediad", "nats-server": "github.com/nats-io/nats-server/v2"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", name, err, out)
			return 1
		}
	}
	again := exec.Command(os.Args[0], os.Args[1:]...)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.Env = append(os.Environ(), "MEDIAD_LAB="+dir)
	again.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		again.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if err := again.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "The lab needs a network namespace and may not make one: %v.\n"+
			"Run it as root with CAP_SYS_ADMIN, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1\n"+
			"and user.max_user_namespaces); a container wants --cap-add SYS_ADMIN --cap-add NET_ADMIN.\n", err)
		return 1
	}
	if err := again.Wait(); err != nil {
		return 1 // it has said why
	}
	return 0
}

// prepare makes room for the namespaces that `ip netns` names.
func prepare() error {
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return ip("link set lo up")
}
