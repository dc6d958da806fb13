// Command bench starts mediad, nginx-rtmp and the floor in turn on the same work
// and prints tables with ratios: `make bench`, or `go run ./bench -h`. README.md
// says what is measured and how.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 1 {
		switch args[0] { // the processes that bench starts of itself
		case "load":
			return load(ctx, args[1:])
		case "floor":
			return floor(ctx, args[1:])
		}
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var b bench
	viewers := flags.String("viewers", "100,500,1000,3000", "numbers of viewers of the live stream, may be empty")
	only := flags.String("only", "", "the servers to run, such as floor,mediad,nginx: those whose names contain one of these")
	flags.DurationVar(&b.time, "time", 10*time.Second, "how long each is measured")
	flags.IntVar(&b.joiners, "joiners", 40, "how many join one after another, while the others watch")
	demand := flags.Bool("demand", true, "measure playing on demand as well")
	flags.StringVar(&b.binary, "mediad", "", "a daemon that is built already")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b.only = strings.Split(*only, ",")
	raiseLimit()
	var err error
	if b.dir, err = os.MkdirTemp("", "mediad-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir) //nolint:errcheck
	if err := os.Mkdir(filepath.Join(b.dir, "media"), 0o755); err != nil {
		return err
	}
	if err := b.build(ctx); err != nil {
		return err
	}
	for n := range strings.SplitSeq(*viewers, ",") {
		if n == "" {
			continue
		}
		count, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		if err := b.live(ctx, count); err != nil {
			return err
		}
	}
	if *demand {
		return b.demand(ctx)
	}
	return nil
}

// raiseLimit allows as many sockets as the system does.
func raiseLimit() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}

// A bench is one run of everything.
type bench struct {
	dir, binary string
	only        []string
	time        time.Duration
	joiners     int
}

func (b *bench) build(ctx context.Context) error {
	target := filepath.Join(b.dir, "mediad")
	if b.binary != "" {
		path, err := filepath.Abs(b.binary)
		if err != nil {
			return err
		}
		return os.Symlink(path, target)
	}
	out, err := exec.CommandContext(ctx, "go", "build", "-o", target, "github.com/mediad/mediad/cmd/mediad").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build mediad: %w\n%s", err, out)
	}
	return nil
}

// wanted reports whether a server is to run: it was asked for, and is installed.
func (b *bench) wanted(name string) bool {
	if name == "nginx-rtmp" {
		if _, err := exec.LookPath("nginx"); err != nil {
			return false
		}
	}
	for _, s := range b.only {
		if strings.Contains(name, s) {
			return true
		}
	}
	return false
}

// A contender is one line of a table.
type contender struct {
	name  string
	floor string // the line that it is compared with
	start func(ctx context.Context, dir string) (*server, error)
}

func atFloor(gather int) func(context.Context, string) (*server, error) {
	return func(ctx context.Context, dir string) (*server, error) { return startFloor(ctx, dir, gather) }
}

func mediad(settings string) func(context.Context, string) (*server, error) {
	return func(ctx context.Context, dir string) (*server, error) { return startMediad(ctx, dir, settings) }
}

var liveContenders = []contender{
	{"floor, a write per message", "", atFloor(0)},
	{"floor, gathered 100 ms", "", atFloor(100)},
	{"floor, gathered 350 ms", "", atFloor(350)},
	{"nginx-rtmp", "floor, a write per message", startNginx},
	{"mediad", "floor, a write per message", mediad("")},
	{"mediad latency 0", "floor, a write per message", mediad(", latency: 0s")},
	{"mediad latency 100ms", "floor, gathered 100 ms", mediad(", latency: 100ms")},
	{"mediad latency 350ms", "floor, gathered 350 ms", mediad(", latency: 350ms")},
}

// A line is what was measured of a contender.
type line struct {
	report
	cpu       float64 // seconds per GB
	resident  float64 // MB
	diskReads float64 // bytes
}

// live measures the fan-out of one live stream to n viewers.
func (b *bench) live(ctx context.Context, n int) error {
	fmt.Printf("\nLive, %d viewers of 2.1 Mbit/s\n\n", n)
	fmt.Println("| server | CPU s/GB | of nginx-rtmp's | of the floor's | missing | p50 ms | p99 ms | max ms | resident MB | join p50 ms | join p95 ms | GB |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	lines := map[string]line{}
	for _, c := range liveContenders {
		if !b.wanted(c.name) {
			continue
		}
		j := job{Address: rtmpAddress, App: "live", Viewers: n, Joiners: b.joiners,
			Warm: 3 * time.Second, Time: b.time, Floor: c.floor == ""}
		if j.Floor {
			j.Joiners = 0 // it keeps nothing for them
		}
		l, err := b.measure(ctx, c, j)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		lines[c.name] = l
		fmt.Printf("| %s | %.3f | %s | %s | %d | %.1f | %.1f | %.1f | %.0f | %.0f | %.0f | %.2f |\n", c.name, l.cpu,
			ratio(l, lines["nginx-rtmp"]), ratio(l, lines[c.floor]), l.Missing+int64(l.Lost), l.P50, l.P99, l.Max,
			l.resident, l.JoinP50, l.JoinP95, float64(l.Bytes)/1e9)
	}
	return nil
}

// ratio is the CPU of l as a multiple of that of other, if there is one.
func ratio(l, other line) string {
	if other.cpu == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", l.cpu/other.cpu)
}

// measure runs a server and the load client on it.
func (b *bench) measure(ctx context.Context, c contender, j job) (l line, err error) {
	s, err := c.start(ctx, b.dir)
	if err != nil {
		return l, err
	}
	defer s.stop()
	p, err := json.Marshal(j)
	if err != nil {
		return l, err
	}
	client := exec.CommandContext(ctx, os.Args[0], "load", string(p))
	client.Stderr = os.Stderr
	client.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := client.StdoutPipe()
	if err != nil {
		return l, err
	}
	if err := client.Start(); err != nil {
		return l, err
	}
	defer func() {
		_ = client.Process.Kill()
		_ = client.Wait()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return l, errors.New("the load client has failed")
	}
	before, read := s.cpu(), s.diskReads()
	if !lines.Scan() { // the same for all: the joiners are not measured
		return l, errors.New("the load client has failed")
	}
	after, resident := s.cpu(), s.resident()
	if !lines.Scan() {
		return l, errors.New("the load client has failed")
	}
	err = json.Unmarshal(lines.Bytes(), &l.report)
	l.cpu = (after - before) / (float64(l.Bytes) / 1e9)
	l.resident, l.diskReads = resident, s.diskReads()-read
	return l, err
}
