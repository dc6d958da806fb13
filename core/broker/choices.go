// Which input a name was opened from last. Without that, two inputs that cost about
// the same would take turns, and a film be fetched twice.

package broker

import (
	"slices"
	"sync"
)

const (
	// gain is how much cheaper another input must be to be opened instead.
	gain = 1.3
	// maxChoices is how many names are remembered; then all are forgotten.
	maxChoices = 10000
)

// choices is the input that each name was opened from last. Its zero value is ready.
type choices struct {
	mu sync.Mutex
	of map[string]*input
}

func (c *choices) note(name string, in *input) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil || len(c.of) >= maxChoices {
		c.of = map[string]*input{}
	}
	c.of[name] = in
}

// keep moves the candidate that was chosen last to the front of those in their order,
// unless the first is better in kind or cheaper by the gain.
func (c *choices) keep(name string, candidates []candidate) {
	c.mu.Lock()
	last := c.of[name]
	c.mu.Unlock()
	i := slices.IndexFunc(candidates, func(d candidate) bool { return d.in == last })
	if i < 0 {
		return
	}
	first, was := candidates[0], candidates[i]
	if was.err != nil || was.live() != first.live() || was.resting != first.resting || was.total >= gain*first.total {
		return
	}
	was.kept = i > 0
	copy(candidates[1:i+1], candidates[:i])
	candidates[0] = was
}
