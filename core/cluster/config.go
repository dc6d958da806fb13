// What may be set of a cluster: the `cluster:` of pipelines.yaml.

package cluster

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/mediad/mediad/core/stage"
)

// Config are the settings of a node.
type Config struct {
	Name    string     `set:"name" doc:"name of this node, another for each; its host's when it is not set"`
	Role    Role       `set:"role" doc:"member: the node carries the directory, together with the others of join (one, three or five of them); client: it uses that of the members"`
	Listen  string     `set:"listen" doc:"host:port at which a member serves clients; the members reach one another 2000 ports above. Empty: the node is alone"`
	Join    []string   `set:"join" doc:"host:port of all members, in the same order or not, this one's too; a member alone needs none"`
	NATS    string     `set:"nats" doc:"URL of a NATS with JetStream, nats://user:password@host:4222,..., in place of members"`
	Secret  string     `set:"secret" doc:"what all nodes know and nobody else does; may be left out on loopback addresses only"`
	Cert    string     `set:"cert" doc:"file with this node's certificate, for TLS between the nodes, checked on both sides"`
	Key     string     `set:"key" doc:"file with the key of cert"`
	CA      string     `set:"ca" doc:"file with the certificates that sign those of the nodes"`
	Dir     string     `set:"dir" doc:"folder for a member's notes, kept over restarts; a temporary one when it is not set"`
	Network stage.Size `set:"network" doc:"bytes a second that the network of this node carries each way: its load is measured by it"`
}

// Role is a node's part in carrying the directory.
type Role string

// The roles.
const (
	Member Role = "member"
	Client Role = "client"
)

// UnmarshalText reads a role.
func (r *Role) UnmarshalText(b []byte) error {
	switch role := Role(b); role {
	case Member, Client:
		*r = role
		return nil
	}
	return fmt.Errorf("%q is no role, use member or client", b)
}

// DefaultConfig is what holds when nothing is set.
func DefaultConfig() Config {
	host, _ := os.Hostname() // Check tells when there is none
	return Config{Name: host, Role: Member, Listen: ":4222", Network: 125e6}
}

// alone says that there are no other nodes.
func (c *Config) alone() bool { return c.NATS == "" && c.Role == Member && c.Listen == "" }

// Check says what cannot be.
func (c *Config) Check() error {
	if err := checkNode(c.Name); err != nil {
		return stage.Wrong("name", "%v", err)
	}
	if c.Network < 1 {
		return stage.Wrong("network", "%v is no speed, use the bytes a second that the network carries, such as 125MB", c.Network)
	}
	if (c.Cert == "") != (c.Key == "") || (c.Cert == "") != (c.CA == "") {
		return stage.Wrong("cert", "cert, key and ca are wanted together")
	}
	for _, address := range c.Join {
		if _, _, err := splitAddress(address); err != nil {
			return stage.Wrong("join", "%v", err)
		}
	}
	switch {
	case c.NATS != "":
		return c.checkNATS()
	case c.Role == Client:
		return c.checkClient()
	case c.Listen == "":
		if len(c.Join) > 0 {
			return stage.Wrong("listen", "is empty, but the members of join have to reach this one")
		}
		return nil
	}
	return c.checkMember()
}

func (c *Config) checkNATS() error {
	for server := range strings.SplitSeq(c.NATS, ",") {
		if u, err := url.Parse(server); err != nil || u.Host == "" {
			return stage.Wrong("nats", "%q is no URL such as nats://host:4222", server)
		}
	}
	if len(c.Join) > 0 {
		return stage.Wrong("join", "is for nodes that carry the directory themselves, but nats is set")
	}
	return nil
}

func (c *Config) checkClient() error {
	if len(c.Join) == 0 {
		return stage.Wrong("join", "is missing: a client has to know the members")
	}
	return c.checkSecret(c.Join...)
}

func (c *Config) checkMember() error {
	_, port, err := splitAddress(c.Listen)
	if err != nil {
		return stage.Wrong("listen", "%v", err)
	}
	if port+routeOffset > 65535 {
		return stage.Wrong("listen", "port %d leaves none for the other members, who use %d above it", port, routeOffset)
	}
	if len(c.Join) == 2 {
		return stage.Wrong("join", "two members stop when either does: use three, or one, the other being a client")
	}
	return c.checkSecret(append([]string{c.Listen}, c.Join...)...)
}

// checkSecret wants a secret when one of the addresses can be reached from outside.
func (c *Config) checkSecret(addresses ...string) error {
	if c.Secret != "" {
		return nil
	}
	for _, address := range addresses {
		host, _, _ := splitAddress(address)
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return stage.Wrong("secret", "is missing: whoever reaches %s could take every channel; set the same secret on all nodes", address)
		}
	}
	return nil
}

// splitAddress reads host:port; the host may be empty.
func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port", address)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("%q has no port from 1 to 65535", address)
	}
	return host, port, nil
}

// checkNode says what is wrong with the name of a node.
func checkNode(name string) error {
	if name == "" || len(name) > 63 {
		return fmt.Errorf("the name of a node has 1 to 63 characters, not %d", len(name))
	}
	for _, r := range name {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !letter && !strings.ContainsRune("-_.", r) {
			return fmt.Errorf("the name of a node has letters, digits, dashes, dots and underscores, no %q", r)
		}
	}
	return nil
}
