// The broadcast over the cluster that the daemon has, its directory in memory.

package broadcast

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/media"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// clustered is a cluster as a broadcast knows it.
type clustered struct{ *cluster.Cluster }

func (c clustered) Claim(name string, takeover bool) (Claim, error) {
	claim, err := c.Cluster.Claim(name, takeover)
	if err != nil {
		return nil, err
	}
	return claim, nil
}

func (c clustered) Hold(name string) Holding { return c.Cluster.Hold(name) }

// newCluster starts nodes and returns what kills one, for the others.
func newCluster(t *testing.T, names ...string) (w *world, kill func(name string)) {
	w = newWorld(t)
	dir := cluster.NewMemory()
	killed := map[string]func(){}
	for _, name := range names {
		at := dir.Node(name)
		cfg := cluster.DefaultConfig()
		cfg.Name = name
		c, err := cluster.Over(at, cfg, hclog.NewNullLogger(), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		c.SetSampler(func() cluster.Load { return cluster.Load{} })
		c.Serves(name + ":4100")
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- c.Serve(ctx) }()
		t.Cleanup(func() {
			cancel()
			<-served
		})
		n := w.addTo(name, defaults, clustered{c})
		killed[name] = func() {
			at.Cut()
			n.die()
		}
	}
	settle()
	return w, func(name string) { killed[name]() }
}

// settle lets the nodes hear of each other.
func settle() { time.Sleep(time.Second) }

func TestOverCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kill := newCluster(t, "a", "b", "c")
		a, b, c := w.nodes["a"], w.nodes["b"], w.nodes["c"]
		p := a.publish(media.CreateRequest{Linger: 10 * time.Second})
		settle()
		va, vb, vc := a.watch(), b.watch(), c.watch()
		p.play(25)
		_, err := b.Create(t.Context(), media.CreateRequest{Name: "show"})
		if !errors.Is(err, media.ErrBusy) || !strings.Contains(err.Error(), "node a") {
			t.Errorf("a second publisher gets %v", err)
		}

		// The publisher goes on at another node, with its timeline.
		p.sink.Close(t.Context())
		time.Sleep(3 * time.Second)
		q := b.publish(media.CreateRequest{})
		q.play(50)
		for _, v := range []*viewer{va, vb, vc} {
			v.expect(frames("a", 0, 25), frames("b", 0, 50))
			if at := v.at[25]; at < 3900*time.Millisecond || at > 4100*time.Millisecond {
				t.Errorf("it goes on at %v, after 1s and a pause of 3s", at)
			}
		}

		// One takes over at a third.
		r := c.publish(media.CreateRequest{Takeover: true})
		settle()
		if err := q.lost(); !errors.Is(err, media.ErrTakenOver) || !strings.Contains(err.Error(), "node c") {
			t.Errorf("the loser is told %v", err)
		}
		r.play(50)
		va.expect(frames("a", 0, 25), frames("b", 0, 50), frames("c", 0, 50))
		vb.expect(frames("a", 0, 25), frames("b", 0, 50), frames("c", 0, 50))
		vc.expect(frames("a", 0, 25), frames("b", 0, 50), frames("c", 0, 50))

		// That node dies, and the first is back.
		kill("c")
		died := time.Now()
		for {
			s, err := a.Create(t.Context(), media.CreateRequest{Name: "show"})
			if err == nil {
				at, _ := s.(*sink).Resume()
				p = &publisher{t: t, sink: s, start: at.Truncate(time.Millisecond), name: "a again"}
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(died); took > 3*time.Second {
			t.Errorf("the name was free after %v", took)
		}
		p.play(50)
		if got := vb.seen(); !slices.Equal(got[125:], frames("a again", 0, 50)) {
			t.Errorf("b's viewer saw %v", got[125:])
		}
		for _, v := range []*viewer{va, vb} {
			if v.wait > 4500*time.Millisecond {
				t.Errorf("nothing came for %v", v.wait)
			}
		}
		for _, n := range []*node{a, b} {
			if shifts := testutil.ToFloat64(n.metrics.shifts); shifts != 0 {
				t.Errorf("%v sources were not on the timeline of %s", shifts, n.name)
			}
		}
	})
}
