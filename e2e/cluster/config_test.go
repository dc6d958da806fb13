// The pipelines.yaml of the lab's nodes.

package lab

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/pipeline/api"
)

// token lets this process ask the nodes.
const token = "a-token-of-the-lab"

// serviceConfig is what a node runs unless a test edits it; NAME, ADDRESS and JOIN are its own. Links
// are plain so that what crosses them can be counted; TLS has a test of its own.
const serviceConfig = `version: 1
listen: {rtmp: ":1935", http: ":8080", token: ` + token + `}
cluster: {name: NAME, listen: "ADDRESS:4222", join: [JOIN], role: ROLE, secret: lab, dir: ./member}
pipelines:
  peers:
    - from: [live/broadcast, on-demand/cache]
    - use: repeater-tcp
      with: {listen: "ADDRESS:4100", plain: true}
  live:
    - use: ingest
      with: {app: live, allow: [0.0.0.0/0], linger: 10s}
    - use: broadcast
      from: peers
    - use: stream
      with: {app: live}
  on-demand:
    - use: reader-disk
      with: {root: ./media}
    - use: broker
      from: peers
    - use: cache
    - use: stream
      with: {app: vod}
`

// members is how many nodes of a lab carry the control plane.
const members = 3

// service runs a node on each host of a new lab, the first three of which are
// members, or the first alone of two, and waits until all see each other. The edits are pairs of a text in
// the file and what is to stand in its place.
func service(t *testing.T, hosts int, edits ...string) (*lab, []*node) {
	t.Helper()
	l := newLab(t, hosts)
	members := members
	if hosts < members {
		members = 1
	}
	var join []string
	for _, h := range l.hosts[:members] {
		join = append(join, fmt.Sprintf("%q", h.address+":4222"))
	}
	var nodes []*node
	for i, h := range l.hosts {
		role := "member"
		if i >= members {
			role = "client"
		}
		text := strings.NewReplacer(edits...).Replace(serviceConfig)
		text = strings.NewReplacer("NAME", h.name, "ADDRESS", h.address, "JOIN", strings.Join(join, ", "), "ROLE", role).Replace(text)
		nodes = append(nodes, h.node(text))
	}
	together(t, nodes)
	return l, nodes
}

// together starts nodes, and waits until they know each other.
func together(t *testing.T, nodes []*node) {
	t.Helper()
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		n.healthy()
		n.sees(nodes...)
	}
}

// sees waits until the node has read the directory and knows others as alive.
func (n *node) sees(others ...*node) {
	n.t.Helper()
	eventually(n.t, n.name+" reads the directory", func() error {
		if n.metric("mediad_cluster_snapshots_total") == 0 {
			return errors.New("it has not yet")
		}
		return nil
	})
	eventually(n.t, n.name+" sees all nodes", func() error {
		for _, o := range others {
			if state, err := n.state(o); err != nil || state != cluster.Alive {
				return fmt.Errorf("%s is %q: %v", o.name, state, err)
			}
		}
		return nil
	})
}

// misses waits until the node takes another for dead, and returns how long that took.
func (n *node) misses(other *node) time.Duration {
	n.t.Helper()
	return eventually(n.t, other.name+" is gone for "+n.name, func() error {
		state, err := n.state(other)
		if err == nil && state != cluster.Dead {
			err = fmt.Errorf("it is %q", state)
		}
		return err
	})
}

// state is what the node knows of another, "" when it knows nothing.
func (n *node) state(other *node) (cluster.State, error) {
	var list []api.Node
	if err := n.get("/api/nodes", &list); err != nil {
		return "", err
	}
	for _, m := range list {
		if m.Name == other.name {
			return m.State, nil
		}
	}
	return "", nil
}

// believes waits until the node knows that another is busy.
func (n *node) believes(other *node, load float64) {
	n.t.Helper()
	eventually(n.t, fmt.Sprintf("%s knows that %s is busy", n.name, other.name), func() error {
		var list []api.Node
		err := n.get("/api/nodes", &list)
		for _, m := range list {
			if m.Name == other.name && m.Load.Max() < load*0.9 {
				return fmt.Errorf("it has it for %.0f%% busy", 100*m.Load.Max())
			}
		}
		return err
	})
}

// lookUp is what the node knows of a channel on all nodes.
func (n *node) lookUp(name string) (api.Channel, error) {
	var all api.Channels
	if err := n.get("/api/cluster/channels", &all); err != nil {
		return api.Channel{}, err
	}
	for _, c := range all.Channels {
		if c.Name == name {
			return c, nil
		}
	}
	return api.Channel{}, fmt.Errorf("%s does not know of %s", n.name, name)
}

// knows waits until the node knows that another has the channel.
func (n *node) knows(name string, owner *node) {
	n.t.Helper()
	eventually(n.t, fmt.Sprintf("%s knows that %s has %s", n.name, owner.name, name), func() error {
		c, err := n.lookUp(name)
		if err == nil && c.Owner != owner.name {
			err = fmt.Errorf("it has %q for the owner", c.Owner)
		}
		return err
	})
}

// comes waits until all know that the channel comes to the node by a path of nodes.
func (n *node) comes(name string, path ...string) {
	n.t.Helper()
	eventually(n.t, fmt.Sprintf("%s comes to %s by %v", name, n.name, path), func() error {
		c, err := n.lookUp(name)
		if err != nil {
			return err
		}
		for _, h := range c.Holders {
			if h.Node == n.name && slices.Equal(h.Path, path) {
				return nil
			}
		}
		return fmt.Errorf("the holders are %v", c.Holders)
	})
}
