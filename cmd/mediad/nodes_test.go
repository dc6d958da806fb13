package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/api"
)

var _ broadcast.Directory = directory{}

// A node without others knows itself and its channels, in a cluster or not.
func TestNodes_One(t *testing.T) {
	const node = "cluster: {name: solo, listen: \"\"}\n"
	for name, test := range map[string]struct{ file, nodes, channel string }{
		"alone":     {twoPipelines, `^this node is alone`, `(?m)^demo +\S+ +- +\S+ 0 +\d+s$`},
		"a cluster": {twoPipelines + node, `(?m)^\* +solo +alive .* 1 +0 +- +-`, `(?m)^demo +solo +- +solo 0 +\d+s$`},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, test.file)
			// The playout begins a moment later.
			for command, want := range map[string]string{"channels": test.channel, "nodes": test.nodes} {
				ask := func() ([]byte, error) {
					return mediad(t.Context(), command, "--api", "http://"+r.HTTP).CombinedOutput()
				}
				out, err := ask()
				for began := time.Now(); !regexp.MustCompile(want).Match(out) && time.Since(began) < 30*time.Second; {
					out, err = ask()
				}
				if err != nil || !regexp.MustCompile(want).Match(out) {
					t.Errorf("%s: %v: want %s in\n%s", command, err, want, out)
				}
			}
			r.Signal(syscall.SIGTERM)
			r.Says(t, "stopped")
			if err := r.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDrain_Stops(t *testing.T) {
	r := start(t, vod)
	out, err := mediad(t.Context(), "drain", "--for", "1m", "--api", "http://"+r.HTTP).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "0 clients were left") {
		t.Errorf("%v: %s", err, out)
	}
	r.Says(t, "stopped")
	if err := r.Wait(); err != nil {
		t.Error(err)
	}
	drain := mediad(t.Context(), "drain", "--for", "ever")
	if out, _ := drain.CombinedOutput(); drain.ProcessState.ExitCode() != exitWrong || !strings.Contains(string(out), "--for: ") {
		t.Errorf("%s", out)
	}
}

// lasting is a server whose clients stay for a while.
type lasting struct{ clients time.Duration }

func (lasting) Serve(context.Context, net.Listener) error { return nil }

func (l lasting) Drain(ctx context.Context) int {
	select {
	case <-time.After(l.clients):
		return 0
	case <-ctx.Done():
		return 7
	}
}

func TestDrain_WaitsForClients(t *testing.T) {
	for _, test := range []struct {
		clients, within, want time.Duration
		left                  int
	}{
		{time.Second, time.Minute, time.Second, 0},
		{time.Hour, time.Minute, time.Minute, 7},
		{time.Hour, 0, 10 * time.Second, 7}, // as the file says
	} {
		synctest.Test(t, func(t *testing.T) {
			d := daemon{graph: &pipeline.Graph{Drain: 10 * time.Second}, log: hclog.NewNullLogger(), rtmp: lasting{test.clients}}
			began := time.Now()
			left, err := d.drain(t.Context(), test.within)
			if took := time.Since(began); err != nil || left != test.left || took != test.want {
				t.Errorf("%+v: %d left after %v, %v", test, left, took, err)
			}
			if _, err := d.drain(t.Context(), 0); !errors.Is(err, api.ErrDraining) {
				t.Errorf("the second time: %v", err)
			}
		})
	}
}

func TestPrintNodes(t *testing.T) {
	rtt := 1.25
	since := time.Now().Add(-time.Hour)
	list := []api.Node{
		{Node: cluster.Node{Name: "east", State: cluster.Suspect, Load: cluster.Load{CPU: 0.5, Network: 0.25}, Repeater: "east:4100", RTMP: "east:1935", Since: since}, RTT: &rtt, Owns: 1, Repeats: 2},
		{Node: cluster.Node{Name: "west", Self: true, State: cluster.Alive}},
	}
	var got bytes.Buffer
	const want = `   NODE  STATE    CPU  NET  DISK  OWNS  REPEATS  RTT     REPEATER   RTMP       UP
   east  suspect  50%  25%  0%    1     2        1.25ms  east:4100  east:1935  1h0m0s
*  west  alive    0%   0%   0%    0     0        -       -          -          -
`
	if err := printNodes(&got, list); err != nil || got.String() != want {
		t.Errorf("%v\n%s", err, &got)
	}
}

func TestPrintChannels(t *testing.T) {
	since := time.Now().Add(-time.Minute)
	list := []api.Channel{
		{
			Channel: cluster.Channel{Name: "demo", Owner: "a", Since: since, Holders: []cluster.Holder{
				{Node: "b", Path: []string{"a", "b"}}, {Node: "c", Path: []string{"a", "b", "c"}},
			}},
			Readers: map[string]int{"a": 2, "c": 100},
		},
		{Channel: cluster.Channel{Name: "lost", Holders: []cluster.Holder{{Node: "b"}}}},
	}
	var got bytes.Buffer
	const want = `CHANNEL  OWNER  REPEATED BY             READERS     ON AIR
demo     a      b (from a), c (from b)  a 2, c 100  1m0s
lost     -      b (from nowhere)        -           -
`
	if err := printChannels(&got, list); err != nil || got.String() != want {
		t.Errorf("%v\n%s", err, &got)
	}
}
