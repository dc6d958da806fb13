// How long an input that failed is left alone.

package broker

import (
	"math/rand/v2"
	"sync"
	"time"
)

// The first rest, doubled by each failure that follows it up to the longest.
const (
	minRest = time.Second
	maxRest = 30 * time.Second
)

// backoff remembers the failures of one input. Its zero value is ready.
type backoff struct {
	mu    sync.Mutex
	rest  time.Duration // the last rest without its jitter
	until time.Time
}

// failed notes a failure. It returns the rest that follows and whether it began
// just now: failures during a rest do not lengthen it, so that many viewers who
// fail at once count as one.
func (b *backoff) failed() (rest time.Duration, began bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if now.Before(b.until) {
		return b.until.Sub(now), false
	}
	b.rest = min(max(2*b.rest, minRest), maxRest)
	// The jitter keeps nodes that lost the same origin from coming back together.
	rest = b.rest/2 + rand.N(b.rest/2)
	b.until = now.Add(rest)
	return rest, true
}

func (b *backoff) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest, b.until = 0, time.Time{}
}

func (b *backoff) resting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.until)
}
