// A running plugin: connected, watched, and ended once.

package host

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	goplugin_runner "github.com/hashicorp/go-plugin/runner"
	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"github.com/mediad/mediad/pipeline/plugin/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// limits are how long things may take.
type limits struct {
	start    time.Duration // a plugin, until it can be used
	call     time.Duration // a call that waits for nobody, and the next batch of recorded media
	stuck    time.Duration // a call that was cancelled, until the plugin has ended itself for it
	ping     time.Duration // between two questions for the health
	pong     time.Duration // the answer
	memory   time.Duration // between two looks at its memory
	exit     time.Duration // the process, once it has nothing to do
	backoff  time.Duration // before the first new start, and a multiple of it before each further one
	window   time.Duration // failures in which
	failures int           // are too many
}

// wait is how long to wait for the next start after the nth failure: for up to twice as
// long as it says, so that those that failed together do not start together.
func (l limits) wait(n int) time.Duration {
	wait := l.backoff
	for range min(n, 4) - 1 {
		wait *= 3
	}
	return wait + rand.N(wait)
}

var defaults = limits{
	start:    10 * time.Second,
	call:     30 * time.Second,
	stuck:    8 * time.Second,
	ping:     2 * time.Second,
	pong:     5 * time.Second,
	memory:   time.Second,
	exit:     time.Second,
	backoff:  100 * time.Millisecond,
	window:   time.Minute,
	failures: 5,
}

// A process is one run of a plugin. Its context ends when it has failed, by the cause
// of that, or is closed.
type process struct {
	binary Binary
	limits limits
	run    *runner
	client *goplugin.Client
	conn   *grpc.ClientConn
	stage  pb.StageClient

	ctx  context.Context
	end  context.CancelCauseFunc
	work sync.WaitGroup

	daemon *grpc.Server      // the daemon's readers, writer and nodes; nil when the stage needs none
	nodes  *wire.NodesServer // nil when the daemon is alone
	folder string            // of the sockets
}

var (
	errEnded = errors.New("the plugin was ended")
	errHangs = errors.New("hangs")
)

// start starts the plugin and connects to it, until ctx ends.
func start(ctx context.Context, b Binary, limits limits, log hclog.Logger) (*process, error) {
	if err := b.verify(); err != nil {
		return nil, err
	}
	folder, err := newFolder()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(b.Path, b.Args...) //nolint:noctx // it is ended by its runner
	p := &process{binary: b, limits: limits, run: newRunner(cmd), folder: folder}
	p.ctx, p.end = context.WithCancelCause(context.Background())
	prints := log.Named(b.Name).StandardWriter(&hclog.StandardLoggerOptions{ForceLevel: hclog.Info})
	p.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  wire.Handshake,
		VersionedPlugins: map[int]goplugin.PluginSet{wire.Version: {}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		StartTimeout:     limits.start,
		SkipHostEnv:      true,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: folder},
		GRPCDialOptions:  wire.DialOptions(),
		Logger:           quiet{log, b.Name},
		SyncStdout:       prints,
		SyncStderr:       prints,
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, _ string) (goplugin_runner.Runner, error) {
			cmd.Env = append(environment(), spec.Env...)
			cmd.Env = append(cmd.Env, wire.LogLevel+"="+log.GetLevel().String())
			if b.Memory > 0 { // a Go program then tries to stay below
				cmd.Env = append(cmd.Env, "GOMEMLIMIT="+strconv.FormatInt(int64(b.Memory)/10*9, 10))
			}
			return p.run, nil
		},
	})
	if err := p.connect(ctx); err != nil {
		p.close(0)
		return nil, err
	}
	p.work.Go(p.watchExit)
	p.work.Go(p.watchHealth)
	if b.Memory > 0 {
		p.work.Go(p.watchMemory)
	}
	return p, nil
}

// connect does the handshake.
func (p *process) connect(ctx context.Context) error {
	type result struct {
		client goplugin.ClientProtocol
		err    error
	}
	done := make(chan result, 1)
	go func() {
		client, err := p.client.Client()
		done <- result{client, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		p.run.kill()
		<-done
		return ctx.Err()
	}
	if r.err == nil {
		p.conn = r.client.(*goplugin.GRPCClient).Conn
		p.stage = pb.NewStageClient(p.conn)
		return nil
	}
	if p.run.pid() == 0 {
		return fmt.Errorf("%s cannot be started: %w", p.binary.Path, r.err)
	}
	p.run.kill()
	<-p.run.exited
	if err := p.run.stdout.wrong(p.binary.Path); err != nil {
		return err
	}
	if strings.Contains(r.err.Error(), "timeout") {
		return fmt.Errorf("%s is no plugin for mediad, or hangs: no handshake within %v%s", p.binary.Path, p.limits.start, p.run.last())
	}
	return fmt.Errorf("%s ended before its handshake (%s)%s", p.binary.Path, p.run.status, p.run.last())
}

// describe asks what the plugin is.
func (p *process) describe(ctx context.Context) (*pb.Kind, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limits.start)
	defer cancel()
	kind, err := p.stage.Describe(ctx, &pb.DescribeRequest{})
	if err != nil {
		return nil, fmt.Errorf("%s does not describe itself: %w", p.binary.Path, p.because(ctx, err))
	}
	return kind, nil
}

// make makes the stage. The sockets' files are not needed after it.
func (p *process) make(ctx context.Context, env stage.Env, settings map[string]*pb.Value) error {
	ctx, cancel := context.WithTimeout(ctx, p.limits.start)
	defer cancel()
	req := &pb.MakeRequest{Name: env.Name, Settings: settings, Drain: int64(env.Drain), Output: env.Output != nil}
	for _, in := range env.Inputs {
		req.Inputs = append(req.Inputs, in.Name)
	}
	if env.Nodes != nil {
		req.Node = env.Nodes.Self()
		p.nodes = &wire.NodesServer{Nodes: env.Nodes}
	}
	if req.Output || req.Inputs != nil || p.nodes != nil {
		req.Daemon = filepath.Join(p.folder, "daemon")
		if err := p.offer(ctx, req.Daemon, env); err != nil {
			return err
		}
	}
	if _, err := p.stage.Make(ctx, req); err != nil {
		return fmt.Errorf("%s cannot make its stage: %w", p.binary.Path, p.because(ctx, err))
	}
	return os.RemoveAll(p.folder)
}

// offer serves the readers, the writer and the nodes of env on a socket.
func (p *process) offer(ctx context.Context, socket string, env stage.Env) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	p.daemon = newServer(env, p.nodes)
	p.work.Go(func() {
		// It ends by Stop, or the plugin's calls fail and it tells so.
		_ = p.daemon.Serve(l)
	})
	return nil
}

// because is what an error of a call comes from: what ended the process if that
// has failed, as it mostly has when the connection is lost.
func (p *process) because(ctx context.Context, err error) error {
	err = wire.FromStatus(err)
	if wire.Lost(err) {
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-p.ctx.Done():
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	return err
}

// fail ends the process for a reason. Only the first counts.
func (p *process) fail(cause error) {
	p.end(cause)
	p.run.kill()
}

// hung is the failure of a plugin that does not answer.
func (p *process) hung(what string, d time.Duration) error {
	err := fmt.Errorf("%s %w: no answer to %s within %v%s", p.binary.Path, errHangs, what, d, p.run.last())
	p.fail(err)
	return err
}

func (p *process) watchExit() {
	<-p.run.exited
	p.fail(fmt.Errorf("%s has ended (%s)%s", p.binary.Path, p.run.status, p.run.last()))
}

func (p *process) watchHealth() {
	client := grpc_health_v1.NewHealthClient(p.conn)
	tick := time.NewTicker(p.limits.ping)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(p.ctx, p.limits.pong)
		reply, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: goplugin.GRPCServiceName})
		late := ctx.Err() != nil
		cancel()
		switch {
		case p.ctx.Err() != nil:
			return
		case late:
			_ = p.hung("the question for its health", p.limits.pong)
		case err != nil:
			p.fail(fmt.Errorf("%s does not tell its health: %w%s", p.binary.Path, p.because(p.ctx, err), p.run.last()))
		case reply.Status != grpc_health_v1.HealthCheckResponse_SERVING:
			p.fail(fmt.Errorf("%s says of itself that it does not serve (%s)%s", p.binary.Path, reply.Status, p.run.last()))
		}
	}
}

func (p *process) watchMemory() {
	tick := time.NewTicker(p.limits.memory)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		if has := resident(p.run.pid()); has > p.binary.Memory {
			p.fail(fmt.Errorf("%s has grown to %d MiB, past its memory of %v", p.binary.Path, has>>20, p.binary.Memory))
		}
	}
}

// resident is the resident set of a process, 0 when it cannot be told.
func resident(pid int) stage.Size {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm") // proc(5): total, resident... in pages
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return stage.Size(pages) * stage.Size(os.Getpagesize())
}

// close ends the process, if need be by force after patience, and releases
// all that belongs to it.
func (p *process) close(patience time.Duration) {
	p.end(errEnded)
	p.run.release(patience)
	if p.daemon != nil {
		p.daemon.Stop()
	}
	if p.nodes != nil {
		p.nodes.Close()
	}
	// The process is gone, so none of go-plugin's waits is long.
	p.client.Kill()
	p.work.Wait()
	_ = os.RemoveAll(p.folder)
}

// quiet is a logger for go-plugin that keeps silent about what is reported here in one
// line, and passes on what the plugin logs.
type quiet struct {
	hclog.Logger
	plugin string
}

func (q quiet) Trace(string, ...any) {}
func (q quiet) Debug(string, ...any) {}
func (q quiet) Info(string, ...any)  {}
func (q quiet) Warn(string, ...any)  {}
func (q quiet) Error(string, ...any) {}

// Named is what the lines of the plugin are logged by, and go-plugin's about its pipes.
func (q quiet) Named(name string) hclog.Logger {
	if name == "stdio" {
		return hclog.NewNullLogger()
	}
	return q.Logger.Named(q.plugin)
}
