// Batches that are handed on by whoever has them, on both sides of a link.

package repeatertcp

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestPushes has sent a frame when the publisher's Write returns, and hands it on to Push on the other side.
func TestPushes(t *testing.T) {
	film := single(stagetest.Film(10, 500))
	a, b := newStation(t, "a", nil), newNode(t, "b", nil)
	sink := a.publish("show")
	write(t, sink, film[0])
	b.knows(a.peer())
	src := open(t, b, "show")
	got := make(chan *media.Batch, len(film))
	over := make(chan error, 1)
	go func() {
		over <- media.Push(t.Context(), src, func(b *media.Batch) error { got <- b; return nil })
	}()
	list := []*media.Batch{<-got}
	sent := func() float64 { return testutil.ToFloat64(a.metrics.batchesOut) }
	at := 1
	for prompt := 0; prompt < 20; at++ {
		if at == len(film) {
			t.Fatalf("of %d frames %d had been sent when Write returned", at, prompt)
		}
		write(t, sink, film[at])
		if sent() == float64(at+1) {
			prompt++
		}
		list = append(list, <-got)
		time.Sleep(5 * time.Millisecond) // in which the feed has nothing left to send, and pushes again
	}
	if hash(list) != hash(film[:at]) {
		t.Error("other frames came than were sent")
	}
	sink.Close(t.Context())
	if err := <-over; !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// TestQueuePush changes between get and push.
func TestQueuePush(t *testing.T) {
	film := single(stagetest.Film(1, 10))
	q := newQueue(window)
	put := func(from, to int) {
		for _, b := range film[from:to] {
			q.put(arrival{batch: b})
		}
	}
	failure := errors.New("failure")
	var got []*media.Batch
	push := func(ctx context.Context, upTo int) error {
		return q.push(ctx, func(a arrival) error {
			if got = append(got, a.batch); len(got) == upTo {
				return failure
			}
			return nil
		})
	}
	put(0, 4)
	if err := push(t.Context(), 2); !errors.Is(err, failure) { // of the list
		t.Errorf("push returned %v", err)
	}
	over := make(chan error, 1)
	go func() { over <- push(t.Context(), 6) }()
	eventually(t, "the queue is pushed", func() bool { q.mu.Lock(); defer q.mu.Unlock(); return q.take != nil })
	put(4, 8)
	if err := <-over; !errors.Is(err, failure) {
		t.Errorf("push returned %v", err)
	}
	for range 2 {
		a, err := q.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.batch)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := push(ctx, -1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("push returned %v", err)
	}
	put(8, len(film))
	q.finish(io.EOF)
	if err := push(t.Context(), -1); !errors.Is(err, io.EOF) {
		t.Errorf("push returned %v", err)
	}
	if hash(got) != hash(film) {
		t.Errorf("%d batches came of %d that were put, or others", len(got), len(film))
	}
	q.close()
	if err := push(t.Context(), -1); !errors.Is(err, media.ErrClosed) {
		t.Errorf("push returned %v", err)
	}
}
