// A simulation in virtual time: the broadcasts, repeaters and clusters of 200 nodes over
// a network in memory, and 100 000 viewers, of whom one on each node is real and the
// others are its load.

package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	repeatertcp "github.com/mediad/mediad/plugins/repeater-tcp"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	simNodes   = 200
	simViewers = 100_000
	simRate    = 5e6  // bits a second, of the channel
	simLine    = 10e9 // of a node's line
	simFrames  = 5    // a second, to keep the simulation short; a keyframe each second
)

// A simNode is a broadcast, a repeater and a part of the cluster, as the daemon has them.
type simNode struct {
	name      string
	host      *simHost
	member    *cluster.MemoryNode
	cluster   *cluster.Cluster
	broadcast *broadcast.Broadcast
	metrics   *prometheus.Registry
	stop      context.CancelFunc
	running   sync.WaitGroup

	viewers  atomic.Int64
	children atomic.Int64
	dead     atomic.Bool

	mu   sync.Mutex
	came []arrival // at its viewer
}

type arrival struct{ at, dts time.Duration }

// simDirectory is a cluster as a broadcast knows it.
type simDirectory struct{ *cluster.Cluster }

func (d simDirectory) Claim(name string, takeover bool) (broadcast.Claim, error) {
	c, err := d.Cluster.Claim(name, takeover)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (d simDirectory) Hold(name string) broadcast.Holding { return d.Cluster.Hold(name) }

// port is the broadcast for the repeater, which is made before it.
type port struct{ n *simNode }

func (p port) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	return p.n.broadcast.Open(ctx, req)
}

func (p port) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	return p.n.broadcast.Cost(ctx, req)
}

func newSimNode(t *testing.T, net *simNet, memory *cluster.Memory, number int) *simNode {
	n := &simNode{name: fmt.Sprintf("n%03d", number), metrics: prometheus.NewRegistry()}
	n.host = &simHost{net: net, name: n.name}
	n.member = memory.Node(n.name)
	log := hclog.NewNullLogger()
	var err error
	if n.cluster, err = cluster.Over(n.member, cluster.Config{Name: n.name, Network: stage.Size(simLine / 8)}, log, n.metrics); err != nil {
		t.Fatal(err)
	}
	n.cluster.SetSampler(func() cluster.Load {
		return cluster.Load{Network: float64(n.viewers.Load()+n.children.Load()) * simRate / simLine}
	})
	nodes := simDirectory{n.cluster}
	env := stage.Env{Log: log, Metrics: n.metrics, Nodes: nodes}
	env.Name, env.Inputs = "peers", []stage.Input{{Name: "broadcast", Reader: port{n}}}
	kind := repeatertcp.Over(n.host)
	settings := kind.Settings().(*repeatertcp.Settings)
	settings.Plain, settings.Listen, settings.Advertise = true, n.name+":4100", n.name+":4100"
	repeater, err := kind.New(env, settings)
	if err != nil {
		t.Fatal(err)
	}
	env.Name, env.Inputs = "broadcast", []stage.Input{{Name: "peers", Reader: repeater.(media.Reader)}}
	if n.broadcast, err = broadcast.New(env, *broadcast.Kind().Settings().(*broadcast.Settings)); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, n.stop = context.WithCancel(context.Background())
	for _, serve := range []func(context.Context) error{n.cluster.Serve, repeater.Serve, n.broadcast.Serve} {
		n.running.Go(func() {
			if err := serve(ctx); err != nil {
				t.Errorf("%s: %v", n.name, err)
			}
		})
	}
	return n
}

// watch is the node's one real viewer.
func (n *simNode) watch(t *testing.T, ctx context.Context, began time.Time) {
	src, err := n.broadcast.Open(ctx, media.OpenRequest{Name: "show", From: media.Newest})
	if err != nil {
		if ctx.Err() == nil {
			t.Errorf("%s: %v", n.name, err)
		}
		return
	}
	defer src.Close()
	for {
		b, err := src.Next(ctx)
		if err != nil {
			if ctx.Err() == nil && !n.dead.Load() {
				t.Errorf("%s: %v", n.name, err)
			}
			return
		}
		n.mu.Lock()
		n.came = append(n.came, arrival{time.Since(began), b.DTS()})
		n.mu.Unlock()
	}
}

// waited is the longest time without a frame after a moment, and how many frames
// are missing from then on.
func (n *simNode) waited(after time.Duration) (longest time.Duration, missing int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var last arrival
	for _, a := range n.came {
		if last != (arrival{}) && a.at > after {
			longest = max(longest, a.at-max(last.at, after))
			missing += int((a.dts-last.dts)*simFrames/time.Second) - 1
		}
		last = a
	}
	if last.at <= after {
		return time.Hour, missing // none came
	}
	return longest, missing
}

// first is when the viewer had its first frame.
func (n *simNode) first() (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.came) == 0 {
		return 0, false
	}
	return n.came[0].at, true
}

// kill takes the power from the node.
func (n *simNode) kill() {
	n.dead.Store(true)
	n.host.net.kill(n.name)
	n.member.Cut()
}

// publish puts the channel on air as soon as it can, until ctx ends.
func (n *simNode) publish(t *testing.T, ctx context.Context) {
	req := media.CreateRequest{Name: "show", Info: media.Info{Live: true}, Linger: 10 * time.Second}
	sink, err := n.broadcast.Create(ctx, req)
	for errors.Is(err, media.ErrBusy) && rest(ctx, 200*time.Millisecond) {
		sink, err = n.broadcast.Create(ctx, req)
	}
	if err != nil {
		t.Errorf("publish on %s: %v", n.name, err)
		return
	}
	defer sink.Close(context.Background())
	header := &media.Header{Video: media.Format{Codec: "h264", Config: config}}
	builder := media.NewBuilder(media.NoClock)
	ticker := time.NewTicker(time.Second / simFrames)
	defer ticker.Stop()
	for i := 0; ; i++ {
		at := time.Duration(i) * time.Second / simFrames
		builder.Copy(media.Frame{Track: media.Video, Key: i%simFrames == 0, DTS: at, PTS: at, Body: body('s', i, 100, time.Time{})})
		if err := sink.Write(ctx, builder.Batch(header)); err != nil {
			if ctx.Err() == nil {
				t.Errorf("publisher on %s: %v", n.name, err)
			}
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// tree is the parent of each node, and how many nodes it has between itself and the owner and one more.
func tree(n *simNode) (parent map[string]string, depth map[string]int) {
	parent, depth = map[string]string{}, map[string]int{}
	for _, c := range n.cluster.Channels() {
		for _, h := range c.Holders {
			if len(h.Path) > 1 {
				parent[h.Node], depth[h.Node] = h.Path[len(h.Path)-2], len(h.Path)-1
			}
		}
	}
	return parent, depth
}

// refusals is how often peers were refused, by the reason.
func refusals(t *testing.T, nodes []*simNode) map[string]float64 {
	sum := map[string]float64{}
	for _, n := range nodes {
		families, err := n.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "mediad_repeater_refused_total" {
				for _, m := range f.GetMetric() {
					sum[m.GetLabel()[0].GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// TestTwoHundredNodes has all of them at one site, and when figures are written also at four,
// 20 ms from one another.
func TestTwoHundredNodes(t *testing.T) {
	sites := []int{1}
	if writing {
		sites = append(sites, 4)
	}
	for _, n := range sites {
		synctest.Test(t, func(t *testing.T) { simulate(t, n) })
	}
}

func simulate(t *testing.T, sites int) {
	const crowd = 5 * time.Second // in which all viewers come
	began := time.Now()
	net := &simNet{
		listeners: map[string]*simListener{}, dead: map[string]bool{},
		delay: func(from, to string) time.Duration {
			if int(from[3]-to[3])%sites != 0 {
				return 10 * time.Millisecond
			}
			return 500 * time.Microsecond
		},
	}
	memory := cluster.NewMemory()
	var nodes []*simNode
	for i := range simNodes {
		nodes = append(nodes, newSimNode(t, net, memory, i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	time.Sleep(2 * time.Second)
	origin := nodes[0]
	onOrigin, unplug := context.WithCancel(ctx)
	defer unplug()
	clients.Go(func() { origin.publish(t, onOrigin) })
	time.Sleep(time.Second)

	// The viewers come, and a monitor keeps what each node's children load it with.
	rng := rand.New(rand.NewPCG(1, 2))
	came := make([]time.Duration, simNodes)
	clients.Go(func() {
		for i := range simViewers {
			if i%100 == 0 {
				time.Sleep(crowd / (simViewers / 100))
			}
			k := rng.IntN(simNodes)
			if nodes[k].viewers.Add(1) == 1 {
				came[k] = time.Since(began)
				clients.Go(func() { nodes[k].watch(t, ctx, began) })
			}
		}
	})
	clients.Go(func() {
		for rest(ctx, 250*time.Millisecond) {
			parent, _ := tree(nodes[1])
			count := map[string]int64{}
			for _, p := range parent {
				count[p]++
			}
			for _, n := range nodes {
				n.children.Store(count[n.name])
			}
		}
	})
	time.Sleep(crowd + 5*time.Second)

	var joins []time.Duration
	for i, n := range nodes[1:] {
		if at, ok := n.first(); ok {
			joins = append(joins, at-came[i+1])
		} else {
			t.Errorf("%s has no frame", n.name)
		}
	}
	parent, depth := tree(nodes[1])
	for late := 0; slices.Max(slices.Collect(maps.Values(depth))) > 3 && late < 20; late++ { // some are still moving
		time.Sleep(500 * time.Millisecond)
		parent, depth = tree(nodes[1])
	}
	children, levels := map[string]int{}, map[int]int{}
	for n, p := range parent {
		children[p]++
		levels[depth[n]]++
	}
	refused := refusals(t, nodes)
	before := origin.host.sent.Load()
	time.Sleep(2 * time.Second)
	origined := float64(origin.host.sent.Load()-before) / 2

	// The relay with the most children loses its power.
	relay := nodes[1]
	for _, n := range nodes[1:] {
		if children[n.name] > children[relay.name] {
			relay = n
		}
	}
	lost := time.Since(began)
	relay.kill()
	time.Sleep(4 * time.Second)
	var moved []time.Duration
	gaps := 0
	for _, n := range nodes[1:] {
		if n != relay && parent[n.name] == relay.name {
			wait, missing := n.waited(lost)
			moved = append(moved, wait)
			gaps += missing
		}
	}

	// The origin does, and its encoder comes to another node as soon as that lets it.
	gone := time.Since(began)
	origin.kill()
	unplug()
	next := slices.IndexFunc(nodes, func(n *simNode) bool { return children[n.name] == 0 })
	clients.Go(func() { nodes[next].publish(t, ctx) })
	time.Sleep(8 * time.Second)
	var back []time.Duration
	for _, n := range nodes[1:] {
		if n != relay {
			wait, _ := n.waited(gone)
			back = append(back, wait)
		}
	}

	row := func(name string, values ...any) []string {
		return []string{name, strings.TrimSpace(fmt.Sprintln(values...))}
	}
	spread := func(list []time.Duration) string {
		slices.Sort(list)
		if len(list) == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f / %.2f s", list[len(list)/2].Seconds(), list[len(list)-1].Seconds())
	}
	var deep []string
	for d := range len(levels) {
		deep = append(deep, fmt.Sprintf("%d: %d", d+1, levels[d+1]))
	}
	var reasons []string
	for _, r := range []string{"children", "load", "loop", "orphan"} {
		reasons = append(reasons, fmt.Sprintf("%s %.0f", r, refused[r]))
	}
	mbits := func(streams int) string { return fmt.Sprintf("%.0f Mbit/s", float64(streams)*simRate/1e6) }
	title, where := "200 nodes and 100 000 viewers", "at one site"
	if sites > 1 {
		title, where = title+", far apart", fmt.Sprintf("at %d sites 20 ms from one another", sites)
	}
	figure(t, title, fmt.Sprintf("A simulation in virtual time of %d nodes %s, a channel of %.0f Mbit/s, %d viewers who come within %v", simNodes, where, simRate/1e6, simViewers, crowd), [][]string{
		{"", ""},
		row("from the origin to other nodes, if each viewer had a stream", mbits(simViewers-int(nodes[0].viewers.Load()))),
		row("as a star of repeaters", mbits(simNodes-1)),
		row("as the tree that they made", mbits(children[origin.name])),
		row("nodes at each depth", strings.Join(deep, ", ")),
		row("from the first viewer of a node to its first frame, median / most", spread(joins)),
		row("questions and joins refused, by their reason", strings.Join(reasons, ", ")),
		row(fmt.Sprintf("a relay with %d children loses its power: without frames, median / most", len(moved)), spread(moved)),
		row("frames that they missed", gaps),
		row("the origin loses its power and the encoder moves: without frames, median / most", spread(back)),
	})
	t.Logf("the origin sends %.0f bytes a second, for %d children", origined, children[origin.name])
	if len(levels) > 3 {
		t.Errorf("the tree has %d levels, want at most 3", len(levels))
	}
	if children[origin.name] > 16 {
		t.Errorf("the origin has %d children, want at most 16", children[origin.name])
	}
	if worst := slices.Max(moved); worst > 2*time.Second {
		t.Errorf("a child waited %v for another parent, want at most 2 s", worst)
	}

	cancel()
	clients.Wait()
	for _, n := range nodes {
		n.stop()
	}
	for _, n := range nodes {
		n.running.Wait()
	}
}
