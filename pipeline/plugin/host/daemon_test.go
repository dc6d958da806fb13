package host

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// asDaemon is the test binary as a daemon with the plugin os.Args[2]. It prints the
// plugin's process id and waits to be killed.
func asDaemon() {
	kind, err := Kind(context.Background(), Binary{Path: os.Args[2]}, hclog.NewNullLogger())
	if err != nil {
		panic(err)
	}
	settings, err := kind.Decode(nil)
	if err != nil {
		panic(err)
	}
	made, err := kind.New(stage.Env{Name: "a/b", Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, settings)
	if err != nil {
		panic(err)
	}
	go func() { panic(made.Serve(context.Background())) }()
	r, err := made.(*Stage).ready(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Println(r.run.pid())
	select {}
}

func TestT42_DaemonKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	temp, err := os.MkdirTemp("", "t42") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	cmd := exec.CommandContext(t.Context(), self, "as-daemon", filmPath)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(line)
	if !runs(pid) {
		t.Fatalf("the plugin %q does not run", pid)
	}
	killed := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the plugin is gone", func() bool { return !runs(pid) })
	t.Logf("the plugin was gone %v after the daemon", time.Since(killed).Round(time.Millisecond))
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("files are left behind: %v", left)
	}
}

// runs reports whether a process is there and no zombie.
func runs(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestT42_SweepAtTheNextStart(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	// Process ids end at 2^22 (proc(5)), so there is none that large.
	dead := filepath.Join(os.TempDir(), folderPrefix+"99999999-1")
	alive := filepath.Join(os.TempDir(), folderPrefix+fmt.Sprint(os.Getpid())+"-1")
	for _, dir := range []string{dead, alive} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dead, err)
	}
	if _, err := os.Stat(alive); err != nil {
		t.Error(err)
	}
}
