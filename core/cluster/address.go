// By which address the other nodes find this one.

package cluster

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// listeners are the host:port of what this node listens at, "" for what it does not.
type listeners struct{ repeater, rtmp, http string }

// locate keeps the host of this node's beats right until ctx ends.
func (c *Cluster) locate(ctx context.Context) {
	for {
		host := c.route(ctx)
		c.mu.Lock()
		if host == "" && c.host == "" {
			host = firstAddress()
		}
		if host != "" && host != c.host {
			c.host = host
			c.place()
		}
		c.mu.Unlock()
		select {
		case <-time.After(assertEvery):
		case <-ctx.Done():
			return
		}
	}
}

// place puts into the beats where the others find the listeners. The caller holds mu.
func (c *Cluster) place() {
	b := &c.self.beat
	b.Repeater, b.RTMP, b.HTTP = c.find(c.listens.repeater), c.find(c.listens.rtmp), c.find(c.listens.http)
	c.notify()
	wake(c.due)
}

// find is where a listener is found: at its own address, or at this node's when it takes what comes to
// any. It is "" while that is not known.
func (c *Cluster) find(listener string) string {
	host, port, err := net.SplitHostPort(listener)
	switch {
	case err != nil || host != "" && !net.ParseIP(host).IsUnspecified():
		return listener
	case c.host == "":
		return ""
	}
	return net.JoinHostPort(c.host, port)
}

// host is the address of this machine on the way to the directory, "" when there is no way.
func (c *Config) host(ctx context.Context) string {
	const limit = time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if host, _, err := splitAddress(c.Listen); err == nil && c.NATS == "" && c.Role == Member {
		if host != "" && !net.ParseIP(host).IsUnspecified() {
			return host
		}
	}
	servers := slices.Clone(c.Join)
	for server := range strings.SplitSeq(c.NATS, ",") {
		if u, err := url.Parse(server); err == nil && u.Host != "" {
			servers = append(servers, net.JoinHostPort(u.Hostname(), "4222"))
		}
	}
	for _, server := range servers {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", server) // which sends nothing
		if err != nil {
			continue
		}
		host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
		conn.Close()
		return host
	}
	return ""
}

// firstAddress is the first one of this machine that is not for itself alone.
func firstAddress() string {
	addresses, _ := net.InterfaceAddrs() // without any there is this machine alone
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
