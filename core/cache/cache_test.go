package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

var avc = &media.Header{Video: media.Format{Codec: "h264"}}

// batch is one with a video frame of size bytes.
func batch(at time.Duration, join bool, size int) *media.Batch {
	return media.NewBatch(avc, media.NoClock, media.Frame{Track: media.Video, Key: join, DTS: at, PTS: at, Body: make([]byte, size)})
}

// film is batches, one of each group being a join point, every 10 ms.
func film(groups, parts, size int) []*media.Batch {
	var list []*media.Batch
	for i := range groups * parts {
		list = append(list, batch(time.Duration(i)*10*ms, i%parts == 0, size))
	}
	return list
}

// upstream is a reader of one film that counts what is asked of it.
type upstream struct {
	mu                 sync.Mutex
	info               media.Info
	batches            []*media.Batch
	err                error // of Open
	readErr            error // of Next
	hold               chan struct{}
	opened, open, read atomic.Int64
}

func newUpstream(batches []*media.Batch) *upstream {
	return &upstream{batches: batches, info: media.Info{Name: "film", Version: "1", Start: batches[0].DTS()}}
}

func (u *upstream) set(change func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change()
}

// start is the number of the batch at which an open at from begins.
func start(batches []*media.Batch, from time.Duration) int {
	n := 0
	for i, b := range batches {
		if b.Join() && b.DTS() <= from && from > batches[0].DTS() {
			n = i
		}
	}
	if batches[0].Join() { // then the last join point at the first time is it
		for i, b := range batches {
			if b.Join() && b.DTS() <= from {
				n = i
			}
		}
	}
	return n
}

func (u *upstream) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return nil, u.err
	}
	u.opened.Add(1)
	u.open.Add(1)
	return &upstreamSource{u: u, info: u.info, rest: u.batches[start(u.batches, req.From):]}, nil
}

type upstreamSource struct {
	u      *upstream
	info   media.Info
	rest   []*media.Batch
	closed sync.Once
}

func (s *upstreamSource) Info() media.Info { return s.info }

func (s *upstreamSource) Next(ctx context.Context) (*media.Batch, error) {
	s.u.mu.Lock()
	hold, err := s.u.hold, s.u.readErr
	s.u.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	case len(s.rest) == 0:
		return nil, io.EOF
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	s.u.read.Add(1)
	return b, nil
}

func (s *upstreamSource) Close() error {
	s.closed.Do(func() { s.u.open.Add(-1) })
	return nil
}

// run starts a cache, which is stopped when the test ends.
func run(t testing.TB, u media.Reader, settings *Settings) *cache {
	c := newCache(stage.Env{
		Name:    "test/cache",
		Log:     hclog.NewNullLogger(),
		Metrics: prometheus.NewRegistry(),
		Inputs:  []stage.Input{{Name: "test/reader", Reader: u}},
	}, settings)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Serve(ctx) }()
	t.Cleanup(func() {
		c.mu.Lock()
		objects := slices.Collect(maps.Values(c.objects))
		c.mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if c.policy.bytes() != 0 || c.fresh != 0 || len(c.objects) != 0 || c.open != 0 {
			t.Errorf("after Serve %d bytes are held, %d of them fresh, by %d objects, %d sources", c.policy.bytes(), c.fresh, len(c.objects), c.open)
		}
		for _, o := range objects {
			if len(o.groups) != 0 || o.head != nil || len(o.fetches) != 0 {
				t.Errorf("after Serve %d groups are known and %d fetches run", len(o.groups), len(o.fetches))
			}
		}
	})
	return c
}

func settings() *Settings { return &Settings{Memory: 64 << 20, Idle: time.Minute, Ahead: 2} }

func open(t testing.TB, r media.Reader, from time.Duration) media.Source {
	t.Helper()
	src, err := r.Open(t.Context(), media.OpenRequest{Name: "film", From: from})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

// expect reads the batches and no others.
func expect(t testing.TB, src media.Source, want ...*media.Batch) {
	t.Helper()
	for i, w := range want {
		b, err := src.Next(t.Context())
		if err != nil {
			t.Fatalf("batch %d: %v", i, err)
		}
		if b != w {
			t.Fatalf("batch %d is that of %s, want %s", i, b.DTS(), w.DTS())
		}
	}
}

func expectEnd(t testing.TB, src media.Source) {
	t.Helper()
	if _, err := src.Next(t.Context()); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
}

func TestTwoViewersCostOneRead(t *testing.T) {
	u := newUpstream(film(20, 3, 1000))
	c := run(t, u, settings())
	for range 2 {
		src := open(t, c, 0)
		expect(t, src, u.batches...)
		expectEnd(t, src)
	}
	if n := u.read.Load(); n != 60 {
		t.Errorf("%d batches were read, want 60", n)
	}
}

func TestT34_ManyMissAtOnce(t *testing.T) {
	u := newUpstream(film(5, 3, 1000))
	u.hold = make(chan struct{})
	c := run(t, u, settings())
	var wg, leaving sync.WaitGroup
	for range 50 {
		src := open(t, c, 35*ms)
		wg.Go(func() {
			for _, w := range u.batches[3:] {
				if b, err := src.Next(t.Context()); b != w {
					t.Errorf("got %v, %v", b, err)
				}
			}
		})
	}
	// Those who leave come when these wait: of a fetch that nobody waits for nothing is kept.
	for testutil.ToFloat64(c.metrics.misses)+testutil.ToFloat64(c.metrics.coalesced) < 50 {
		time.Sleep(ms)
	}
	for i := range 50 {
		src := open(t, c, 35*ms)
		leaving.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*ms)
			defer cancel()
			if _, err := src.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("left: %v", err)
			}
			_ = src.Close()
		})
	}
	leaving.Wait()
	close(u.hold)
	wg.Wait()
	if n := u.read.Load(); n != 12 {
		t.Errorf("%d batches were read, want 12", n)
	}
	if n := testutil.ToFloat64(c.metrics.fetches); n != 1 {
		t.Errorf("%v fetches, want 1", n)
	}
}

func TestOpenInMemoryReadsNothing(t *testing.T) {
	u := newUpstream(film(10, 3, 1000))
	c := run(t, u, settings())
	src := open(t, c, media.Newest)
	expect(t, src, u.batches...)
	expectEnd(t, src)
	for from := -5 * ms; from < 400*ms; from += 5 * ms {
		expect(t, open(t, c, from), u.batches[start(u.batches, from):]...)
	}
	if n := u.read.Load(); n != 30 {
		t.Errorf("%d batches were read, want 30", n)
	}
	if n := u.open.Load(); n != 0 {
		t.Errorf("%d sources are open upstream", n)
	}
}

// randomFilm has groups of 1 to 4 batches, some of one time, a start that may be no
// join point, and, when odd, join points of one time.
func randomFilm(r *rand.Rand, odd bool) []*media.Batch {
	var list []*media.Batch
	at := time.Duration(r.IntN(3)) * 10 * ms
	for i := range 5 + r.IntN(30) {
		join := i == 0 && r.IntN(3) > 0 || r.IntN(3) == 0
		step := time.Duration(r.IntN(2)) * 10 * ms
		if join && !odd && i > 0 {
			step = 10 * ms
		}
		at += step
		list = append(list, batch(at, join, r.IntN(3000)))
	}
	return list
}

// TestSequence reads random films with random seeks, by concurrent viewers,
// through caches of all sizes, and wants what upstream would give.
func TestSequence(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			u := newUpstream(randomFilm(r, seed%4 == 0))
			set := settings()
			set.Ahead = r.IntN(4)
			set.Memory = stage.Size(1000 + r.IntN(40000))
			c := run(t, u, set)
			var wg sync.WaitGroup
			for range 1 + r.IntN(6) {
				seed2 := r.Uint64()
				wg.Go(func() { watch(t, c, u, rand.New(rand.NewPCG(seed2, 2))) })
			}
			wg.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			if held := c.policy.bytes(); held > int64(set.Memory) {
				t.Errorf("%d bytes are held, the budget is %d", held, set.Memory)
			}
		})
	}
}

func watch(t *testing.T, c *cache, u *upstream, r *rand.Rand) {
	for range 10 {
		from := time.Duration(r.IntN(30)-2) * 5 * ms
		src, err := c.Open(t.Context(), media.OpenRequest{Name: "film", From: from})
		if err != nil {
			t.Error(err)
			return
		}
		want := u.batches[start(u.batches, from):]
		for i := range r.IntN(40) {
			ctx, cancel := context.WithCancel(t.Context())
			if r.IntN(4) == 0 {
				cancel()
			}
			b, err := src.Next(ctx)
			if errors.Is(err, context.Canceled) {
				b, err = src.Next(t.Context())
			}
			cancel()
			if i >= len(want) {
				if err != io.EOF {
					t.Errorf("from %s, at the end: %v", from, err)
				}
				break
			}
			if err != nil || b != want[i] {
				t.Errorf("from %s, batch %d of %d: %v, want that of %s, got one of %d", from, i, len(want), err, want[i].DTS(), slices.Index(u.batches, b))
				break
			}
		}
		_ = src.Close()
	}
}

func TestScanDoesNotFlush(t *testing.T) {
	popular, scanned := film(10, 1, 100_000), film(200, 1, 100_000)
	u := newUpstream(popular)
	set := settings()
	set.Memory = 4 << 20
	c := run(t, u, set)
	for range 3 {
		expect(t, open(t, c, 0), popular...)
	}
	scan := newUpstream(scanned)
	scan.info.Name = "scan"
	c.upstream = names{"film": u, "scan": scan}
	src, err := c.Open(t.Context(), media.OpenRequest{Name: "scan"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, src, scanned...)
	expect(t, open(t, c, 0), popular...)
	_ = src.Close()
	if n := u.read.Load(); n != 10 {
		t.Errorf("the popular film was read %d batches, want 10", n)
	}
}

// names is a reader of several.
type names map[string]media.Reader

func (n names) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	return n[req.Name].Open(ctx, req)
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(film(4, 1, 1000))
		c := run(t, u, settings())
		paused := open(t, c, 0)
		expect(t, paused, u.batches[:2]...)
		time.Sleep(59 * time.Second)
		if n := testutil.ToFloat64(c.metrics.bytes); n == 0 {
			t.Error("dropped before it is idle")
		}
		time.Sleep(10 * time.Second)
		if n := testutil.ToFloat64(c.metrics.bytes); n != 0 {
			t.Errorf("%v bytes are held when idle", n)
		}
		if n := u.open.Load(); n != 0 {
			t.Errorf("%d sources are open upstream when idle", n)
		}
		expect(t, paused, u.batches[2:]...)
		_ = paused.Close()
		time.Sleep(70 * time.Second)
		if n := testutil.ToFloat64(c.metrics.objects); n != 0 {
			t.Errorf("%v objects are known when idle", n)
		}
	})
}

func TestT29_VersionChanges(t *testing.T) {
	old, changed := film(6, 1, 1000), film(6, 1, 1500)
	u := newUpstream(old)
	set := settings()
	set.Ahead = 0
	c := run(t, u, set)
	src := open(t, c, 0)
	expect(t, src, old[:2]...)
	all := open(t, c, 10*ms)
	expect(t, all, old[1:3]...)

	u.set(func() { u.info.Version, u.batches = "2", changed })
	fresh := open(t, c, 0)
	expect(t, fresh, changed...)
	c.sweepAll()
	if _, err := src.Next(t.Context()); !errors.Is(err, media.ErrChanged) {
		t.Errorf("the old version went on with %v", err)
	}
	_ = src.Close()
	_ = all.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.objects) != 1 {
		t.Errorf("%d objects are known, want the new version only", len(c.objects))
	}
}

// sweepAll drops all objects as if they were idle.
func (c *cache) sweepAll() {
	c.mu.Lock()
	for _, o := range c.objects {
		o.used = time.Time{}
	}
	c.mu.Unlock()
	c.sweep()
}

func TestT30_ErrorsAreNotCached(t *testing.T) {
	u := newUpstream(film(3, 1, 1000))
	c := run(t, u, settings())
	cut := errors.New("cut short")
	u.set(func() { u.readErr = cut })
	src := open(t, c, 0)
	if _, err := src.Next(t.Context()); !errors.Is(err, cut) {
		t.Fatalf("got %v", err)
	}
	u.set(func() { u.readErr = nil })
	expect(t, src, u.batches...)
	expectEnd(t, src)
}

func TestUpstreamDown(t *testing.T) {
	u := newUpstream(film(6, 1, 1000))
	c := run(t, u, settings())
	expect(t, open(t, c, 0), u.batches[:3]...)
	u.set(func() { u.err = fmt.Errorf("origin: %w", media.ErrUnavailable) })
	expect(t, open(t, c, 0), u.batches[:3]...)
	if _, err := c.Open(t.Context(), media.OpenRequest{Name: "film", From: time.Hour}); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("a position that is not in memory: %v", err)
	}
	u.set(func() { u.err = media.ErrNotFound })
	if _, err := c.Open(t.Context(), media.OpenRequest{Name: "film"}); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
}

func TestPassThrough(t *testing.T) {
	for _, info := range []media.Info{{Name: "film", Live: true, Version: "1"}, {Name: "film"}} {
		u := newUpstream(film(2, 1, 10))
		u.info = info
		c := run(t, u, settings())
		if src, ok := open(t, c, 0).(*upstreamSource); !ok {
			t.Errorf("%+v came as a %T", info, src)
		}
	}
}

func TestCost(t *testing.T) {
	u := newUpstream(film(4, 1, 10))
	c := run(t, u, settings())
	ask := func(want string) {
		t.Helper()
		cost, err := c.Cost(t.Context(), media.OpenRequest{Name: "film"})
		if err != nil || cost.Place != want {
			t.Errorf("cost is %+v, %v, want %s", cost, err, want)
		}
		list, err := c.Explain(t.Context(), media.OpenRequest{Name: "film"})
		if err != nil || len(list) != 2 || list[0].Chosen != (want == "memory") || list[1].Chosen == list[0].Chosen {
			t.Errorf("explained as %+v, %v", list, err)
		}
	}
	ask("unknown")
	src := open(t, c, 0)
	expect(t, src, u.batches...)
	expectEnd(t, src)
	ask("memory")
}

func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(film(20, 1, 1000))
		c := run(t, u, settings())
		src := open(t, c, 0)
		for i, want := range []int64{1, 4, 5, 6} { // nothing ahead until it plays in sequence
			expect(t, src, u.batches[i])
			synctest.Wait()
			if n := u.read.Load(); n != want {
				t.Errorf("after %d batches %d were read, want %d", i+1, n, want)
			}
		}
		_ = src.Close()
	})
}

func TestCloseEndsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(film(2, 1, 10))
		u.hold = make(chan struct{})
		c := run(t, u, settings())
		src := open(t, c, 0)
		go func() {
			synctest.Wait()
			_ = src.Close()
		}()
		if _, err := src.Next(t.Context()); !errors.Is(err, media.ErrClosed) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if n := u.open.Load(); n != 0 {
			t.Errorf("%d sources are open upstream", n)
		}
	})
}

func BenchmarkHit(b *testing.B) {
	u := newUpstream(film(100, 1, 1000))
	c := run(b, u, settings())
	src := open(b, c, 0)
	expect(b, src, u.batches...)
	s := open(b, c, 0).(*source)
	first := s.object.find(0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Next(b.Context()); err == io.EOF {
			c.mu.Lock()
			s.stand(first, 0)
			c.mu.Unlock()
		}
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		values map[string]any
		wrong  string
	}{
		{map[string]any{"memory": "512MiB", "idle": "1h", "ahead": "0"}, ""},
		{map[string]any{"memory": "1MiB"}, "memory: is 1MiB, at least 4MiB are needed"},
		{map[string]any{"idle": "0s"}, "idle: must be more than 0"},
		{map[string]any{"ahead": "65"}, "ahead: is 65, not 0 to 64"},
	} {
		_, err := Kind().Decode(c.values)
		if err == nil && c.wrong != "" || err != nil && err.Error() != c.wrong {
			t.Errorf("%v: %v, want %q", c.values, err, c.wrong)
		}
	}
}

func TestBuffered(t *testing.T) {
	u := newUpstream(film(4, 2, 10))
	c := run(t, u, settings())
	src := open(t, c, 0)
	expect(t, src, u.batches...)
	expectEnd(t, src)
	again := open(t, c, 0)
	for left := len(u.batches); left > 0; left-- {
		if n := again.(media.Buffered).Buffered(); n != left {
			t.Errorf("%d batches are buffered, want %d", n, left)
		}
		expect(t, again, u.batches[len(u.batches)-left])
	}
}

// TestDrain lets an open source read on while Serve drains, and not after.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(film(4, 1, 10))
		c := newCache(stage.Env{
			Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Drain: 10 * time.Second,
			Inputs: []stage.Input{{Name: "test/reader", Reader: u}},
		}, settings())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Serve(ctx) }()
		src := open(t, c, 0)
		cancel()
		synctest.Wait()
		expect(t, src, u.batches[0])
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := src.Next(t.Context()); !errors.Is(err, media.ErrUnavailable) {
			t.Errorf("after Serve: %v", err)
		}
	})
}
