package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/pipeline"
	"github.com/prometheus/client_golang/prometheus"
)

// two is a cluster of which one node does not answer.
type two struct{}

func (two) Nodes() []cluster.Node {
	return []cluster.Node{
		{Name: "east", State: cluster.Alive, Load: cluster.Load{CPU: 0.5}, Repeater: "192.0.2.2:4100"},
		{Name: "west", Self: true, State: cluster.Draining},
	}
}

func (two) Channels() []cluster.Channel {
	return []cluster.Channel{
		{Name: "demo", Owner: "west", Registered: true, Holders: []cluster.Holder{{Node: "east", Path: []string{"west", "east"}}}},
		{Name: "other", Owner: "east"},
	}
}

func (two) Ask(_ context.Context, topic string) (map[string][]byte, error) {
	if topic != ReadersTopic {
		return nil, errors.New("unknown topic")
	}
	own, err := Readers(testStages())
	return map[string][]byte{"west": own, "north": []byte("nonsense")}, errors.Join(err, errors.New("no answer from east"))
}

func TestNodes(t *testing.T) {
	h := newTest(func(o *Options) {
		o.Cluster = two{}
		trips := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mediad_repeater_rtt_seconds"}, []string{"peer"})
		o.Metrics.MustRegister(trips)
		trips.WithLabelValues("east").Set(0.002)
	})
	code, body := get(h, "/api/nodes")
	var list []Node
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != http.StatusOK {
		t.Fatal(code, err, body)
	}
	rtt := 2.0
	nodes := two{}.Nodes()
	want := []Node{{Node: nodes[0], RTT: &rtt, Owns: 1, Repeats: 1}, {Node: nodes[1], Owns: 1}}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("got  %+v\nwant %+v", list, want)
	}
	if code, body := get(newTest(nil), "/api/nodes"); code != http.StatusOK || strings.TrimSpace(body) != "[]" {
		t.Errorf("alone: %d %s", code, body)
	}
}

func TestClusterChannels(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Options)
		want   Channels
	}{
		"a cluster": {
			func(o *Options) { o.Cluster = two{} },
			Channels{
				Channels: []Channel{{Channel: two{}.Channels()[0], Readers: map[string]int{"west": 3}}, {Channel: two{}.Channels()[1]}},
				Error:    "no answer from east\nnode north: invalid character 'o' in literal null (expecting 'u')",
			},
		},
		"alone": {
			func(o *Options) { o.Host = "here" },
			Channels{Channels: []Channel{{Channel: cluster.Channel{Name: "demo", Owner: "here"}, Readers: map[string]int{"here": 3}}}},
		},
		"nothing": {
			func(o *Options) { o.Stages = func() []pipeline.Status { return nil } },
			Channels{Channels: []Channel{}},
		},
	} {
		code, body := get(newTest(test.change), "/api/cluster/channels")
		var got Channels
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %d %v\ngot  %+v\nwant %+v", name, code, err, got, test.want)
		}
	}
}

func TestDrain(t *testing.T) {
	post := func(r *http.Request) { r.Method, r.RemoteAddr = http.MethodPost, "127.0.0.1:5000" }
	far := func(r *http.Request) { r.Method, r.RemoteAddr = http.MethodPost, "192.0.2.1:5000" }
	for name, test := range map[string]struct {
		query  string
		change func(*http.Request)
		err    error
		within time.Duration // that the daemon is asked for, -1 when it is not asked
		code   int
		want   string
	}{
		"as the file says":   {"", post, nil, 0, http.StatusOK, `"left": 2`},
		"for a while":        {"?for=5m", post, nil, 5 * time.Minute, http.StatusOK, `"took_seconds": `},
		"for what":           {"?for=ever", post, nil, -1, http.StatusBadRequest, `"ever\" is not a duration`},
		"twice":              {"", post, ErrDraining, 0, http.StatusConflict, "draining already"},
		"a look":             {"", func(*http.Request) {}, nil, -1, http.StatusMethodNotAllowed, "only POST"},
		"T72 from elsewhere": {"", far, nil, -1, http.StatusUnauthorized, "192.0.2.1"},
	} {
		asked := time.Duration(-1)
		h := newTest(func(o *Options) {
			o.Drain = func(within time.Duration) (int, error) {
				asked = within
				return 2, test.err
			}
		})
		code, body := get(h, "/api/drain"+test.query, test.change)
		if code != test.code || asked != test.within || !strings.Contains(body, test.want) {
			t.Errorf("%s: %d, asked for %v: %s", name, code, asked, body)
		}
	}
}
