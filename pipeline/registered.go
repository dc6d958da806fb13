// The metrics of one stage, which go with it.

package pipeline

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// registered is a Registerer that knows what was registered with it, so that the
// stage which takes the place of another can register the same names.
type registered struct {
	below prometheus.Registerer

	mu     sync.Mutex
	list   []prometheus.Collector
	hidden bool // the list is not registered below
}

// Register implements prometheus.Registerer.
func (r *registered) Register(c prometheus.Collector) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.hidden {
		if err := r.below.Register(c); err != nil {
			return err
		}
	}
	r.list = append(r.list, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (r *registered) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer.
func (r *registered) Unregister(c prometheus.Collector) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.list, c)
	if i < 0 {
		return false
	}
	r.list = slices.Delete(r.list, i, i+1)
	return r.hidden || r.below.Unregister(c)
}

// hide makes room for the metrics of another stage.
func (r *registered) hide() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hidden {
		return
	}
	r.hidden = true
	for _, c := range r.list {
		r.below.Unregister(c)
	}
}

// show undoes hide, once the other stage has hidden its metrics.
func (r *registered) show() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.hidden {
		return
	}
	r.hidden = false
	for _, c := range r.list {
		_ = r.below.Register(c) // it was registered before
	}
}

// reset forgets all, for a stage that is made again.
func (r *registered) reset() {
	r.hide()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list, r.hidden = nil, false
}
