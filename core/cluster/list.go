// What is told of the nodes and the channels: to the stages, and to the API.

package cluster

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/mediad/mediad/core/stage"
)

// Peers implements stage.Nodes. While this node cannot hear the others, who is suspect may
// as well be alive.
func (c *Cluster) Peers(_ context.Context, name string, live bool) ([]stage.Peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	deaf := c.deaf(now)
	var peers []stage.Peer
	add := func(n *node, path []string) {
		s := c.state(n, now)
		if n.Node != c.name && n.Repeater != "" && !n.Draining && (s == Alive || deaf && s == Suspect) {
			peers = append(peers, stage.Peer{Name: n.Node, Address: n.Repeater, Load: n.Load.Max(), Path: path})
		}
	}
	if !live {
		for _, n := range c.nodes {
			add(n, nil)
		}
	} else if ch, ok := c.channels[name]; ok {
		for r := range ch.on(&c.view) {
			if r.Holder == "" {
				add(c.nodes[r.Node], []string{r.Node})
			} else if r.Node != ch.owner.Node {
				add(c.nodes[r.Node], slices.Clone(r.Path))
			}
		}
	}
	slices.SortFunc(peers, func(a, b stage.Peer) int { return cmp.Compare(a.Name, b.Name) })
	return peers, nil
}

// Node is one line of the listing of nodes.
type Node struct {
	Name     string    `json:"name"`
	Self     bool      `json:"self"`
	State    State     `json:"state"`
	Load     Load      `json:"load"`
	Repeater string    `json:"repeater,omitempty"` // host:port, as are the next two
	RTMP     string    `json:"rtmp,omitempty"`
	HTTP     string    `json:"http,omitempty"`
	Since    time.Time `json:"since"` // the start of the daemon
	Seen     time.Time `json:"seen"`  // the last beat
}

// Nodes lists the nodes by name: this one, and all that have been heard of in the last minutes.
func (c *Cluster) Nodes() []Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	list := []Node{c.self.describe(Alive, now)}
	list[0].Self = true
	if c.self.Draining {
		list[0].State = Draining
	}
	for name, n := range c.nodes {
		if name != c.name && n.Session != "" {
			list = append(list, n.describe(c.state(n, now), n.seen))
		}
	}
	slices.SortFunc(list, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (n *node) describe(s State, seen time.Time) Node {
	return Node{
		Name: n.Node, State: s, Load: n.Load, Repeater: n.Repeater, RTMP: n.RTMP, HTTP: n.HTTP,
		Since: n.Since, Seen: seen,
	}
}

// Channel is one line of the listing of channels.
type Channel struct {
	Name string `json:"name"`
	// Owner is the node that has the publisher, "" when it is gone and others still
	// repeat the channel.
	Owner   string    `json:"owner"`
	Session string    `json:"session"`
	Since   time.Time `json:"since"`
	Origin  time.Time `json:"origin"` // wall-clock time of the channel's time 0
	// Registered is false while only this node, the owner, knows.
	Registered bool     `json:"registered"`
	Holders    []Holder `json:"holders,omitempty"`
}

// Holder is a node that repeats a channel.
type Holder struct {
	Node string   `json:"node"`
	Path []string `json:"path"`
}

// Channels lists the channels that are on air on any node, by name.
func (c *Cluster) Channels() []Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := []Channel{}
	for name, ch := range c.channels {
		d := Channel{Name: name}
		for r := range ch.on(&c.view) {
			if r.Holder != "" {
				d.Holders = append(d.Holders, Holder{r.Node, slices.Clone(r.Path)})
			} else {
				d.own(r)
				d.Registered = true
			}
		}
		if claim := c.claims[name]; claim == nil && d.Owner == "" && d.Holders == nil {
			continue
		} else if claim != nil && d.Session != c.session {
			d.own(c.wants(Key{Channel: name}))
			d.Registered = false
		}
		slices.SortFunc(d.Holders, func(a, b Holder) int { return cmp.Compare(a.Node, b.Node) })
		list = append(list, d)
	}
	for name := range c.claims {
		if _, ok := c.channels[name]; !ok {
			d := Channel{Name: name}
			d.own(c.wants(Key{Channel: name}))
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b Channel) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (d *Channel) own(r Record) {
	d.Owner, d.Session, d.Since, d.Origin = r.Node, r.Session, r.Since, r.Origin
}
