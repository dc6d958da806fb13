// An outside nats-server in the place of the one in the members.

package lab

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// natsService is service with a nats-server on a host of its own, which start starts
// again after stop.
func natsService(t *testing.T, hosts int) (nodes []*node, start, stop func()) {
	t.Helper()
	l := newLab(t, hosts+1)
	h := l.hosts[hosts]
	var end func()
	start = func() { end = h.natsServer(t) }
	stop = func() { end() }
	start()
	for _, host := range l.hosts[:hosts] {
		nodes = append(nodes, host.natsNode(h))
	}
	together(t, nodes)
	return nodes, start, stop
}

// natsServer runs a nats-server on h until stop, or the end of the test.
func (h *host) natsServer(t *testing.T, args ...string) (stop func()) {
	t.Helper()
	args = append([]string{"--addr", h.address, "--jetstream", "--store_dir", t.TempDir()}, args...)
	server := h.command(filepath.Join(bin, "nats-server"), args...)
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// natsNode is a node on h with the nats-server of a host.
func (h *host) natsNode(server *host) *node {
	text := strings.Replace(serviceConfig, `listen: "ADDRESS:4222", join: [JOIN], role: ROLE, secret: lab, dir: ./member`, `nats: "nats://`+server.address+`:4222"`, 1)
	return h.node(strings.NewReplacer("NAME", h.name, "ADDRESS", h.address).Replace(text))
}

func TestOutsideNATS_PublishAndWatch(t *testing.T) {
	t.Parallel()
	nodes, _, _ := natsService(t, 3)
	nodes[0].publish(show{"show", 'a', bits})
	for _, n := range nodes {
		v := n.watch("show")
		v.from('a', time.Now().Add(2*time.Second))
		v.whole(time.Time{})
	}
}

func TestOutsideNATS_T59_OwnerKilled(t *testing.T) {
	t.Parallel()
	nodes, _, _ := natsService(t, 4)
	ownerKilled(t, nodes, func() {})
}

func TestOutsideNATS_T61_OwnerPartitioned(t *testing.T) {
	t.Parallel()
	nodes, _, _ := natsService(t, 3)
	partitioned(t, nodes)
}

// TestOutsideNATS_T62_NoControlPlane ends the server for a minute; it comes back
// without its memory.
func TestOutsideNATS_T62_NoControlPlane(t *testing.T) {
	t.Parallel()
	nodes, start, stop := natsService(t, 3)
	withoutControl(t, nodes, stop, start)
}

// natsCluster is a node on each of three hosts, and beside it a nats-server, which together are one NATS.
func natsCluster(t *testing.T) (nodes []*node) {
	t.Helper()
	l := newLab(t, 3)
	var routes []string
	for _, h := range l.hosts {
		routes = append(routes, "nats://"+h.address+":6222")
	}
	for i, h := range l.hosts {
		h.natsServer(t, "--server_name", h.name, "--cluster_name", "lab", "--cluster", routes[i], "--routes", strings.Join(routes, ","))
		nodes = append(nodes, h.natsNode(h))
	}
	together(t, nodes)
	return nodes
}

func TestThreeServers_T61_OwnerPartitioned(t *testing.T) {
	t.Parallel()
	partitioned(t, natsCluster(t))
}
