// The recordings: /api/media.

package console

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline"
)

// A Shelf is what one reader has, for one app that plays it.
type Shelf struct {
	App     App           `json:"app"`
	Stage   string        `json:"stage"` // the reader
	Entries []media.Entry `json:"entries"`
	Error   string        `json:"error,omitempty"` // why there may be more
}

const (
	// fresh is how long a list is given to all who ask: to make one is to walk through folders.
	fresh = 3 * time.Second
	// maxWalk is how long one reader may take for its list.
	maxWalk = 10 * time.Second
)

// library lists recordings. One list is made at a time.
type library struct {
	stages func() []pipeline.Status

	mu      sync.Mutex
	shelves []Shelf
	made    time.Time
}

func (l *library) serve(w http.ResponseWriter, r *http.Request) { reply(w, l.list(r.Context())) }

func (l *library) list(ctx context.Context) []Shelf {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.made) < fresh {
		return l.shelves
	}
	shelves := []Shelf{}
	stages := l.stages()
	for _, s := range stages {
		lister, ok := s.Made.(media.Lister)
		apps := appsOf(stages, s.String())
		if !ok || len(apps) == 0 {
			continue
		}
		within, cancel := context.WithTimeout(ctx, maxWalk)
		entries, err := lister.List(within)
		cancel()
		for _, app := range apps {
			shelf := Shelf{App: app, Stage: s.String(), Entries: append([]media.Entry{}, entries...)}
			if err != nil {
				shelf.Error = err.Error()
			}
			shelves = append(shelves, shelf)
		}
	}
	if ctx.Err() == nil { // else it may be cut short
		l.shelves, l.made = shelves, time.Now()
	}
	return shelves
}
