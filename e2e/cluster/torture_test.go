// What may go wrong between nodes: the cases of the torture list.

package lab

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/rtmp"
)

const bits = 500_000 // a second, of the shows in these tests

// slack is by how much a machine that does other things too may exceed what is logged beside the times here.
const slack = 3

// TestT59_OwnerKilled kills the node that has the channel, three times a different one
// so that the leader of the control plane is among them.
func TestT59_OwnerKilled(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 4)
	ownerKilled(t, nodes, nodes[3].copied)
}

// ownerKilled is for nodes with a directory that heal waits for.
func ownerKilled(t *testing.T, nodes []*node, heal func()) {
	watcher := nodes[3].watch("show")
	by := byte('a')
	owner := 0
	nodes[owner].publish(show{"show", by, bits})
	watcher.from(by, time.Time{})
	began := time.Now()
	for range members {
		killed, next := nodes[owner], (owner+1)%members
		for _, n := range nodes {
			n.knows("show", killed)
		}
		at := time.Now()
		killed.kill()
		gone := nodes[3].misses(killed)
		by++
		nodes[next].standby(show{"show", by, bits})
		first := watcher.from(by, at)
		back := first.came.Sub(at)
		t.Logf("%s, the owner, is killed: gone after %v of 2.1 s, %s on air after %v of 9 s", killed.name, gone, nodes[next].name, back)
		if gone > slack*2100*time.Millisecond {
			t.Errorf("%s is gone after %v", killed.name, gone)
		}
		if back > slack*9*time.Second {
			t.Errorf("the standby is on air after %v", back)
		}
		killed.run()
		for _, n := range nodes {
			n.sees(nodes...)
		}
		// The records lie in the memory of three nodes: to lose another before the one that begins anew has them is to
		// lose two of three.
		heal()
		owner = next
	}
	watcher.steady(began)
}

// TestT60_FrozenOwner stops the process of the owner for longer than the others wait,
// and lets it go on when another node has the channel.
func TestT60_FrozenOwner(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 4)
	ownerFrozen(t, nodes[3], nodes[0], nodes[1])
}

// TestT60_FrozenMember is about an owner whose part of the control plane is frozen with it.
func TestT60_FrozenMember(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 4)
	for i := range members {
		ownerFrozen(t, nodes[i], nodes[(i+1)%members], nodes[(i+2)%members])
	}
}

func ownerFrozen(t *testing.T, owner, next, third *node) {
	name := "show-of-" + owner.name
	old := owner.publish(show{name, 'a', bits})
	stayed := owner.watch(name)
	stayed.from('a', time.Time{})
	next.knows(name, owner)
	owner.freeze()
	next.misses(owner)
	taken := next.standby(show{name, 'b', bits})
	third.knows(name, next)
	other := third.watch(name)
	other.from('b', time.Time{})
	thawed := time.Now()
	owner.thaw()
	took := old.told(t).Sub(thawed)
	t.Logf("the publisher on %s is told %v of 1 s after the node goes on", owner.name, took)
	if took > slack*time.Second {
		t.Errorf("the old publisher on %s is told %v after the node goes on", owner.name, took)
	}
	stayed.from('b', thawed) // the viewers of the old owner have the new one's frames
	if err := stayed.ended(); err != nil {
		t.Errorf("the viewer on the old owner: %v", err)
	}
	other.whole(time.Time{})
	taken.end()
}

// TestT61_OwnerPartitioned has two owners of one name for as long as they cannot know of
// each other, and one after that.
func TestT61_OwnerPartitioned(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 3)
	partitioned(t, nodes)
}

func partitioned(t *testing.T, nodes []*node) {
	p := [2]*publisher{nodes[0].publish(show{"show", 'a', bits})}
	v := [3]*viewer{}
	for i, n := range nodes[:3] {
		v[i] = n.watch("show")
		v[i].from('a', time.Time{})
	}
	nodes[0].cut()
	cut := time.Now()
	nodes[1].misses(nodes[0])
	p[1] = nodes[1].standby(show{"show", 'b', bits})
	v[1].from('b', cut)
	v[2].from('b', cut)
	v[0].from('a', cut.Add(5*time.Second))
	v[0].whole(time.Time{})
	nodes[2].knows("show", nodes[1]) // so most of the control plane has b's claim: it may have elected a leader before

	nodes[0].heal()
	healed := time.Now()
	told := p[0].told(t)
	t.Logf("publisher a is told %v after healing", told.Sub(healed))
	for _, v := range v {
		v.from('b', told.Add(3*time.Second))
		v.steady(told.Add(2 * time.Second))
	}
	if !p[1].onAir() {
		t.Errorf("publisher b has ended too: %v", p[1].err)
	}
}

// TestT61_MinorityTakesAName has the side that cannot decide anything take a name that the other goes on with.
func TestT61_MinorityTakesAName(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 3)
	b := nodes[1].publish(show{"show", 'b', bits})
	nodes[0].knows("show", nodes[1])
	nodes[0].cut()
	nodes[0].misses(nodes[1])
	a := nodes[0].standby(show{"show", 'a', bits})
	v := nodes[0].watch("show")
	v.from('a', time.Now().Add(3*time.Second))
	nodes[0].heal()
	healed := time.Now()
	told := a.told(t)
	t.Logf("publisher a is told %v after healing", told.Sub(healed))
	v.from('b', told)
	nodes[2].watch("show").from('b', told)
	if !b.onAir() {
		t.Errorf("publisher b has ended: %v", b.err)
	}
}

// TestT61_ArchivesOfBothSides has both sides of a partition record one name, into one folder.
func TestT61_ArchivesOfBothSides(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	_, nodes := service(t, 3, "  on-demand:\n", `  archive:
    - from: live/broadcast
    - use: archiver
      with: {path: "{channel}.flv"}
    - use: writer-disk
      with: {root: `+folder+`}
  on-demand:
`)
	a := nodes[0].publish(show{"show", 'a', bits})
	nodes[1].knows("show", nodes[0])
	nodes[0].cut()
	nodes[1].misses(nodes[0])
	b := nodes[1].standby(show{"show", 'b', bits})
	nodes[1].watch("show").from('b', time.Now().Add(2*time.Second))
	nodes[2].knows("show", nodes[1]) // who would go with a if the directory had still that
	nodes[0].heal()
	a.told(t)
	nodes[2].watch("show").from('b', time.Now().Add(2*time.Second))
	b.end()
	var stopping sync.WaitGroup
	for _, n := range nodes {
		stopping.Go(n.stop) // finishes the files
	}
	stopping.Wait()
	for file, by := range map[string]byte{"show_n1.flv": 'a', "show_n2.flv": 'b'} {
		if err := recorded(filepath.Join(folder, file), by, 2*rate); err != nil {
			t.Error(err)
		}
	}
}

// TestT62_NoControlPlane ends two of three members, so that nothing can be decided by
// the third and the clients.
func TestT62_NoControlPlane(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 5)
	withoutControl(t, nodes[2:], func() {
		nodes[0].kill()
		nodes[1].kill()
	}, func() {
		nodes[0].run()
		nodes[1].run()
	})
}

// withoutControl takes the control plane from three nodes for a minute.
func withoutControl(t *testing.T, nodes []*node, lose, restore func()) {
	a := nodes[0].publish(show{"before", 'a', bits})
	var old []*viewer
	for _, n := range nodes {
		v := n.watch("before")
		v.from('a', time.Time{})
		old = append(old, v)
	}
	lose()
	lost := time.Now()
	time.Sleep(5 * time.Second)
	// A publisher is taken at once, and seen where it publishes.
	at := time.Now()
	b := nodes[1].publish(show{"during", 'b', bits})
	if took := time.Since(at); took > slack*time.Second {
		t.Errorf("a publisher waits %v", took)
	}
	during := nodes[1].watch("during")
	during.from('b', at)
	// What was known before goes on being served.
	nodes[2].watch("before").from('a', at)
	time.Sleep(time.Until(lost.Add(time.Minute)))
	for _, v := range old {
		v.whole(time.Time{})
	}
	during.whole(time.Time{})
	restore()
	for _, n := range nodes {
		n.knows("before", nodes[0])
		n.knows("during", nodes[1])
	}
	nodes[2].watch("during").from('b', time.Now())
	for _, v := range old {
		v.whole(time.Time{})
	}
	if !a.onAir() || !b.onAir() {
		t.Errorf("publishers have ended: %v, %v", a.err, b.err)
	}
}

// TestT63_SlowLink gives one node less than the channel needs.
func TestT63_SlowLink(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 3, "- use: broadcast\n", "- use: broadcast\n      with: {window: 5s}\n")
	const bits = 4_000_000
	nodes[0].publish(show{"show", 'a', bits})
	near, far := nodes[1].watch("show"), nodes[2].watch("show")
	near.from('a', time.Time{})
	far.from('a', time.Time{})
	nodes[2].slow("2mbit")
	slowed := time.Now()
	skips := 0
	// The kernel keeps seconds of it before the window is even used.
	for after := 20 * time.Second; skips == 0 && after <= time.Minute; after += 5 * time.Second {
		near.from('a', slowed.Add(after))
		frames := far.frames(time.Time{})
		for i, f := range frames[1:] {
			if before := frames[i]; f.n != before.n+1 {
				skips++
				if f.n%gop != 0 {
					t.Errorf("%s: frame %d follows on %d: not at a keyframe", far.where, f.n, before.n)
				}
			}
		}
	}
	near.whole(time.Time{})
	if got := len(far.frames(slowed)); got == 0 || far.ended() != nil {
		t.Fatalf("%s: %d frames over the slow link, ended: %v", far.where, got, far.ended())
	}
	if skips == 0 {
		t.Errorf("%s: no skip in %d frames over a link of half the rate", far.where, len(far.frames(time.Time{})))
	}
	nodes[2].fast()
	restored := time.Now()
	far.from('a', restored.Add(5*time.Second))
	far.whole(restored.Add(5 * time.Second))
	pause := near.steady(time.Time{})
	t.Logf("%s: at most %v of 1 s without a frame", near.where, pause)
	if pause > slack*time.Second {
		t.Errorf("%s: %v without a frame", near.where, pause)
	}
}

// TestT64_ParentLoop ends a channel that two nodes have from each other's side: neither
// may take the other for its parent.
func TestT64_ParentLoop(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 3, "linger: 10s", "linger: 1s")
	p := nodes[0].publish(show{"show", 'a', bits})
	var all []*viewer
	for _, n := range nodes {
		v := n.watch("show")
		v.from('a', time.Time{})
		all = append(all, v)
	}
	all[0].from('a', time.Now().Add(2*time.Second))
	p.end()
	for i, v := range all {
		v.ends()
		frames := v.frames(time.Time{})
		v.unbroken(frames)
		if last := frames[len(frames)-1]; last.came.After(p.ended.Add(slack * time.Second)) {
			t.Errorf("viewer %d has a frame %v after the publisher's end", i, last.came.Sub(p.ended))
		}
	}
}

// TestT65_RelayDies makes a chain of three nodes and kills the one in the middle.
func TestT65_RelayDies(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 3, "plain: true", "plain: true, children: 1")
	nodes[0].publish(show{"show", 'a', bits})
	nodes[1].watch("show").from('a', time.Time{})
	v := nodes[2].watch("show")
	v.from('a', time.Time{})
	nodes[2].comes("show", "n1", "n2", "n3")
	killed := time.Now()
	nodes[1].kill()
	v.from('a', killed.Add(5*time.Second))
	pause := v.steady(time.Time{})
	t.Logf("the viewer waited %v of 2 s for another parent", pause)
	if pause > slack*2*time.Second {
		t.Errorf("the viewer waited %v for another parent", pause)
	}
}

// TestT53_TwoPublishersOnTwoNodes has the second refused, or the first ended, by policy.
func TestT53_TwoPublishersOnTwoNodes(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 3)
	first := nodes[0].publish(show{"show", 'a', bits})
	nodes[1].knows("show", nodes[0])
	_, err := nodes[1].offer(show{"show", 'b', bits})
	var refused *rtmp.StatusError
	if !errors.As(err, &refused) || refused.Code != "NetStream.Publish.BadName" {
		t.Errorf("the second publisher gets %v, want NetStream.Publish.BadName", err)
	}
	v := nodes[2].watch("show")
	v.from('a', time.Now())
	if !first.onAir() {
		t.Errorf("the first publisher: %v", first.err)
	}
}

func TestT53_TakeoverFromAnotherNode(t *testing.T) {
	t.Parallel()
	_, nodes := service(t, 3, "linger: 10s", "linger: 10s, takeover: true")
	first := nodes[0].publish(show{"show", 'a', bits})
	var all []*viewer
	for _, n := range nodes {
		v := n.watch("show")
		v.from('a', time.Time{})
		all = append(all, v)
	}
	at := time.Now()
	nodes[1].publish(show{"show", 'b', bits})
	told := first.told(t)
	t.Logf("the first publisher is told after %v", told.Sub(at))
	for _, v := range all {
		v.from('b', told.Add(2*time.Second))
		v.steady(time.Time{})
	}
}
