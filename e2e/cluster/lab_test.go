// The lab's network: hosts, each with one link to the other hosts and one to its
// clients.

package lab

import (
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
)

// A lab is some hosts on two switches. Through the one the nodes reach each other at 10.K.0.N,
// through the other this process reaches the nodes at 10.K.1.N: what is cut, slowed and
// counted on the first is between nodes alone.
type lab struct {
	t     *testing.T
	k     int
	hosts []*host
}

// A host is a network namespace with an address in both networks.
type host struct {
	t       *testing.T
	lab     int
	name    string // n1, n2...
	netns   string // as `ip netns` names it, and this end of its link to the other hosts
	nodes   string // the switch that belongs to
	address string // for the other nodes
	public  string // for clients
}

var labs atomic.Int32

// newLab makes a lab, which is taken down when the test ends.
func newLab(t *testing.T, hosts int) *lab {
	t.Helper()
	l := &lab{t: t, k: 76 + int(labs.Add(1))}
	l.ip("link add name nodes%d type bridge", l.k)
	l.ip("link add name public%d type bridge", l.k)
	l.ip("link set nodes%d up", l.k)
	l.ip("link set public%d up", l.k)
	l.ip("address add 10.%d.1.254/24 dev public%d", l.k, l.k)
	t.Cleanup(func() {
		for _, h := range l.hosts {
			l.ip("netns delete %s", h.netns)
		}
		l.ip("link delete nodes%d", l.k)
		l.ip("link delete public%d", l.k)
	})
	for n := 1; n <= hosts; n++ {
		h := &host{
			t:       t,
			lab:     l.k,
			name:    fmt.Sprintf("n%d", n),
			netns:   fmt.Sprintf("lab%d-%d", l.k, n),
			nodes:   fmt.Sprintf("nodes%d", l.k),
			address: fmt.Sprintf("10.%d.0.%d", l.k, n),
			public:  fmt.Sprintf("10.%d.1.%d", l.k, n),
		}
		l.hosts = append(l.hosts, h)
		l.ip("netns add %s", h.netns)
		l.ip("-n %s link set lo up", h.netns)
		l.ip("link add name %s type veth peer name nodes netns %s", h.netns, h.netns)
		l.ip("link add name p%s type veth peer name public netns %s", h.netns, h.netns)
		l.ip("link set %s up master %s", h.netns, h.nodes)
		l.ip("link set p%s up master public%d", h.netns, l.k)
		for dev, address := range map[string]string{"nodes": h.address, "public": h.public} {
			l.ip("-n %s address add %s/24 dev %s", h.netns, address, dev)
			l.ip("-n %s link set %s up", h.netns, dev)
		}
	}
	return l
}

func (l *lab) ip(format string, args ...any) {
	l.t.Helper()
	if err := ip(format, args...); err != nil {
		l.t.Error(err)
	}
}

// ip runs iproute2's ip with the words of a line.
func ip(format string, args ...any) error {
	return words("ip", format, args...)
}

func words(name, format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	out, err := exec.Command(name, strings.Fields(line)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, line, err, out)
	}
	return nil
}

// command runs a program on the host.
func (h *host) command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.netns, name}, args...)...)
}

// cut takes the host from the other hosts. Nobody is told: packets are lost.
func (h *host) cut() { h.do("ip", "link set %s nomaster", h.netns) }

// heal ends cut.
func (h *host) heal() { h.do("ip", "link set %s master %s", h.netns, h.nodes) }

// slow gives the link to the other hosts a rate, such as 1mbit, in both directions.
func (h *host) slow(rate string) {
	h.do("tc", "qdisc replace dev %s root tbf rate %s burst 128kb latency 400ms", h.netns, rate)
	h.do("tc", "-n %s qdisc replace dev nodes root tbf rate %s burst 128kb latency 400ms", h.netns, rate)
}

// fast ends slow.
func (h *host) fast() {
	h.do("tc", "qdisc delete dev %s root", h.netns)
	h.do("tc", "-n %s qdisc delete dev nodes root", h.netns)
}

// segment makes the link carry packets no larger than a real wire does, so that
// each one's headers are counted.
func (h *host) segment() { h.do("ip", "-n %s link set nodes gso_max_segs 1", h.netns) }

func (h *host) do(name, format string, args ...any) {
	h.t.Helper()
	if err := words(name, format, args...); err != nil {
		h.t.Fatal(err)
	}
}
