// A directory in the memory of one process: for a node that is alone, for tests and for
// simulations. It works in virtual time (testing/synctest).

package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Memory is a directory that the nodes of one process share.
type Memory struct {
	mu       sync.Mutex
	revision uint64
	records  map[Key]Record
	nodes    map[string]*MemoryNode
}

// NewMemory returns an empty directory.
func NewMemory() *Memory {
	return &Memory{records: map[Key]Record{}, nodes: map[string]*MemoryNode{}}
}

// MemoryNode is one node's access to a Memory, its Directory.
type MemoryNode struct {
	m    *Memory
	name string

	// All is guarded by m.mu.
	cut     bool
	held    chan struct{} // closed when the node goes on, nil while it does
	queue   []func(Watcher)
	missed  bool          // a snapshot takes the place of the queue
	arrived chan struct{} // with room for one
}

var _ Directory = (*MemoryNode)(nil)

// Node returns the access of the node name, one that was not cut off or held before.
func (m *Memory) Node(name string) *MemoryNode {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := &MemoryNode{m: m, name: name, missed: true, arrived: make(chan struct{}, 1)}
	m.nodes[name] = n
	return n
}

var errCut = errors.New("the directory cannot be reached")

// Cut cuts the node off from the directory and from the others. To kill it, cut it off and
// end its Serve.
func (n *MemoryNode) Cut() {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	n.cut, n.queue, n.missed = true, nil, true
}

// Heal ends what Cut began.
func (n *MemoryNode) Heal() {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	n.cut = false
	wake(n.arrived)
}

// Stop holds back all that comes and goes, as it is for a process after SIGSTOP.
func (n *MemoryNode) Stop() {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	n.held = make(chan struct{})
}

// Continue ends what Stop began: what was held back comes and goes now.
func (n *MemoryNode) Continue() {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	close(n.held)
	n.held = nil
}

// enter waits while the node is held, and locks the Memory.
func (n *MemoryNode) enter(ctx context.Context) error {
	for {
		n.m.mu.Lock()
		held := n.held
		if held == nil && n.cut {
			n.m.mu.Unlock()
			return errCut
		}
		if held == nil {
			return nil
		}
		n.m.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Claim implements Directory.
func (n *MemoryNode) Claim(ctx context.Context, r Record, over uint64) (uint64, error) {
	if err := n.enter(ctx); err != nil {
		return 0, err
	}
	defer n.m.mu.Unlock()
	if n.m.records[r.Key].Revision != over {
		return 0, fmt.Errorf("%s: %w", r.Channel, ErrConflict)
	}
	r.Path = slices.Clone(r.Path)
	n.m.revision++
	r.Revision = n.m.revision
	n.m.records[r.Key] = r
	n.m.update(r)
	return r.Revision, nil
}

// Release implements Directory.
func (n *MemoryNode) Release(ctx context.Context, k Key, revision uint64) error {
	if err := n.enter(ctx); err != nil {
		return err
	}
	defer n.m.mu.Unlock()
	if r, ok := n.m.records[k]; !ok || r.Revision != revision {
		return fmt.Errorf("%s: %w", k.Channel, ErrConflict)
	}
	delete(n.m.records, k)
	n.m.revision++
	n.m.update(Record{Key: k, Revision: n.m.revision})
	return nil
}

// Lookup implements Directory.
func (n *MemoryNode) Lookup(ctx context.Context, k Key) (Record, error) {
	if err := n.enter(ctx); err != nil {
		return Record{}, err
	}
	defer n.m.mu.Unlock()
	r := n.m.records[k]
	r.Key = k
	return r, nil
}

// Tell implements Directory.
func (n *MemoryNode) Tell(to string, message []byte) error {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if n.cut || n.held != nil {
		return errCut
	}
	for _, other := range n.m.nodes {
		if to == "" || to == other.name {
			other.enqueue(func(w Watcher) { w.Message(message) })
		}
	}
	return nil
}

func (m *Memory) update(r Record) {
	for _, n := range m.nodes {
		n.enqueue(func(w Watcher) { w.Update(r) })
	}
}

// enqueue takes what happens to the node's queue. The caller holds m.mu.
func (n *MemoryNode) enqueue(f func(Watcher)) {
	const most = 1 << 16 // after which a node looks at the whole again
	switch {
	case n.cut || n.missed:
		return
	case len(n.queue) == most:
		n.queue, n.missed = nil, true
	default:
		n.queue = append(n.queue, f)
	}
	wake(n.arrived)
}

// Watch implements Directory.
func (n *MemoryNode) Watch(ctx context.Context, w Watcher) error {
	wake(n.arrived)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.arrived:
		}
		if n.enter(ctx) != nil {
			continue // Heal wakes it
		}
		queue := n.queue
		n.queue = nil
		if n.missed {
			n.missed = false
			var all []Record
			for _, r := range n.m.records {
				all = append(all, r)
			}
			queue = []func(Watcher){func(w Watcher) { w.Snapshot(all, true) }}
		}
		n.m.mu.Unlock()
		for _, f := range queue {
			f(w)
		}
	}
}
