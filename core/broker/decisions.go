// What the broker decided lately, for people who look.

package broker

import (
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
)

// maxDecisions is how many are remembered.
const maxDecisions = 50

// decisions are the last ones, the oldest first. The zero value is ready.
type decisions struct {
	mu   sync.Mutex
	list []media.Decision
}

// note remembers an Open that was served by in, or by none and failed with err.
func (d *decisions) note(name string, candidates []candidate, in *input, err error) {
	n := media.Decision{Time: time.Now(), Name: name}
	if err != nil {
		n.Error = err.Error()
	}
	for _, c := range candidates {
		n.Candidates = append(n.Candidates, media.Candidate{Source: c.in.Name, Cost: c.cost, Total: c.total, Chosen: c.in == in, Note: c.note()})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == maxDecisions {
		d.list = slices.Delete(d.list, 0, 1)
	}
	d.list = append(d.list, n)
}

// Decisions returns the last ones, the newest first.
func (b *broker) Decisions() []media.Decision {
	b.decided.mu.Lock()
	defer b.decided.mu.Unlock()
	list := slices.Clone(b.decided.list)
	slices.Reverse(list)
	return list
}
