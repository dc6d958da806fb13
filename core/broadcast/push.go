// A reader that is handed what comes by whoever appends it, without a goroutine that
// would have to be woken for it.

package broadcast

import (
	"context"
	"slices"
	"sync"

	"github.com/mediad/mediad/core/media"
)

// A pusher is a call of Push.
type pusher struct {
	cursor *cursor
	failed chan struct{} // closed with err

	mu   sync.Mutex // held while take is called; before the channel's
	take func(*media.Batch) error
	err  error // of the source or of take; nothing is pushed after it
}

// Push implements media.Pushing: who appends a batch to the channel also calls take.
func (cur *cursor) Push(ctx context.Context, take func(*media.Batch) error) error {
	p := &pusher{cursor: cur, failed: make(chan struct{}), take: take}
	c := cur.channel
	c.mu.Lock()
	c.pushers = append(slices.Clip(c.pushers), p)
	c.mu.Unlock()
	p.push() // what was there before
	select {
	case <-p.failed:
	case <-c.over:
		p.push() // what was there at the end, and that
	case <-cur.closed:
		p.fail(media.ErrClosed)
	case <-ctx.Done():
		p.fail(ctx.Err())
	}
	c.mu.Lock()
	c.pushers = slices.DeleteFunc(slices.Clone(c.pushers), func(other *pusher) bool { return other == p })
	c.mu.Unlock()
	return p.err
}

// pushAll pushes what has been appended. The caller is who has, and has read pushers
// with mu held then; it holds no lock now.
func pushAll(pushers []*pusher) {
	for _, p := range pushers {
		p.push()
	}
}

// push calls take with what there is.
func (p *pusher) push() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil {
		b, _, err := p.cursor.take()
		if b == nil && err == nil {
			return
		}
		if err == nil {
			err = p.take(b)
		}
		p.end(err)
	}
}

// fail ends the pushing. When it has returned take is not called any more.
func (p *pusher) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.end(err)
	}
}

// end notes an error. The caller holds mu.
func (p *pusher) end(err error) {
	if p.err = err; err != nil {
		close(p.failed)
	}
}
