// Refusals take longer for an address that is refused again and again: who tries
// out keys does not get far, and an encoder that retries for ever costs little.

package rtmp

import (
	"net/netip"
	"sync"
	"time"
)

const (
	refusalsFree   = 3 // answered at once
	refusalShort   = 250 * time.Millisecond
	refusalLong    = 8 * time.Second
	refusalMemory  = time.Minute // after the last
	refusalsTotal  = 4096        // addresses that are remembered
	refusalsDouble = 5           // from refusalShort to refusalLong
)

// A backoff knows the addresses that were refused. Its zero value is ready.
type backoff struct {
	mu    sync.Mutex
	addrs map[netip.Addr]refusals
}

type refusals struct {
	count int
	last  time.Time
}

// refused notes a refusal and returns how long the answer is to be held back.
func (b *backoff) refused(addr netip.Addr, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.addrs == nil || len(b.addrs) >= refusalsTotal {
		b.addrs = make(map[netip.Addr]refusals) // forgets all, which only helps them
	}
	r := b.addrs[addr]
	if now.Sub(r.last) > refusalMemory {
		r.count = 0
	}
	r.count++
	r.last = now
	b.addrs[addr] = r
	if r.count <= refusalsFree {
		return 0
	}
	return min(refusalShort<<min(r.count-refusalsFree-1, refusalsDouble), refusalLong)
}
