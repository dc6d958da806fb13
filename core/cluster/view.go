// What this node knows of the others: their beats, and the directory's records. The
// methods of view are called with the Cluster's mutex held.

package cluster

import (
	"iter"
	"slices"
	"time"
)

// State is how a node stands.
type State string

// The states of a node. Who is asked for media is alive.
const (
	Alive    State = "alive"
	Suspect  State = "suspect"  // not heard for a second
	Dead     State = "dead"     // not heard for two, or gone
	Draining State = "draining" // takes no new viewers, and will leave
)

// node is what is known of a node, this one too.
type node struct {
	beat
	seen  time.Time // when its last beat came, in hearing time; or when it was mentioned first
	began time.Time // when the first beat of its session came
	shown State     // as it was when changed was last closed for it
}

// entry is what is known of a key. A record that was removed is kept for a while, without its
// Session: for its revision, and for the origin of a timeline that may go on.
type entry struct {
	Record
	last    string    // the session that has it, or had it last
	at      time.Time // when the record came
	written time.Time // when it was written, if that happened while this node was watching
}

// channel is what is known of a name.
type channel struct {
	owner   entry
	holders map[string]entry // by node
}

type view struct {
	nodes    map[string]*node
	channels map[string]*channel
	changed  chan struct{} // closed and replaced when a node or a channel changes

	// hearing is whether this node's own beats come back, and heard when the last did. While
	// they don't, nothing can be said about the others: time stands still for them.
	hearing bool
	heard   time.Time
	// members is how many nodes carry the directory, 0 when none of them does, and resumed since when
	// most of them and this node can be heard without a break.
	members int
	resumed time.Time
}

// notify tells those who wait for a change.
func (v *view) notify() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// deaf says that nothing can be heard now.
func (v *view) deaf(now time.Time) bool { return !v.hearing || now.Sub(v.heard) > deafAfter }

// clock is the time by which the others' silence is measured.
func (v *view) clock(now time.Time) time.Time {
	if v.deaf(now) {
		return v.heard
	}
	return now
}

// hear notes that a beat of this node came back. What was silent before a break
// has been silent for as long after it. It reports whether there was one.
func (v *view) hear(now time.Time) (resumed bool) {
	gap := now.Sub(v.heard)
	if resumed = v.deaf(now); resumed {
		for _, n := range v.nodes {
			if n.seen.After(v.heard) {
				n.seen = v.heard
			}
			n.seen = n.seen.Add(gap)
		}
		v.hearing, v.resumed = true, now
	}
	v.heard = now
	return resumed
}

// mention returns the node of that name, which may not have been heard yet.
func (v *view) mention(name string, now time.Time) *node {
	n, ok := v.nodes[name]
	if !ok {
		n = &node{beat: beat{Node: name}, seen: v.clock(now), shown: Dead}
		v.nodes[name] = n
	}
	return n
}

// beats takes a beat of a node. It reports whether the node is another one by
// it than it was.
func (v *view) beats(b beat, now time.Time) (changed bool) {
	n := v.mention(b.Node, now)
	alone := b.Member && !v.majority(now)
	switch {
	case b.Gone && n.Session != b.Session:
		return false // of a session that another has followed
	case n.Session != b.Session:
		n.began, changed = now, true
	}
	changed = changed || n.differs(b)
	n.beat, n.seen = b, now
	if alone && v.majority(now) {
		v.resumed = now
	}
	return changed
}

// majority says that most members have been heard of late. The others may live and not be
// heard, on the greater side of a broken network: what they have is not this node's to take.
func (v *view) majority(now time.Time) bool {
	heard := 0
	for _, n := range v.nodes {
		if n.Member && v.state(n, now) != Dead {
			heard++
		}
	}
	return v.members < 2 || 2*heard > v.members
}

// state is how n stands now.
func (v *view) state(n *node, now time.Time) State {
	silence := v.clock(now).Sub(n.seen)
	switch {
	case n.Gone, n.Session == "", silence >= deadAfter:
		return Dead
	case silence >= suspectAfter:
		return Suspect
	case n.Draining:
		return Draining
	}
	return Alive
}

// standing is what is known of the session that wrote a record.
type standing uint8

const (
	unsure standing = iota // not heard yet since this node hears anything
	living
	ended
)

func (v *view) stands(r Record, now time.Time) standing {
	n := v.mention(r.Node, now)
	silent := now.Sub(n.seen) >= deadAfter
	heard := n.Session != "" && n.seen.After(v.resumed) && !silent
	e := v.known(r.Key)
	if e.Revision != r.Revision {
		e = entry{at: now}
	}
	old := now.Sub(e.at) >= deadAfter // time enough to hear the session that wrote it
	switch {
	case v.deaf(now):
		return unsure
	case n.Session == r.Session && n.Gone:
		return ended
	case now.Sub(e.written) < deadAfter:
		return living // who writes lives, even if its beats are lost
	case silent && now.Sub(v.resumed) >= deadAfter && v.majority(now) && (n.Session == r.Session || old):
		return ended // and did not come back while this node was deaf
	case heard && n.Session == r.Session:
		return living
	case heard && (r.Since.Before(n.Since) || old):
		return ended // the node was started anew
	}
	return unsure
}

// know takes a record. It reports whether it is news.
func (v *view) know(r Record, now time.Time) bool {
	old := v.known(r.Key)
	if r.Revision <= old.Revision {
		return false
	}
	e := entry{Record: r, last: r.Session, at: now}
	if r.Session == "" {
		e.Origin, e.last = old.Origin, old.last
	} else {
		v.mention(r.Node, now)
	}
	v.channel(r.Channel).put(e)
	return true
}

// wrote notes that r, which is known, has been written now. What was known before comes again when the directory
// has another leader, and says nothing of who wrote it.
func (v *view) wrote(r Record, now time.Time) {
	if e := v.known(r.Key); e.Revision == r.Revision && now.Sub(e.at) < deadAfter {
		e.written = now
		v.channel(r.Channel).put(e)
	}
}

func (v *view) channel(name string) *channel {
	ch, ok := v.channels[name]
	if !ok {
		ch = &channel{holders: map[string]entry{}}
		v.channels[name] = ch
	}
	return ch
}

func (ch *channel) get(k Key) entry {
	if k.Holder == "" {
		return ch.owner
	}
	return ch.holders[k.Holder]
}

func (ch *channel) put(e entry) {
	if e.Holder == "" {
		ch.owner = e
	} else {
		ch.holders[e.Holder] = e
	}
}

// known is what is known of k, with Revision 0 when it is nothing.
func (v *view) known(k Key) entry {
	if ch, ok := v.channels[k.Channel]; ok {
		return ch.get(k)
	}
	return entry{Record: Record{Key: k}}
}

// records are all that have not been removed.
func (v *view) records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, ch := range v.channels {
			if ch.owner.Session != "" && !yield(ch.owner.Record) {
				return
			}
			for _, h := range ch.holders {
				if h.Session != "" && !yield(h.Record) {
					return
				}
			}
		}
	}
}

// older reports whether some of a snapshot is older than what is known.
func (v *view) older(all []Record) bool {
	return slices.ContainsFunc(all, func(r Record) bool { return r.Revision < v.known(r.Key).Revision })
}

// replace takes a snapshot. What it lacks has been removed.
func (v *view) replace(all []Record, now time.Time) {
	old := v.channels
	v.channels = make(map[string]*channel, len(all))
	for _, r := range all {
		if ch, ok := old[r.Channel]; ok && ch.get(r.Key).Revision == r.Revision && ch.get(r.Key).says(r) {
			v.channel(r.Channel).put(ch.get(r.Key))
		} else {
			v.know(r, now)
		}
	}
	for name, ch := range old {
		was := ch.owner
		if was.Origin.IsZero() || v.known(Key{Channel: name}).Session != "" {
			continue
		}
		is := &v.channel(name).owner
		is.Channel, is.Origin, is.last, is.at = name, was.Origin, was.last, was.at
		if was.Session != "" {
			is.at = now
		}
	}
}

// origin is that of the timeline which a claim of e's channel goes on with, if it does.
func (v *view) origin(e entry, now time.Time) (time.Time, bool) {
	switch {
	case e.Origin.IsZero():
		return time.Time{}, false
	case e.Session == "":
		return e.Origin, now.Sub(e.at) < lately
	}
	return e.Origin, v.silence(e.Record, now) < lately
}

// silence is for how long the session of r has ended, less than deadAfter when it
// has not.
func (v *view) silence(r Record, now time.Time) time.Duration {
	n := v.mention(r.Node, now)
	if n.Session != "" && n.Session != r.Session {
		return v.clock(now).Sub(n.began)
	}
	return v.clock(now).Sub(n.seen)
}

// abandoned says that the session which wrote r ended so long ago that r can go.
func (v *view) abandoned(r Record, now time.Time) bool {
	return v.stands(r, now) == ended && v.silence(r, now) > lately
}

// first says whether name is the first of the living nodes, who does what one of
// them has to do.
func (v *view) first(name string) bool {
	now := time.Now()
	for other, n := range v.nodes {
		if s := v.state(n, now); other < name && (s == Alive || s == Draining) {
			return false
		}
	}
	return true
}

// forget drops what was removed and who died long ago.
func (v *view) forget(now time.Time) {
	for name, ch := range v.channels {
		for node, h := range ch.holders {
			if h.Session == "" && now.Sub(h.at) > lately {
				delete(ch.holders, node)
			}
		}
		if ch.owner.Session == "" && now.Sub(ch.owner.at) > lately && len(ch.holders) == 0 {
			delete(v.channels, name)
		}
	}
	for name, n := range v.nodes {
		if v.state(n, now) == Dead && v.clock(now).Sub(n.seen) > forgetAfter {
			delete(v.nodes, name)
		}
	}
}

// on are the records of sessions that have not ended: the owner's first, then those
// of the nodes that repeat the channel.
func (ch *channel) on(v *view) iter.Seq[Record] {
	now := time.Now()
	lives := func(r Record) bool {
		n := v.nodes[r.Node]
		return r.Session != "" && n != nil && n.Session == r.Session && v.state(n, now) != Dead
	}
	return func(yield func(Record) bool) {
		if lives(ch.owner.Record) && !yield(ch.owner.Record) {
			return
		}
		for _, h := range ch.holders {
			if lives(h.Record) && !yield(h.Record) {
				return
			}
		}
	}
}
