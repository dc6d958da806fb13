// The engine under a Cluster: a small register of who has which channel, and a way to
// tell all nodes something. There are two, Memory and NATS.

package cluster

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A Directory is one node's access to what all nodes share. Its methods may be called
// by any goroutine. They fail, and don't wait, while the engine cannot be reached.
type Directory interface {
	// Claim writes r in place of the record with the revision over, 0 for none, and
	// returns the revision of r. It fails with ErrConflict when the directory has
	// another one; after any other error r may be written, now or later, or not.
	Claim(ctx context.Context, r Record, over uint64) (revision uint64, err error)
	// Release removes the record of k with that revision. It fails as Claim does.
	Release(ctx context.Context, k Key, revision uint64) error
	// Lookup returns the newest record of k, one with Revision 0 when there is none.
	Lookup(ctx context.Context, k Key) (Record, error)
	// Tell sends a message to one node, or to all and back to this one when to is "". It may be
	// lost: beats are told so, with the load of the node.
	Tell(to string, message []byte) error
	// Watch connects to the engine and tells w what happens, until ctx ends: nil then, an error
	// when it cannot go on. It goes on through every loss of the engine.
	Watch(ctx context.Context, w Watcher) error
}

// A Watcher is told what happens in a directory, by one goroutine.
type Watcher interface {
	// Snapshot is all that the directory has, in place of whatever was told before. It
	// comes first, and whenever something may have been missed. When some of it is older than what was told
	// before, it is taken only if it is sure; else Snapshot reports false.
	Snapshot(all []Record, sure bool) bool
	// Update is a change of one record. One without a Session has been removed.
	// A change that is older than what is known of the key is to be ignored.
	Update(r Record)
	// Message is what some node has told this one, or all. It must not be kept.
	Message(b []byte)
}

// ErrConflict says that the directory has another revision than the caller thinks.
var ErrConflict = errors.New("the directory has another revision")

// A Key names a record: who has a channel on air, or that a node repeats it.
type Key struct {
	Channel string
	Holder  string // the node that repeats the channel, "" for the owner's record
}

// A Record is what the directory knows of a key.
type Record struct {
	Key     `json:"-"`
	Node    string    `json:"node"`    // that wrote it
	Session string    `json:"session"` // of the node, from its start to its end; "" when nobody has the key
	Since   time.Time `json:"since"`
	Origin  time.Time `json:"origin,omitzero"` // wall-clock time of the channel's time 0, in the owner's record
	Path    []string  `json:"path,omitempty"`  // of the nodes that a holder has the channel through
	// Revision grows with each change of the key.
	Revision uint64 `json:"-"`
}

// says is whether both say the same, whatever their revisions.
func (r Record) says(o Record) bool {
	return r.Key == o.Key && r.Node == o.Node && r.Session == o.Session &&
		r.Since.Equal(o.Since) && r.Origin.Equal(o.Origin) && slices.Equal(r.Path, o.Path)
}
