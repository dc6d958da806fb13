// The indexes that are kept in memory, so that a file is read through once and
// not once per viewer.

package container

import (
	"container/list"
	"context"
	"sync"

	"github.com/mediad/mediad/core/media"
)

// Indexes keeps the indexes of the files that were opened last, one version of
// each, within a bound on their memory.
type Indexes struct {
	max int

	mu    sync.Mutex
	bytes int
	names map[string]*entry
	used  list.List // of the loaded *entry, the latest used first
}

// An entry is the index of one version of a file, or the loading of it.
type entry struct {
	name, version string
	elem          *list.Element // nil while it is not counted in bytes

	done  chan struct{} // closed when the fields below are set
	index media.Index
	err   error
	again bool // the loader's own context has ended: it says nothing about the file
}

// NewIndexes returns an empty Indexes for at most max bytes.
func NewIndexes(max int) *Indexes {
	return &Indexes{max: max, names: map[string]*entry{}}
}

// Get returns the index of a version of the file name. When there is none it is
// loaded, by one caller for all who wait. If that one's ctx ends, another of them loads.
// A failure is told to all who wait, and is not kept. An empty version is never kept.
func (x *Indexes) Get(ctx context.Context, name, version string, load func() (media.Index, error)) (media.Index, error) {
	if version == "" {
		return load()
	}
	for {
		x.mu.Lock()
		e := x.names[name]
		if e == nil || e.version != version {
			e = &entry{name: name, version: version, done: make(chan struct{})}
			x.drop(name)
			x.names[name] = e
			x.mu.Unlock()
			x.load(ctx, e, load)
			return e.index, e.err
		}
		if e.elem != nil {
			x.used.MoveToFront(e.elem)
		}
		x.mu.Unlock()
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !e.again {
			return e.index, e.err
		}
	}
}

// load fills e and keeps it, unless it failed or another version has come.
func (x *Indexes) load(ctx context.Context, e *entry, load func() (media.Index, error)) {
	e.index, e.err = load()
	e.again = e.err != nil && ctx.Err() != nil
	x.mu.Lock()
	defer x.mu.Unlock()
	defer close(e.done)
	if x.names[e.name] != e {
		return
	}
	if e.err != nil {
		delete(x.names, e.name)
		return
	}
	e.elem = x.used.PushFront(e)
	x.bytes += e.index.Bytes()
	for x.bytes > x.max {
		x.drop(x.used.Back().Value.(*entry).name)
	}
}

// drop forgets the index of a file. One that is being loaded goes on for those
// who wait for it.
func (x *Indexes) drop(name string) {
	e := x.names[name]
	if e == nil {
		return
	}
	delete(x.names, name)
	if e.elem != nil {
		x.used.Remove(e.elem)
		x.bytes -= e.index.Bytes()
	}
}
