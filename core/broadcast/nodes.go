// What a broadcast asks of the cluster, beyond what any stage may ask.

package broadcast

import (
	"slices"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A Directory is the cluster's register of names. Env.Nodes of a broadcast must be
// one; none of its methods waits for anything.
type Directory interface {
	// Claim says that this node puts the channel name on air. It fails with
	// media.ErrBusy, naming the node, when another has it, unless takeover is set.
	Claim(name string, takeover bool) (Claim, error)
	// Hold says that this node has the channel name without a claim to it.
	Hold(name string) Holding
}

// A Claim is this node's right to a name, until it is lost or released.
type Claim interface {
	// Origin is the wall-clock time of the channel's time 0, the same for all
	// nodes that have the name one after the other.
	Origin() time.Time
	// Lost is closed when another node has the name. Err then wraps
	// media.ErrTakenOver or media.ErrBusy, and names the node.
	Lost() <-chan struct{}
	Err() error
	// Release gives the name up. It may be called more than once.
	Release()
}

// A Holding is a channel that this node has without a claim: it repeats it, or
// its publisher has left.
type Holding interface {
	// Set tells the nodes that the channel comes through, the owner first and
	// this one last; empty while it comes from nowhere.
	Set(path []string)
	Release()
}

// changer is a stage.Nodes that tells when to look again.
type changer interface {
	// Changed is closed at the next change of the nodes or the channels.
	Changed() <-chan struct{}
}

// changes is closed at the next change, nil when nobody tells.
func (b *Broadcast) changes() <-chan struct{} {
	if c, ok := b.nodes.(changer); ok {
		return c.Changed()
	}
	return nil
}

// route is the path of a channel that comes from src: that of src and this node. A
// source that has come through no nodes begins here.
func (b *Broadcast) route(src media.Source) []string {
	routed, ok := src.(media.Routed)
	if !ok {
		return b.self
	}
	path := routed.Path()
	if len(path) == 0 {
		return nil
	}
	return slices.Concat(path, b.self)
}
