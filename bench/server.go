// The servers under test, started one at a time, and what the kernel says of them.

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	rtmpAddress = "127.0.0.1:11935"
	httpAddress = "127.0.0.1:18080"
)

// A server is a program, and a folder for its files.
type server struct {
	cmd *exec.Cmd
	dir string
	log *bytes.Buffer
}

// start runs a program in dir and waits until it listens.
func start(ctx context.Context, dir, name string, args ...string) (*server, error) {
	s := &server{cmd: exec.CommandContext(ctx, name, args...), dir: dir, log: new(bytes.Buffer)}
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = dir, s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		time.Sleep(50 * time.Millisecond)
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", rtmpAddress)
		if err == nil {
			return s, conn.Close()
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s does not listen:\n%s", name, s.log)
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(5*time.Second, func() { _ = s.cmd.Process.Kill() })
	_ = s.cmd.Wait()
	timer.Stop()
}

// cpu is the time that the process has used, in seconds (proc(5): fields 14 and
// 15 of stat, in hundredths).
func (s *server) cpu() float64 {
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(p[bytes.LastIndexByte(p, ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100
}

// resident is the memory of the process, in MB.
func (s *server) resident() float64 {
	p, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(p), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.Atoi(fields[0])
	return float64(kb) / 1000
}

// diskReads is how many bytes the process has had read from disks.
func (s *server) diskReads() float64 {
	p, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(p), "\nread_bytes: ")
	n, _ := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), 64)
	return n
}

// startMediad runs the daemon with the given settings of its live stream stage.
func startMediad(ctx context.Context, dir, settings string) (*server, error) {
	config := fmt.Sprintf(`version: 1
listen: {rtmp: %q, http: %q}
pipelines:
  on-demand:
    - use: reader-disk
      with: {root: ./media}
    - use: cache
      with: {memory: 2GiB}
    - use: broker
    - use: stream
      with: {app: vod}
  live:
    - use: ingest
      with: {app: live}
    - use: broadcast
    - use: stream
      with: {app: live%s}
`, rtmpAddress, httpAddress, settings)
	if err := os.WriteFile(filepath.Join(dir, "pipelines.yaml"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	return start(ctx, dir, filepath.Join(dir, "mediad"), "run")
}

// startNginx runs nginx-rtmp with one worker, which is all it can use for one stream.
func startNginx(ctx context.Context, dir string) (*server, error) {
	config := fmt.Sprintf(`daemon off;
master_process off;
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
worker_rlimit_nofile 20000;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log error;
events { worker_connections 8000; }
rtmp {
  server {
    listen %[2]s;
    application live { live on; }
    application vod { play %[1]s/media; }
  }
}
`, dir, rtmpAddress)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return start(ctx, dir, "nginx", "-c", path, "-p", dir, "-e", filepath.Join(dir, "nginx.log"))
}

// startFloor runs the floor.
func startFloor(ctx context.Context, dir string, gather int) (*server, error) {
	return start(ctx, dir, os.Args[0], "floor", rtmpAddress, strconv.Itoa(gather))
}
