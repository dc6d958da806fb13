// The servers under test, started one at a time, and what the kernel says of them.

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	rtmpPort    = "11935"
	rtmpAddress = "127.0.0.1:" + rtmpPort
	httpAddress = "127.0.0.1:18080"
)

// A server is a program, and a folder for its files.
type server struct {
	cmd *exec.Cmd
	dir string
	log *bytes.Buffer
}

// start runs a program in dir and waits until it listens.
func start(ctx context.Context, dir string, env []string, name string, args ...string) (*server, error) {
	s := &server{cmd: exec.CommandContext(ctx, name, args...), dir: dir, log: new(bytes.Buffer)}
	s.cmd.Env = append(os.Environ(), env...)
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

// kernelMemory is what the kernel holds for the connections of the server, or of
// one that was there before, in bytes: of each what was received, what is to be sent, and
// what was set aside (skmem of ss(8)).
func kernelMemory(ctx context.Context) (sum float64) {
	out, err := exec.CommandContext(ctx, "ss", "-tanmOH", "sport = :"+rtmpPort).Output()
	if err != nil {
		return 0
	}
	for l := range strings.SplitSeq(string(out), "\n") {
		_, m, _ := strings.Cut(l, "skmem:(")
		for f := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(m), ")"), ",") {
			if len(f) > 1 && strings.ContainsRune("rwf", rune(f[0])) {
				n, _ := strconv.ParseFloat(f[1:], 64) // "rb..." is none
				sum += n
			}
		}
	}
	return sum
}

// metric is the sum of the series whose text begins with name, 0 where there are none.
func (s *server) metric(ctx context.Context, name string) (sum float64) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+httpAddress+"/metrics", nil)
	if err != nil {
		return 0
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer r.Body.Close() //nolint:errcheck
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if l := lines.Text(); strings.HasPrefix(l, name) {
			n, _ := strconv.ParseFloat(l[strings.LastIndexByte(l, ' ')+1:], 64)
			sum += n
		}
	}
	return sum
}

// dontNeed has the kernel drop what it keeps of a file (posix_fadvise(2), POSIX_FADV_DONTNEED).
func dontNeed(fd uintptr) error {
	const advice = 4
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, fd, 0, 0, advice, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// startMediad runs the daemon with the given settings of its live stream stage.
func startMediad(ctx context.Context, dir, settings string, env ...string) (*server, error) {
	return startDaemon(ctx, dir, fmt.Sprintf(`
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
      with: {window: 5s}
    - use: stream
      with: {app: live, %s}
`, settings), env...)
}

// startArchive runs the daemon as a recorder.
func startArchive(ctx context.Context, dir string) (*server, error) {
	return startDaemon(ctx, dir, `
  live:
    - use: ingest
      with: {app: live}
    - use: broadcast
      with: {window: 5s}
  archive:
    - from: live/broadcast
    - use: archiver
    - use: writer-disk
      with: {root: ./recordings}
`)
}

func startDaemon(ctx context.Context, dir, pipelines string, env ...string) (*server, error) {
	config := fmt.Sprintf("version: 1\npprof: true\nlisten: {rtmp: %q, http: %q}\npipelines:%s", rtmpAddress, httpAddress, pipelines)
	if err := os.WriteFile(filepath.Join(dir, "pipelines.yaml"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	return start(ctx, dir, env, filepath.Join(dir, "mediad"), "run")
}

const nginxModule = "/usr/lib/nginx/modules/ngx_rtmp_module.so"

// startNginx runs nginx with one worker, which is all that it can use for one
// stream: live, on demand over RTMP, and over HTTP with and without a limit to the
// rate of the films.
func startNginx(ctx context.Context, dir string) (*server, error) { return nginx(ctx, dir, "") }

func startNginxRecording(ctx context.Context, dir string) (*server, error) {
	return nginx(ctx, dir, "record all; record_path "+dir+"/recordings;")
}

func nginx(ctx context.Context, dir, live string) (*server, error) {
	config := fmt.Sprintf(`daemon off;
master_process off;
user root;
load_module %[5]s;
worker_rlimit_nofile 20000;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log error;
events { worker_connections 8000; }
rtmp {
  server {
    listen %[2]s;
    application live { live on; %[6]s }
    application vod { play %[1]s/media; }
  }
}
http {
  access_log off;
  sendfile on;
  server {
    listen %[3]s;
    location / { root %[1]s/media; }
    location /paced/ { alias %[1]s/media/; limit_rate %[4]d; }
  }
}
`, dir, rtmpAddress, httpAddress, filmRate, nginxModule, live)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return start(ctx, dir, nil, "nginx", "-c", path, "-p", dir, "-e", filepath.Join(dir, "nginx.log"))
}

// startFloor runs the floor.
func startFloor(ctx context.Context, dir string, gather int) (*server, error) {
	return start(ctx, dir, nil, os.Args[0], "floor", rtmpAddress, strconv.Itoa(gather))
}
