// The directory over NATS: three servers in this process, nodes that reach them through a
// gate which can be shut.

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// natsEngine is a cluster of members that carry the directory and nothing else.
type natsEngine struct {
	configs []Config
	join    []string
	secret  string

	mu      sync.Mutex
	gates   map[string]*gate
	servers []*server
}

// subnet is one of 127.0.0.0/8 that nobody else is likely to use.
func subnet() string {
	return fmt.Sprintf("127.%d.%d.", 1+rand.N(250), rand.N(256))
}

func newNATSEngine(t *testing.T, members int) *natsEngine {
	e := &natsEngine{gates: map[string]*gate{}, secret: "s3cret"}
	net := subnet()
	for i := range members {
		e.join = append(e.join, fmt.Sprintf("%s%d:4222", net, i+1))
	}
	for i, listen := range e.join {
		cfg := DefaultConfig()
		cfg.Name, cfg.Listen, cfg.Join, cfg.Secret = fmt.Sprintf("member-%d", i+1), listen, e.join, e.secret
		e.configs = append(e.configs, cfg)
	}
	e.restore(t)
	return e
}

func (e *natsEngine) directory(name string) Directory {
	cfg := DefaultConfig()
	cfg.Name, cfg.Role, cfg.Join, cfg.Secret = name, Client, e.join, e.secret
	return e.through(cfg)
}

// through makes a directory behind a gate.
func (e *natsEngine) through(cfg Config) Directory {
	d, err := newNATS(cfg, hclog.NewNullLogger())
	if err != nil {
		panic(err)
	}
	g := &gate{conns: map[*gated]bool{}}
	d.dial = g
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gates[cfg.Name] = g
	return d
}

func (e *natsEngine) gate(name string) *gate {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gates[name]
}

func (e *natsEngine) cut(name string)  { e.gate(name).shut() }
func (e *natsEngine) heal(name string) { e.gate(name).open() }
func (e *natsEngine) hold(name string) { e.gate(name).hold() }
func (e *natsEngine) goOn(name string) { e.gate(name).goOn() }

func (e *natsEngine) lose() {
	var stopping sync.WaitGroup
	for _, s := range e.servers {
		stopping.Go(func() {
			s.Shutdown() // nothing is handed over
			s.stop()
		})
	}
	stopping.Wait()
	e.servers = nil
}

func (e *natsEngine) close() { e.lose() }

func (e *natsEngine) restore(t *testing.T) {
	for _, cfg := range e.configs {
		s, err := startServer(cfg, nil, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		e.servers = append(e.servers, s)
	}
}

// outside is a nats-server in a process of its own, without a secret.
type outside struct {
	natsEngine
	binary, listen, dir string
	running             *exec.Cmd
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	dir, err := os.MkdirTemp("", "mediad-cluster-test-")
	if err != nil {
		t.Fatal(err)
	}
	e := &outside{natsEngine: natsEngine{gates: map[string]*gate{}}, binary: dir + "/nats-server", listen: subnet() + "1", dir: dir}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", e.binary, "github.com/nats-io/nats-server/v2")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e.restore(t)
	return e
}

func (e *outside) directory(name string) Directory {
	cfg := DefaultConfig()
	cfg.Name, cfg.NATS = name, "nats://"+e.listen+":4222"
	return e.through(cfg)
}

func (e *outside) restore(t *testing.T) {
	e.running = exec.Command(e.binary, "-a", e.listen, "-p", "4222", "-js", "-sd", e.dir+"/store")
	if err := e.running.Start(); err != nil {
		t.Fatal(err)
	}
}

func (e *outside) lose() {
	e.running.Process.Kill()
	e.running.Wait()
	os.RemoveAll(e.dir + "/store")
}

func (e *outside) close() {
	e.lose()
	os.RemoveAll(e.dir)
}

// gate is what a node's connections go through.
type gate struct {
	mu    sync.Mutex
	conns map[*gated]bool
	cut   bool
	held  chan struct{} // nil while it isn't
}

type gated struct {
	net.Conn
	g *gate
}

func (g *gate) Dial(network, address string) (net.Conn, error) {
	g.wait()
	conn, err := (&net.Dialer{}).DialContext(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		conn.Close()
		return nil, errors.New("cut off")
	}
	c := &gated{conn, g}
	g.conns[c] = true
	return c, nil
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = true
	for c := range g.conns {
		c.Conn.Close()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = false
}

func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = make(chan struct{})
}

func (g *gate) goOn() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.held)
	g.held = nil
}

func (g *gate) wait() {
	g.mu.Lock()
	held := g.held
	g.mu.Unlock()
	if held != nil {
		<-held
	}
}

func (c *gated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.g.wait()
	return n, err
}

func (c *gated) Write(b []byte) (int, error) {
	c.g.wait()
	return c.Conn.Write(b)
}

func (c *gated) Close() error {
	c.g.mu.Lock()
	delete(c.g.conns, c)
	c.g.mu.Unlock()
	return c.Conn.Close()
}
