// Command bench starts mediad, nginx with its RTMP module and the floor in turn on
// the same work and prints tables with ratios: `make bench`, or `go run ./bench -h`.
// README.md says what is measured and how.
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

// The tables beside those of the live stream.
var tables = []struct {
	name  string
	print func(*bench, context.Context) error
}{
	{"stuck", (*bench).stuck},
	{"storm", (*bench).storm},
	{"demand", (*bench).demand},
	{"ingest", (*bench).ingest},
	{"archive", (*bench).archive},
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
	others := flags.String("tables", "stuck,storm,demand,ingest,archive", "the other tables, may be empty")
	only := flags.String("only", "", "the servers to run, such as floor,mediad,nginx: those whose names contain one of these, or are =this")
	flags.DurationVar(&b.time, "time", 10*time.Second, "how long each is measured")
	flags.IntVar(&b.joiners, "joiners", 40, "how many join one after another, while the others watch")
	flags.StringVar(&b.binary, "mediad", "", "a daemon that is built already")
	quick := flags.Bool("quick", false, "for a look: 1000 live viewers and no other table, 4s each")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *quick {
		*viewers, *others, b.time, b.joiners = "1000", "", 4*time.Second, 10
	}
	b.only = strings.Split(*only, ",")
	raiseLimit()
	var err error
	if b.dir, err = os.MkdirTemp("", "mediad-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir) //nolint:errcheck
	for _, folder := range []string{"media", "recordings"} {
		if err := os.Mkdir(filepath.Join(b.dir, folder), 0o755); err != nil {
			return err
		}
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
	for _, t := range tables {
		if !strings.Contains(*others, t.name) {
			continue
		}
		if err := t.print(&b, ctx); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
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
	if strings.HasPrefix(name, "nginx") {
		if _, err := os.Stat(nginxModule); err != nil {
			return false
		}
	}
	for _, s := range b.only {
		if exact, ok := strings.CutPrefix(s, "="); ok && name == exact || !ok && strings.Contains(name, s) {
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

// A line is what was measured of a contender.
type line struct {
	report
	server    *server // ended, with its log
	cpu       float64 // seconds per GB
	resident  float64 // MB
	diskReads float64 // bytes
}

func (l line) gigabytes() float64 { return float64(l.Bytes) / 1e9 }

// ratio is the CPU of l as a multiple of that of other, if there is one.
func ratio(l, other line) string {
	if other.cpu == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", l.cpu/other.cpu)
}

// measure runs a server, and the load client on it, once for each job. What is
// measured is the last. look is called after each.
func (b *bench) measure(ctx context.Context, c contender, look look, jobs ...job) (l line, err error) {
	s, err := c.start(ctx, b.dir)
	if err != nil {
		return l, fmt.Errorf("%s: %w", c.name, err)
	}
	defer s.stop()
	for _, j := range jobs {
		if l, err = b.do(ctx, s, look, j); err != nil {
			return l, fmt.Errorf("%s: %w\n%s", c.name, err, s.log)
		}
	}
	return l, nil
}

// A look is what else is asked of a server: after each job, and twice a second while it goes
// on if often is set, which costs the server something.
type look struct {
	often bool
	at    func(*server)
}

func (l look) ticks() <-chan time.Time {
	if !l.often {
		return nil
	}
	return time.Tick(500 * time.Millisecond)
}

func (b *bench) do(ctx context.Context, s *server, look look, j job) (l line, err error) {
	l.server = s
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
		return l, errFailed
	}
	before, read := s.cpu(), s.diskReads()
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		lines.Scan() // the same for all: the joiners are not measured
	}()
	for ticks := look.ticks(); ; {
		select {
		case <-ticks:
			look.at(s)
			continue
		case <-measured:
		}
		break
	}
	cpu := s.cpu() - before
	l.resident, l.diskReads = s.resident(), s.diskReads()-read
	if look.at != nil {
		look.at(s)
	}
	if !lines.Scan() {
		return l, errFailed
	}
	err = json.Unmarshal(lines.Bytes(), &l.report)
	l.cpu = cpu / l.gigabytes()
	return l, err
}

var errFailed = errors.New("the load client has failed")
