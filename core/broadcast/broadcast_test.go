package broadcast

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var video = &media.Header{Video: media.Format{Codec: "h264", Config: []byte("sps")}}

// frame n of a channel with 25 frames a second and a keyframe every 10.
func frame(n int) *media.Batch {
	at := time.Duration(n) * 40 * time.Millisecond
	return media.NewBatch(video, media.NoClock, media.Frame{
		Track: media.Video, Key: n%10 == 0, DTS: at, PTS: at, Body: fmt.Appendf(nil, "frame %d", n),
	})
}

func number(t *testing.T, b *media.Batch) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(string(b.Frames()[0].Body), "frame %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func start(t *testing.T, s Settings) *Broadcast {
	t.Helper()
	return serve(t, stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, s)
}

func serve(t *testing.T, env stage.Env, s Settings) *Broadcast {
	t.Helper()
	b, err := New(env, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return b
}

var defaults = Settings{Window: 30 * time.Second, Memory: 64 << 20, Wait: 10 * time.Second, Linger: 10 * time.Second}

func create(t *testing.T, b *Broadcast, req media.CreateRequest) media.Sink {
	t.Helper()
	req.Name = "show"
	s, err := b.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, s media.Sink, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := s.Write(t.Context(), frame(n)); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t *testing.T, b *Broadcast, from time.Duration) *cursor {
	t.Helper()
	src, err := b.Open(t.Context(), media.OpenRequest{Name: "show", From: from})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src.(*cursor)
}

// expect reads the frames from..to-1.
func expect(t *testing.T, src media.Source, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		b, err := src.Next(t.Context())
		if err != nil {
			t.Fatalf("frame %d: %v", n, err)
		}
		if got := number(t, b); got != n {
			t.Fatalf("got frame %d, want %d", got, n)
		}
	}
}

func TestJoinPoints(t *testing.T) {
	b := start(t, defaults)
	s := create(t, b, media.CreateRequest{})
	early := open(t, b, media.Newest)
	write(t, s, 5, 36) // begins in the middle of a GOP
	expect(t, early, 10, 36)
	for _, c := range []struct {
		from time.Duration
		want int
	}{
		{media.Newest, 30},
		{0, 10},
		{25 * 40 * time.Millisecond, 20},
		{30 * 40 * time.Millisecond, 30},
		{time.Hour, 30},
	} {
		expect(t, open(t, b, c.from), c.want, 36)
	}
}

func TestWindowAndMemory(t *testing.T) {
	for _, c := range []struct {
		name     string
		settings Settings
		oldest   int // the oldest join point after 1000 frames
	}{
		{"window", Settings{Window: 4 * time.Second, Memory: 64 << 20}, 900},
		{"memory", Settings{Window: time.Hour, Memory: stage.Size(25 * frame(999).Size())}, 980},
		{"window shorter than a GOP", Settings{Window: 40 * time.Millisecond, Memory: 64 << 20}, 990},
	} {
		b := start(t, c.settings)
		s := create(t, b, media.CreateRequest{})
		write(t, s, 0, 1000)
		cur := open(t, b, 0)
		got, err := cur.Next(t.Context())
		if err != nil || number(t, got) != c.oldest {
			t.Errorf("%s: the oldest join point is %d (%v), want %d", c.name, number(t, got), err, c.oldest)
		}
	}
}

// A GOP that does not end (SRS PR#3236) is bounded by the memory; who joins then
// waits for the next keyframe.
func TestEndlessGOP(t *testing.T) {
	b := start(t, Settings{Window: time.Second, Memory: stage.Size(20 * frame(999).Size())})
	s := create(t, b, media.CreateRequest{})
	write(t, s, 0, 1)
	for n := 1; n < 500; n += 2 {
		write(t, s, n, n+1) // odd frames are no keyframes
	}
	if got := b.ListChannels()[0].Bytes; got > int(b.settings.Memory) {
		t.Errorf("the ring holds %d bytes of at most %d", got, b.settings.Memory)
	}
	cur := open(t, b, media.Newest)
	write(t, s, 507, 513)
	expect(t, cur, 510, 513)
	if cur.Skips() != 0 {
		t.Errorf("waiting for a keyframe to join was counted as %d skips", cur.Skips())
	}
}

func TestT43_SlowReaderSkipsToKeyframe(t *testing.T) {
	b := start(t, Settings{Window: 2 * time.Second, Memory: 64 << 20})
	s := create(t, b, media.CreateRequest{})
	write(t, s, 0, 1)
	slow, quick := open(t, b, media.Newest), open(t, b, media.Newest)
	expect(t, slow, 0, 1)
	expect(t, quick, 0, 1)
	for n := 1; n < 125; n++ {
		write(t, s, n, n+1)
		expect(t, quick, n, n+1)
	}
	expect(t, slow, 120, 125)
	if slow.Skips() != 1 || slow.Missed() != 119 {
		t.Errorf("%d skips, %d frames missed, want 1 and 119", slow.Skips(), slow.Missed())
	}
	if quick.Skips() != 0 {
		t.Errorf("the reader that kept up skipped %d times", quick.Skips())
	}
}

func TestT45_ManyReadersShareOneCopy(t *testing.T) {
	b := start(t, defaults)
	s := create(t, b, media.CreateRequest{})
	write(t, s, 0, 25)
	var readers sync.WaitGroup
	firsts := make([]*media.Batch, 1000)
	for i := range firsts {
		cur := open(t, b, 0)
		readers.Go(func() {
			for n := range 100 {
				got, err := cur.Next(t.Context())
				if err != nil || number(t, got) != n {
					t.Errorf("reader %d: frame %v, %v, want %d", i, got, err, n)
					return
				}
				if n == 0 {
					firsts[i] = got
				}
			}
		})
	}
	write(t, s, 25, 100)
	readers.Wait()
	for i, first := range firsts {
		if first != firsts[0] {
			t.Fatalf("reader %d has a copy of its own", i)
		}
	}
}

func TestT46_ViewerBeforePublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, defaults)
		began := time.Now()
		_, err := b.Open(t.Context(), media.OpenRequest{Name: "show"})
		if !errors.Is(err, media.ErrNotFound) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		time.AfterFunc(5*time.Second, func() { write(t, create(t, b, media.CreateRequest{}), 0, 3) })
		expect(t, open(t, b, media.Newest), 0, 3)
		if _, err := b.Open(t.Context(), media.OpenRequest{Name: "show", RecordedOnly: true}); !errors.Is(err, media.ErrNotFound) {
			t.Errorf("a channel was opened as recorded media: %v", err)
		}
	})
}

func TestT52_PublisherComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, defaults)
		first := create(t, b, media.CreateRequest{Linger: 10 * time.Second})
		if _, ok := first.(*sink).Resume(); ok {
			t.Error("a new channel resumes")
		}
		write(t, first, 0, 11)
		viewer := open(t, b, 0)
		expect(t, viewer, 0, 11)
		first.Close(t.Context())
		if c := b.ListChannels()[0]; c.Publishing {
			t.Error("the channel is listed as publishing")
		}

		time.Sleep(5 * time.Second)
		second := create(t, b, media.CreateRequest{})
		at, ok := second.(*sink).Resume()
		if want := 10*40*time.Millisecond + 5*time.Second; !ok || at != want {
			t.Errorf("the timeline goes on at %v, want %v", at, want)
		}
		write(t, second, 20, 22)
		expect(t, viewer, 20, 22)
		time.Sleep(time.Minute) // the linger of the first must not end the channel
		write(t, second, 22, 23)
		expect(t, viewer, 22, 23)

		second.Close(t.Context())
		if _, err := viewer.Next(t.Context()); err != io.EOF {
			t.Errorf("after the last publisher: %v, want io.EOF", err)
		}
		if len(b.ListChannels()) != 0 {
			t.Error("the channel is still listed")
		}
	})
}

func TestLingerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, defaults)
		s := create(t, b, media.CreateRequest{Linger: 10 * time.Second})
		write(t, s, 0, 1)
		viewer := open(t, b, 0)
		expect(t, viewer, 0, 1)
		s.Close(t.Context())
		left := time.Now()
		if _, err := viewer.Next(t.Context()); err != io.EOF || time.Since(left) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(left))
		}
	})
}

func TestT53_TwoPublishers(t *testing.T) {
	b := start(t, defaults)
	first := create(t, b, media.CreateRequest{})
	write(t, first, 0, 1)
	viewer := open(t, b, 0)
	expect(t, viewer, 0, 1)
	if _, err := b.Create(t.Context(), media.CreateRequest{Name: "show"}); !errors.Is(err, media.ErrBusy) {
		t.Fatalf("a second publisher: %v, want ErrBusy", err)
	}
	second := create(t, b, media.CreateRequest{Takeover: true})
	if err := first.(*sink).Err(); !errors.Is(err, media.ErrTakenOver) {
		t.Errorf("the loser is told %v", err)
	}
	if err := first.Write(t.Context(), frame(1)); !errors.Is(err, media.ErrTakenOver) {
		t.Errorf("the loser writes: %v", err)
	}
	first.Close(t.Context()) // must not take the winner off air
	write(t, second, 10, 12)
	expect(t, viewer, 10, 12)
}

func TestWatch(t *testing.T) {
	b := start(t, defaults)
	names, changed := b.Watch()
	if len(names) != 0 {
		t.Errorf("%v is on air", names)
	}
	s := create(t, b, media.CreateRequest{})
	<-changed
	names, changed = b.Watch()
	if len(names) != 1 || names[0] != "show" {
		t.Errorf("on air: %v", names)
	}
	s.Close(t.Context())
	<-changed
}

func TestStop(t *testing.T) {
	b, err := New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, defaults)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := create(t, b, media.CreateRequest{Linger: time.Hour})
	write(t, s, 0, 2)
	viewer := open(t, b, 0)
	cancel()
	if err := b.Serve(ctx); err != nil {
		t.Error(err)
	}
	expect(t, viewer, 0, 2)
	if _, err := viewer.Next(t.Context()); err != io.EOF {
		t.Errorf("a reader gets %v, want io.EOF", err)
	}
	if err := s.Write(t.Context(), frame(2)); !errors.Is(err, media.ErrClosed) {
		t.Errorf("the publisher gets %v, want ErrClosed", err)
	}
	if _, err := b.Create(t.Context(), media.CreateRequest{Name: "late"}); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("a late publisher gets %v, want ErrUnavailable", err)
	}
}

func TestCloseAndCancel(t *testing.T) {
	b := start(t, defaults)
	s := create(t, b, media.CreateRequest{})
	cur := open(t, b, media.Newest)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cur.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next: %v, want Canceled", err)
	}
	write(t, s, 0, 1)
	expect(t, cur, 0, 1) // a cancelled Next has done no harm
	go cur.Close()
	if _, err := cur.Next(t.Context()); !errors.Is(err, media.ErrClosed) {
		t.Errorf("Next: %v, want ErrClosed", err)
	}
	cur.Close()
	if n := b.ListChannels()[0].Readers; n != 0 {
		t.Errorf("%d readers are left", n)
	}
}

// TestRingAgainstModel appends random frames and compares with a plain slice.
func TestRingAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		r := newRing(time.Duration(rng.IntN(5000))*time.Millisecond, 1+rng.IntN(100)*frame(0).Size())
		var all []*media.Batch
		for n := range 300 {
			all = append(all, frame(n))
			r.append(all[n])
			bytes := 0
			for i := r.first; i < r.next; i++ {
				if r.slot(i).batch != all[i] || r.before(i) != i {
					t.Fatalf("slot %d holds another batch", i)
				}
				bytes += all[i].Size()
			}
			if r.next != uint64(n+1) || r.bytes != bytes {
				t.Fatalf("next %d, %d bytes, want %d, %d", r.next, r.bytes, n+1, bytes)
			}
			if bytes > r.memory && r.next-r.first > 1 {
				t.Fatalf("%d bytes kept of at most %d", bytes, r.memory)
			}
			newest := uint64(n - n%10)
			if at, ok := r.newest(); ok != (newest >= r.first) || ok && at != newest {
				t.Fatalf("newest join point %d %v, want %d, first kept is %d", at, ok, newest, r.first)
			}
		}
	}
}

func BenchmarkRing(b *testing.B) {
	bc, err := New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, defaults)
	if err != nil {
		b.Fatal(err)
	}
	s, err := bc.Create(b.Context(), media.CreateRequest{Name: "show"})
	if err != nil {
		b.Fatal(err)
	}
	batch := frame(0)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Write(b.Context(), batch)
		}
	})
	b.Run("append and read", func(b *testing.B) {
		src, err := bc.Open(b.Context(), media.OpenRequest{Name: "show", From: media.Newest})
		if err != nil {
			b.Fatal(err)
		}
		defer src.Close()
		src.Next(b.Context())
		b.ReportAllocs()
		for b.Loop() {
			s.Write(b.Context(), batch)
			if _, err := src.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
