// What repeaters are for: many viewers, few bytes between nodes.

package lab

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestOneStreamBetweenTwoNodes is the arithmetic of the notes, counted on the links.
func TestOneStreamBetweenTwoNodes(t *testing.T) {
	const size, viewers, took = 10, 1000, 10 * time.Second
	_, nodes := service(t, size)
	var meters []*meter
	for _, n := range nodes {
		n.segment()
		meters = append(meters, n.listen(false))
	}
	idle := over(meters, 5*time.Second)
	nodes[0].publish(show{"show", 'a', bits})
	var all []*viewer
	for _, n := range nodes {
		all = append(all, n.crowd("show", viewers/size)...)
	}
	for _, v := range all {
		v.from('a', time.Time{})
	}
	best := float64(size-1) * bits / 1e6
	mbits := func(bytes int64, d time.Duration) float64 { return float64(bytes) * 8 / 1e6 / d.Seconds() }
	var crossed tally
	var got float64
	within(t, func() error {
		began := time.Now()
		crossed = over(meters, took)
		got = mbits(crossed.media.payload, took)
		received := 0
		for _, v := range all {
			v.whole(began)
			received += len(v.frames(began))
		}
		if want := viewers * int(took/span); received < want*99/100 {
			return fmt.Errorf("the viewers got %d frames, want %d", received, want)
		}
		if got > 1.05*best {
			return fmt.Errorf("%.2f Mbit/s between the nodes, want at most %.2f", got, 1.05*best)
		}
		return nil
	})

	remote := float64(viewers-viewers/size) * bits / 1e6
	figure(t, "One stream between two nodes",
		fmt.Sprintf("%d nodes, %d viewers, a channel of %d kbit/s, %v", size, viewers, bits/1000, took), [][]string{
			{"between the nodes", "Mbit/s"},
			{"if each remote viewer had a stream of its own", fmt.Sprintf("%.1f", remote)},
			{"one stream to each of the other nodes", fmt.Sprintf("%.2f", best)},
			{"measured: frames, with the repeaters' own messages", fmt.Sprintf("%.2f (%.3f of that)", got, got/best)},
			{"the same on the wire, with TCP, IP and Ethernet headers and acknowledgements", fmt.Sprintf("%.2f", mbits(crossed.media.wire, took))},
			{"control plane on the wire, under load", fmt.Sprintf("%.2f", mbits(crossed.other.wire, took))},
			{"control plane on the wire, idle", fmt.Sprintf("%.2f", mbits(idle.other.wire, 5*time.Second))},
		})
}

// within measures up to three times, until the result is what it is to be: a machine that does other things
// too disturbs some.
func within(t *testing.T, measure func() error) {
	t.Helper()
	for turn := 1; ; turn++ {
		err := measure()
		switch {
		case err == nil:
			return
		case turn == 3:
			t.Error(err)
			return
		}
		t.Log(err)
	}
}

// TestAddedLatency compares when viewers of one node and of another have the same frames. Where a viewer of the first
// waits for long as well it is the machine that is busy.
func TestAddedLatency(t *testing.T) {
	_, nodes := service(t, 2)
	var near, far []*viewer
	for i := range 8 {
		name := fmt.Sprintf("show%d", i)
		nodes[0].publish(show{name, 'a', bits})
		near = append(near, nodes[0].watch(name))
		far = append(far, nodes[1].watch(name))
	}
	for _, v := range slices.Concat(near, far) {
		v.from('a', time.Time{})
	}
	var added, direct []time.Duration
	p := func(list []time.Duration, percent int) time.Duration { return list[(len(list)-1)*percent/100] }
	within(t, func() error {
		began := time.Now()
		near[0].from('a', began.Add(10*time.Second))
		added, direct = nil, nil
		for i := range near {
			came := map[int]time.Time{}
			for _, f := range near[i].frames(began) {
				came[f.n] = f.came
				direct = append(direct, f.came.Sub(f.sent))
			}
			for _, f := range far[i].frames(began) {
				if at, ok := came[f.n]; ok {
					added = append(added, f.came.Sub(at))
				}
			}
		}
		slices.Sort(added)
		slices.Sort(direct)
		if late, most := p(added, 99), max(10*time.Millisecond, 2*p(direct, 99)); late >= most {
			return fmt.Errorf("a repeater adds %v at p99, want less than %v", late, most)
		}
		return nil
	})
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/1e6) }
	figure(t, "Latency that a repeater adds", fmt.Sprintf("%d frames of 8 channels, for viewers of two nodes", len(added)), [][]string{
		{"", "ms"}, {"median", ms(p(added, 50))}, {"p99", ms(p(added, 99))}, {"most", ms(p(added, 100))},
	})
}

// TestRepeaterCPU compares channels watched where they are published with channels watched
// on another node, in turns. A machine that does other things too disturbs some turns: the median counts, and of more
// turns when it is too high.
func TestRepeaterCPU(t *testing.T) {
	const shows, bits, took = 64, 4_000_000, 5 * time.Second
	const least, limit = 3, 9   // turns
	const goal, most = 1.0, 1.2 // of an ingest and a viewer; 0.75 to 0.95 were seen, single turns up to 1.2
	// The window is full soon, so that it is no new memory which costs.
	_, nodes := service(t, 2, "- use: broadcast\n", "- use: broadcast\n      with: {linger: 100ms, window: 2s}\n")
	idle := cpu(nodes, took)
	for i := range shows {
		nodes[0].publish(show{fmt.Sprintf("show%d", i), 'a', bits})
	}
	spent := func(n *node) time.Duration {
		var all []*viewer
		for i := range shows {
			v := n.watch(fmt.Sprintf("show%d", i))
			v.from('a', time.Time{})
			all = append(all, v)
		}
		began := time.Now()
		d := cpu(nodes, took) - idle
		for _, v := range all {
			v.whole(began)
			v.close()
		}
		eventually(t, "nothing is repeated any more", func() error {
			if repeated := nodes[1].metric("mediad_repeater_parents"); repeated > 0 {
				return fmt.Errorf("%.0f channels are", repeated)
			}
			return nil
		})
		return d
	}
	spent(nodes[1]) // its memory is new
	var one, two time.Duration
	var costs []float64
	for len(costs) < least || median(costs) > goal && len(costs) < limit {
		a, b := spent(nodes[0]), spent(nodes[1])
		one, two = one+a, two+b
		costs = append(costs, float64(b-a)/float64(a))
	}
	gb := float64(shows*bits/8) * float64(len(costs)) * took.Seconds() / 1e9
	row := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()/gb) }
	figure(t, "CPU of a repeater", fmt.Sprintf("%d channels of %d Mbit/s with one viewer each, %.2f GB, idle time subtracted", shows, bits/1_000_000, gb), [][]string{
		{"", "s/GB"},
		{"one ingest and one viewer, on one node", row(one)},
		{"one ingest, the repeater on both its nodes, one viewer", row(two)},
		{"so the repeater", row(two - one)},
	})
	t.Logf("a repeater costs %.2f of an ingest and a viewer, in the median turn %.2f, in all %.2f", float64(two-one)/float64(one), median(costs), costs)
	if median(costs) > most {
		t.Errorf("a repeater costs %.2f of an ingest and a viewer, want at most %v; the turns: %.2f", median(costs), most, costs)
	}
}

// median is the middle one, or the lower one of two.
func median(list []float64) float64 { return slices.Sorted(slices.Values(list))[(len(list)-1)/2] }

// cpu is what the nodes use in a time.
func cpu(nodes []*node, d time.Duration) (used time.Duration) {
	for _, n := range nodes {
		used -= n.cpu()
	}
	time.Sleep(d)
	for _, n := range nodes {
		used += n.cpu()
	}
	return used
}
