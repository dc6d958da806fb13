// What a repeater counts.

package repeatertcp

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	sent, received                prometheus.Counter // bytes
	batchesOut, batchesIn         prometheus.Counter
	framesOut, framesIn           prometheus.Counter
	children, parents, recordings prometheus.Gauge
	refused, reparents            *prometheus.CounterVec
	skips, missed                 prometheus.Counter
	rtt                           *prometheus.GaugeVec
}

// The reasons for which a peer is refused.
const (
	refusedDraining  = "draining"
	refusedLoad      = "load"
	refusedChildren  = "children"
	refusedLoop      = "loop"
	refusedOrphan    = "orphan"
	refusedProtocol  = "protocol" // hung up on
	refusedHandshake = "handshake"
)

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_repeater_" + name, Help: help})
		all = append(all, c)
		return c
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mediad_repeater_" + name, Help: help}, []string{label})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mediad_repeater_" + name, Help: help})
		all = append(all, g)
		return g
	}
	m := &metrics{
		sent:       counter("sent_bytes_total", "Bytes sent to other nodes."),
		received:   counter("received_bytes_total", "Bytes received from other nodes."),
		batchesOut: counter("sent_batches_total", "Batches sent to other nodes."),
		batchesIn:  counter("received_batches_total", "Batches received from other nodes."),
		framesOut:  counter("sent_frames_total", "Frames sent to other nodes."),
		framesIn:   counter("received_frames_total", "Frames received from other nodes."),
		children:   gauge("children", "Channels that other nodes have open here, each counted for each node."),
		parents:    gauge("parents", "Channels that are open here at another node."),
		recordings: gauge("recordings", "Recorded media that are open at another node, or here by another node."),
		refused:    counters("refused_total", "Questions and opens of peers that were refused, by reason.", "reason"),
		reparents:  counters("reparents_total", "Times that a channel went on from another node or connection, by reason.", "reason"),
		skips:      counter("skips_total", "Times that a channel went on at a later keyframe, since the link was too slow or the parent had gone."),
		missed:     counter("missed_frames_total", "Frames left out when a channel went on at a later keyframe, as far as they were counted."),
	}
	m.rtt = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "mediad_repeater_rtt_seconds", Help: "Round trip to a peer, the least of the last few.",
	}, []string{"peer"})
	all = append(all, m.rtt)
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}
