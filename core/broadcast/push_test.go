package broadcast

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/mediad/mediad/core/media"
)

// pushed reads a cursor by Push in a goroutine of its own, up to the frame last.
type pushed struct {
	t       *testing.T
	numbers []int
	last    int
	over    chan error
}

var errLast = errors.New("that was the last")

// push returns when all that is there has been pushed.
func push(ctx context.Context, t *testing.T, cur *cursor, last int) *pushed {
	p := &pushed{t: t, last: last, over: make(chan error, 1)}
	go func() { p.over <- cur.Push(ctx, p.take) }()
	synctest.Wait()
	return p
}

func (p *pushed) take(b *media.Batch) error {
	p.numbers = append(p.numbers, number(p.t, b))
	if p.numbers[len(p.numbers)-1] == p.last {
		return errLast
	}
	return nil
}

func (p *pushed) expect(numbers ...int) {
	p.t.Helper()
	if !slices.Equal(p.numbers, numbers) {
		p.t.Errorf("frames %v were pushed, want %v", p.numbers, numbers)
	}
}

// TestPush has all frames when Write returns: it is the publisher's goroutine that pushes them.
func TestPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, defaults)
		s := create(t, b, media.CreateRequest{})
		write(t, s, 0, 3)
		cur := open(t, b, media.Newest)
		one, two := push(t.Context(), t, cur, 6), push(t.Context(), t, open(t, b, media.Newest), -1)
		one.expect(0, 1, 2)
		write(t, s, 3, 5)
		one.expect(0, 1, 2, 3, 4)
		write(t, s, 5, 9)
		one.expect(0, 1, 2, 3, 4, 5, 6)
		two.expect(0, 1, 2, 3, 4, 5, 6, 7, 8)
		if err := <-one.over; err != errLast { //nolint:errorlint // it is that very one
			t.Errorf("Push returned %v, want the error of take", err)
		}
		expect(t, cur, 7, 9) // and goes on with Next
		if n := len(cur.channel.pushers); n != 1 {
			t.Errorf("%d readers are pushed to, one is", n)
		}
		s.Close(t.Context())
		if err := <-two.over; !errors.Is(err, io.EOF) {
			t.Errorf("Push returned %v at the end of the channel", err)
		}
		two.expect(0, 1, 2, 3, 4, 5, 6, 7, 8)
	})
}

// TestPushEnds ends Push in the ways that are the reader's own. Nothing is pushed after that.
func TestPushEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(cur *cursor, cancel func())
		want error
	}{
		"closed":   {func(cur *cursor, _ func()) { cur.Close() }, media.ErrClosed},
		"canceled": {func(_ *cursor, cancel func()) { cancel() }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, defaults)
				s := create(t, b, media.CreateRequest{})
				write(t, s, 0, 1)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				cur := open(t, b, media.Newest)
				p := push(ctx, t, cur, -1)
				c.end(cur, cancel)
				if err := <-p.over; !errors.Is(err, c.want) {
					t.Errorf("Push returned %v, want %v", err, c.want)
				}
				write(t, s, 1, 2)
				p.expect(0)
			})
		})
	}
}

// TestPushTakeover goes on with what a publisher who takes over writes.
func TestPushTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, defaults)
		write(t, create(t, b, media.CreateRequest{}), 0, 2)
		p := push(t.Context(), t, open(t, b, media.Newest), -1)
		write(t, create(t, b, media.CreateRequest{Takeover: true}), 10, 12)
		p.expect(0, 1, 10, 11)
	})
}
