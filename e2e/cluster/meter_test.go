// What crosses the links between nodes, packet by packet.

package lab

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A meter counts the packets that come from one end of a link, by their TCP ports.
type meter struct {
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	ports map[uint16]count // by either port
	all   count
}

// count is a number of bytes: on the wire with all headers from Ethernet's on, and without them.
type count struct{ wire, payload int64 }

func (c count) plus(d count) count  { return count{c.wire + d.wire, c.payload + d.payload} }
func (c count) minus(d count) count { return count{c.wire - d.wire, c.payload - d.payload} }

// listen begins to count what comes from the host: to the other hosts, or with
// public to its clients.
func (h *host) listen(public bool) *meter {
	h.t.Helper()
	name := h.netns
	if public {
		name = "p" + name
	}
	device, err := net.InterfaceByName(name)
	if err != nil {
		h.t.Fatal(err)
	}
	const all = syscall.ETH_P_ALL<<8&0xff00 | syscall.ETH_P_ALL>>8 // in network order (packet(7))
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, all)
	if err == nil {
		err = errors.Join(
			syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: all, Ifindex: device.Index}),
			syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, 64<<20), // beyond what the system allows others
			syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Usec: 100_000}))
	}
	if err != nil {
		h.t.Fatalf("count packets on %s: %v", name, err)
	}
	m := &meter{stop: make(chan struct{}), done: make(chan struct{}), ports: map[uint16]count{}}
	go m.run(fd)
	h.t.Cleanup(func() {
		close(m.stop)
		<-m.done
		if lost := drops(h.t, fd); lost > 0 {
			h.t.Errorf("%d packets on %s were not counted", lost, name)
		}
		_ = syscall.Close(fd)
	})
	return m
}

func (m *meter) run(fd int) {
	defer close(m.done)
	head := make([]byte, 128)
	for {
		select {
		case <-m.stop:
			return
		default:
		}
		// With MSG_TRUNC the result is the packet's own size (packet(7)).
		size, from, err := syscall.Recvfrom(fd, head, syscall.MSG_TRUNC)
		if link, ok := from.(*syscall.SockaddrLinklayer); err != nil || !ok || link.Pkttype == syscall.PACKET_OUTGOING {
			continue
		}
		m.take(head[:min(size, len(head))], int64(size))
	}
}

// take counts a packet; what is no TCP over IPv4 has no port.
func (m *meter) take(p []byte, size int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := count{wire: size}
	m.all = m.all.plus(c)
	const ethernet = 14
	if len(p) < ethernet+40 || binary.BigEndian.Uint16(p[12:]) != syscall.ETH_P_IP {
		return
	}
	packet := p[ethernet:]
	ip := int(packet[0]&0xf) * 4
	if packet[9] != syscall.IPPROTO_TCP || len(packet) < ip+20 {
		return
	}
	tcp := packet[ip:]
	c.payload = int64(binary.BigEndian.Uint16(packet[2:])) - int64(ip) - int64(tcp[12]>>4)*4
	m.all.payload += c.payload
	for _, port := range [2]uint16{binary.BigEndian.Uint16(tcp), binary.BigEndian.Uint16(tcp[2:])} {
		m.ports[port] = m.ports[port].plus(c)
	}
}

// port is what has been counted of a port.
func (m *meter) port(n uint16) count {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ports[n]
}

// total is what has been counted.
func (m *meter) total() count {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all
}

// drops is how many packets the kernel had no room for (packet(7), PACKET_STATISTICS).
func drops(t *testing.T, fd int) uint32 {
	const statistics = 6
	v, err := syscall.GetsockoptIPMreq(fd, syscall.SOL_PACKET, statistics) // two words too
	if err != nil {
		t.Error(err)
		return 0
	}
	return binary.NativeEndian.Uint32(v.Interface[:])
}

// media is the port of the repeaters in the lab.
const mediaPort = 4100

// A tally is what some meters have counted.
type tally struct{ media, other count }

func sum(meters []*meter) (s tally) {
	for _, m := range meters {
		media := m.port(mediaPort)
		s.media = s.media.plus(media)
		s.other = s.other.plus(m.total().minus(media))
	}
	return s
}

// over returns what the meters count in a time.
func over(meters []*meter, d time.Duration) tally {
	before := sum(meters)
	time.Sleep(d)
	after := sum(meters)
	return tally{after.media.minus(before.media), after.other.minus(before.other)}
}
