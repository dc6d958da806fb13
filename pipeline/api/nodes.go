// The cluster: /api/nodes and /api/cluster/channels.

package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/pipeline"
	"github.com/prometheus/client_golang/prometheus"
)

// Cluster is what the API asks of a cluster.Cluster.
type Cluster interface {
	Nodes() []cluster.Node
	Channels() []cluster.Channel
	Ask(ctx context.Context, topic string) (map[string][]byte, error)
}

// ReadersTopic is what the nodes ask each other: how many read each channel there.
// Readers is the answer.
const ReadersTopic = "readers"

// Readers says in JSON how many read each channel of the stages.
func Readers(stages []pipeline.Status) ([]byte, error) {
	readers := map[string]int{}
	for _, s := range stages {
		if l, ok := s.Made.(lister); ok {
			for _, c := range l.ListChannels() {
				readers[c.Name] += c.Readers
			}
		}
	}
	return json.Marshal(readers)
}

// Node is a line of /api/nodes.
type Node struct {
	cluster.Node
	// RTT is the round trip to the node's repeater in milliseconds, nil before it
	// was measured.
	RTT *float64 `json:"rtt_ms,omitempty"`
	// Owns and Repeats are how many channels it has on air, and repeats.
	Owns    int `json:"owns"`
	Repeats int `json:"repeats"`
}

// nodes lists the nodes, none when the daemon is alone.
func (a *api) nodes(w http.ResponseWriter, _ *http.Request) {
	list, err := []Node{}, error(nil)
	if a.Cluster != nil {
		list, err = ListNodes(a.Cluster, a.Metrics)
	}
	if err != nil {
		fail(w, http.StatusInternalServerError, "metrics: %v", err)
		return
	}
	reply(w, http.StatusOK, list)
}

// ListNodes lists the nodes of a cluster, with what the metrics know of them.
func ListNodes(of Cluster, metrics prometheus.Gatherer) ([]Node, error) {
	trips, err := roundTrips(metrics)
	if err != nil {
		return nil, err
	}
	list := []Node{}
	owns, repeats := map[string]int{}, map[string]int{}
	for _, c := range of.Channels() {
		owns[c.Owner]++
		for _, h := range c.Holders {
			repeats[h.Node]++
		}
	}
	for _, n := range of.Nodes() {
		node := Node{Node: n, Owns: owns[n.Name], Repeats: repeats[n.Name]}
		if rtt, ok := trips[n.Name]; ok {
			node.RTT = &rtt
		}
		list = append(list, node)
	}
	return list, nil
}

// roundTrips returns those that the repeaters have measured, in milliseconds, by the
// name of the node. They are taken from the metrics, where they are also when
// a repeater runs in a process of its own.
func roundTrips(from prometheus.Gatherer) (map[string]float64, error) {
	families, err := from.Gather()
	if err != nil {
		return nil, err
	}
	trips := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "mediad_repeater_rtt_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "peer" {
					trips[l.GetValue()] = 1000 * m.GetGauge().GetValue()
				}
			}
		}
	}
	return trips, nil
}

// Channel is a channel that is on air on any node.
type Channel struct {
	cluster.Channel
	// Readers are the viewers, the archivers, and the nodes that repeat it from there, by
	// the name of the node that serves them.
	Readers map[string]int `json:"readers,omitempty"`
}

// Channels is the reply of /api/cluster/channels.
type Channels struct {
	Channels []Channel `json:"channels"`
	// Error says which nodes did not tell their readers.
	Error string `json:"error,omitempty"`
}

func (a *api) clusterChannels(w http.ResponseWriter, r *http.Request) {
	if a.Cluster == nil {
		reply(w, http.StatusOK, Channels{Channels: a.ownChannels()})
		return
	}
	all := Channels{Channels: []Channel{}}
	readers, err := a.askReaders(r.Context())
	if all.Error = text(err); err != nil && r.Context().Err() != nil {
		return
	}
	for _, c := range a.Cluster.Channels() {
		all.Channels = append(all.Channels, Channel{c, readers[c.Name]})
	}
	reply(w, http.StatusOK, all)
}

// askReaders asks all nodes, and returns their readers by channel and node. The error
// says whose are missing.
func (a *api) askReaders(ctx context.Context) (map[string]map[string]int, error) {
	answers, err := a.Cluster.Ask(ctx, ReadersTopic)
	readers := map[string]map[string]int{}
	for node, answer := range answers {
		var told map[string]int
		if e := json.Unmarshal(answer, &told); e != nil {
			err = errors.Join(err, fmt.Errorf("node %s: %w", node, e))
		}
		for name, n := range told {
			if readers[name] == nil {
				readers[name] = map[string]int{}
			}
			readers[name][node] = n
		}
	}
	return readers, err
}

// ownChannels are those of a daemon without a cluster, which may repeat those of others
// all the same.
func (a *api) ownChannels() []Channel {
	list := []Channel{}
	for _, s := range a.Stages() {
		l, ok := s.Made.(lister)
		if !ok {
			continue
		}
		for _, c := range l.ListChannels() {
			told := cluster.Channel{Name: c.Name, Owner: a.Host, Since: c.Since}
			if c.Repeated {
				told.Owner, told.Holders = "", []cluster.Holder{{Node: a.Host}}
			}
			if c.Repeated && len(c.Path) > 0 {
				told.Owner, told.Holders[0].Path = c.Path[0], append(c.Path, a.Host)
			}
			list = append(list, Channel{Channel: told, Readers: map[string]int{a.Host: c.Readers}})
		}
	}
	slices.SortFunc(list, func(x, y Channel) int { return cmp.Compare(x.Name, y.Name) })
	return list
}
