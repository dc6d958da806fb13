// What is counted of the cluster, and what is logged when a node changes.

package cluster

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	nodes                            *prometheus.GaugeVec
	connected                        prometheus.Gauge
	lost, snapshots, untold, refused prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, c *Cluster) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_cluster_" + name, Help: help})
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mediad_cluster_" + name, Help: help}, func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return float64(value())
		})
	}
	m := &metrics{
		nodes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mediad_cluster_nodes", Help: "Nodes of the cluster as this one sees them, itself too, by state.",
		}, []string{"state"}),
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mediad_cluster_connected", Help: "1 while this node hears the cluster.",
		}),
		lost:      counter("lost_claims_total", "Channels of this node that another one got."),
		snapshots: counter("snapshots_total", "Times that the whole directory was read."),
		untold:    counter("untold_total", "Messages to other nodes that could not be sent."),
		refused:   counter("refused_messages_total", "Messages of other nodes that could not be read, or came too fast."),
	}
	var errs []error
	for _, collector := range []prometheus.Collector{
		m.nodes, m.connected, m.lost, m.snapshots, m.untold, m.refused,
		gauge("claims", "Channels that this node has on air.", func() int { return len(c.claims) }),
		gauge("unregistered_claims", "Channels that this node has on air and the directory does not know yet.", func() int {
			sum := 0
			for name := range c.claims {
				if c.known(Key{Channel: name}).Session != c.session {
					sum++
				}
			}
			return sum
		}),
		gauge("holdings", "Channels that this node repeats.", func() int { return len(c.holdings) }),
		gauge("channels", "Names in the directory.", func() int { return len(c.channels) }),
	} {
		errs = append(errs, reg.Register(collector))
	}
	return m, errors.Join(errs...)
}

// look compares how the nodes stand with how they stood, and returns in how much time one of
// them may stand otherwise. The caller holds mu.
func (c *Cluster) look(now time.Time) time.Duration {
	if c.hearing && now.Sub(c.heard) > deafAfter {
		c.hearing = false
		c.log.Warn("the cluster cannot be heard: everything here goes on, nobody new is found")
	}
	next := deadAfter
	states := map[State]int{Alive: 0, Suspect: 0, Draining: 0, Dead: 0}
	changed := false
	for _, n := range c.nodes {
		s := c.state(n, now)
		states[s]++
		if s != n.shown {
			changed = true
			c.log.Info("node "+string(s), "node", n.Node, "was", n.shown)
			n.shown = s
		}
		silence := now.Sub(n.seen)
		for _, limit := range []time.Duration{suspectAfter, deadAfter} {
			if silence < limit {
				next = min(next, limit-silence)
			}
		}
	}
	if changed {
		c.notify()
	}
	for s, n := range states {
		c.metrics.nodes.WithLabelValues(string(s)).Set(float64(n))
	}
	c.metrics.connected.Set(0)
	if c.hearing {
		c.metrics.connected.Set(1)
	}
	return next
}
