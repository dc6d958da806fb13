package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// theatre has kinds that carry frames: a reel that can be read, a lens before it,
// and a seat that watches from its start to its end.
type theatre struct {
	mu      sync.Mutex
	made    map[string]int // stages made, by name
	opened  map[string]int // sources opened by each seat
	frames  map[string]int // frames seen in each seat
	wrong   []string       // what no seat should see
	refuse  string         // the stage whose New refuses
	fail    map[string]int // how often Serve of a stage is to fail yet
	metrics *prometheus.Registry
}

func newTheatre() *theatre {
	return &theatre{
		made: map[string]int{}, opened: map[string]int{}, frames: map[string]int{},
		fail:    map[string]int{},
		metrics: prometheus.NewRegistry(),
	}
}

type tag struct {
	Tag  string        `set:"tag" doc:"makes an entry another"`
	Wait time.Duration `set:"wait" doc:"how long it takes to stop"`
}

func (th *theatre) kinds() Kinds {
	kind := func(name string, ports stage.Ports, make func(*player) stage.Stage) stage.Kind {
		return stage.Kind{Name: name, Settings: func() any { return &tag{} }, Ports: ports, New: func(env stage.Env, settings any) (stage.Stage, error) {
			p := &player{env: env, of: th, settings: *settings.(*tag), open: map[*reel]bool{}}
			env.Metrics.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_test_total"}))
			th.mu.Lock()
			defer th.mu.Unlock()
			th.made[env.Name]++
			if th.refuse == env.Name {
				return nil, errNo
			}
			return make(p), nil
		}}
	}
	return Kinds{
		kind("film", stage.Ports{ProvidesReader: true}, func(p *player) stage.Stage { return &film{p} }),
		kind("lens", stage.Ports{ProvidesReader: true, NeedsReader: stage.One}, func(p *player) stage.Stage { return &lens{film{p}} }),
		kind("seat", stage.Ports{NeedsReader: stage.One}, func(p *player) stage.Stage { return &seat{p} }),
	}
}

// player is what the stages have in common.
type player struct {
	env      stage.Env
	of       *theatre
	settings tag

	mu   sync.Mutex
	open map[*reel]bool
	done sync.WaitGroup
}

// film is a live reader: a frame each 10 ms, numbered by its DTS.
type film struct{ *player }

func (f *film) Serve(ctx context.Context) error {
	if err := f.of.failing(f.env.Name); err != nil {
		return err
	}
	<-ctx.Done()
	empty := make(chan struct{})
	go func() { f.done.Wait(); close(empty) }()
	select {
	case <-empty:
	case <-time.After(f.env.Drain):
		f.mu.Lock()
		for r := range f.open {
			close(r.cut)
		}
		f.mu.Unlock()
		<-empty
	}
	return nil
}

func (f *film) Open(context.Context, media.OpenRequest) (media.Source, error) {
	r := &reel{of: f, cut: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[r] = true
	f.done.Add(1)
	return r, nil
}

type reel struct {
	of   *film
	n    int
	cut  chan struct{}
	once sync.Once
}

func (r *reel) Info() media.Info { return media.Info{Version: r.of.settings.Tag} }

func (r *reel) Next(ctx context.Context) (*media.Batch, error) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-r.cut:
		return nil, media.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.n++
	return media.NewBatch(&media.Header{}, media.NoClock, media.Frame{Track: media.Audio, DTS: time.Duration(r.n) * time.Millisecond}), nil
}

func (r *reel) Close() error {
	r.once.Do(func() {
		r.of.mu.Lock()
		delete(r.of.open, r)
		r.of.mu.Unlock()
		r.of.done.Done()
	})
	return nil
}

// lens opens from what feeds it.
type lens struct{ film }

func (l *lens) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	return l.env.Inputs[0].Reader.Open(ctx, req)
}

func (l *lens) Cost(context.Context, media.OpenRequest) (media.Cost, error) {
	return media.Cost{Place: l.settings.Tag}, nil
}

// seat watches. A frame that is missing, doubled or not to be had is wrong.
type seat struct{ *player }

func (s *seat) Serve(ctx context.Context) error {
	if err := s.of.failing(s.env.Name); err != nil {
		return err
	}
	defer time.Sleep(s.settings.Wait)
	src, err := s.env.Inputs[0].Reader.Open(ctx, media.OpenRequest{})
	if err != nil {
		return err
	}
	defer src.Close()
	s.of.count(s.of.opened, s.env.Name)
	for n := 1; ; n++ {
		b, err := src.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil || b.DTS() != time.Duration(n)*time.Millisecond {
			s.of.mu.Lock()
			defer s.of.mu.Unlock()
			s.of.wrong = append(s.of.wrong, fmt.Sprintf("%s: frame %d: %v", s.env.Name, n, err))
			return err
		}
		s.of.count(s.of.frames, s.env.Name)
	}
}

var errNo = errors.New("no")

func (th *theatre) failing(name string) error {
	th.mu.Lock()
	defer th.mu.Unlock()
	if th.fail[name] == 0 {
		return nil
	}
	th.fail[name]--
	return errNo
}

// plan sets what is to go wrong: a stage that refuses, one whose Serve fails once.
func (th *theatre) plan(refuse, fail string) {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.refuse, th.fail = refuse, map[string]int{fail: 1}
}

func (th *theatre) count(what map[string]int, name string) {
	th.mu.Lock()
	defer th.mu.Unlock()
	what[name]++
}

// begin runs the pipelines of a text in a test's bubble until end is called.
func (th *theatre) begin(t *testing.T, text string) (sup *Supervisor, end func()) {
	t.Helper()
	sup, err := Build(th.parse(t, text), th.kinds(), nil, hclog.NewNullLogger(), th.metrics)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	sup.Start()
	go func() { ended <- sup.Wait(ctx) }()
	time.Sleep(time.Second)
	return sup, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if len(th.wrong) > 0 {
			t.Error(th.wrong)
		}
	}
}

func (th *theatre) parse(t *testing.T, pipelines string) *Graph {
	t.Helper()
	g, err := Parse("f", []byte("version: 1\npipelines:\n"+pipelines), th.kinds(), testEnv)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// states lists the stages with what they do.
func states(sup *Supervisor) string {
	var list []string
	for _, s := range sup.Stages() {
		list = append(list, s.String()+" "+string(s.State))
	}
	return strings.Join(list, ", ")
}

const (
	quiet = "  quiet: [{use: film}, {use: lens}, {use: seat}]\n"
	noisy = "  noisy: [{use: film, with: {tag: a%d}}, {use: lens, with: {tag: b%d}}, {use: seat, with: {tag: c%d}}]\n"
)

func TestT70_UntouchedStreamsLoseNoFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newTheatre()
		sup, end := th.begin(t, quiet+fmt.Sprintf(noisy, 0, 0, 0))
		began := time.Now().Add(-time.Second)
		for i := 1; i <= 50; i++ {
			var c Changes
			var err error
			switch i % 4 {
			case 0: // nothing
				c, err = sup.Reload(t.Context(), th.parse(t, quiet+fmt.Sprintf(noisy, i-1, i-1, i-1)), th.kinds())
			case 1: // one stage of three, whose callers stay
				c, err = sup.Reload(t.Context(), th.parse(t, quiet+fmt.Sprintf(noisy, i-1, i, i-1)), th.kinds())
			case 2: // all
				c, err = sup.Reload(t.Context(), th.parse(t, quiet+fmt.Sprintf(noisy, i, i, i)), th.kinds())
			case 3: // the pipeline goes and comes
				if _, err := sup.Reload(t.Context(), th.parse(t, quiet), th.kinds()); err != nil {
					t.Fatal(err)
				}
				c, err = sup.Reload(t.Context(), th.parse(t, quiet+fmt.Sprintf(noisy, i, i, i)), th.kinds())
			}
			if err != nil || !slices.Equal(c.Kept[:3], []string{"quiet/film", "quiet/lens", "quiet/seat"}) {
				t.Fatal(i, c, err)
			}
		}
		ran := time.Since(began)
		synctest.Wait()
		th.mu.Lock()
		for _, name := range []string{"quiet/film", "quiet/lens", "quiet/seat"} {
			if th.made[name] != 1 {
				t.Errorf("%s was made %d times", name, th.made[name])
			}
		}
		if want := int(ran / (10 * time.Millisecond)); th.opened["quiet/seat"] != 1 || th.frames["quiet/seat"] != want {
			t.Errorf("%d sources opened, %d frames seen, want 1 and %d", th.opened["quiet/seat"], th.frames["quiet/seat"], want)
		}
		th.mu.Unlock()
		for _, name := range []string{"mediad_test_total", "mediad_stage_up"} {
			if list := gathered(t, th.metrics, name); len(list) != 6 {
				t.Errorf("%s: %v, want one of each stage", name, list)
			}
		}
		end()
	})
}

// A reader that is replaced goes on with what is open in it, and its callers are
// not built anew: what they open next comes from the one that has followed it.
func TestReload_ReaderUnderCallersThatStay(t *testing.T) {
	const text = "  p: [{use: film, with: {tag: %s}}, {use: lens}, {use: seat}]\n"
	synctest.Test(t, func(t *testing.T) {
		th := newTheatre()
		sup, end := th.begin(t, fmt.Sprintf(text, "old"))
		lens := sup.Stages()[1].Made.(media.Reader)
		before, err := lens.Open(t.Context(), media.OpenRequest{})
		if err != nil {
			t.Fatal(err)
		}
		film := sup.Stages()[0].Made.(*film)
		c, err := sup.Reload(t.Context(), th.parse(t, fmt.Sprintf(text, "new")), th.kinds())
		if err != nil || !slices.Equal(c.Replaced, []string{"p/film"}) || !slices.Equal(c.Kept, []string{"p/lens", "p/seat"}) {
			t.Fatal(c, err)
		}
		after, err := lens.Open(t.Context(), media.OpenRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if before.Info().Version != "old" || after.Info().Version != "new" {
			t.Errorf("from %q, then from %q", before.Info().Version, after.Info().Version)
		}
		if _, err := before.Next(t.Context()); err != nil {
			t.Errorf("what was open before: %v", err)
		}
		before.Close()
		time.Sleep(film.env.Drain)
		synctest.Wait()
		film.mu.Lock()
		if len(film.open) != 0 {
			t.Error("the old reader does not end after the drain")
		}
		film.mu.Unlock()
		after.Close()
		th.mu.Lock() // the seat was cut off by it, as it should be, and made again
		if len(th.wrong) != 1 {
			t.Error(th.wrong)
		}
		th.wrong = nil
		th.mu.Unlock()
		time.Sleep(time.Minute)
		if got := states(sup); got != "p/film running, p/lens running, p/seat running" {
			t.Error(got)
		}
		end()
	})
}

// What is alone in what it does stops before what follows it is served.
func TestReload_SeatsAreNotTakenTwice(t *testing.T) {
	const text = "  p: [{use: film}, {use: seat, with: {wait: 5s, tag: %s}}]\n"
	synctest.Test(t, func(t *testing.T) {
		th := newTheatre()
		sup, end := th.begin(t, fmt.Sprintf(text, "a"))
		began := time.Now()
		if _, err := sup.Reload(t.Context(), th.parse(t, fmt.Sprintf(text, "b")), th.kinds()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 5*time.Second+trial {
			t.Errorf("took %v", took)
		}
		end()
	})
}

func TestT69_WrongReloadChangesNothing(t *testing.T) {
	const more = "  more: [{use: film}, {use: lens, with: {tag: a}}, {use: seat}]\n"
	changed := strings.Replace(quiet, "use: lens", "use: lens, with: {tag: b}", 1) + more
	for name, test := range map[string]struct {
		refuse, fail string
		want         string
	}{
		"refused":             {refuse: "quiet/lens", want: "f:3:24: quiet/lens: no"},
		"refused, the last":   {refuse: "more/seat", want: "more/seat: no"},
		"a reader that fails": {fail: "quiet/lens", want: "quiet/lens: no (what ran before the reload runs on)"},
		"a caller that fails": {fail: "more/seat", want: "more/seat: no (what ran before the reload runs on)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th := newTheatre()
				sup, end := th.begin(t, quiet)
				th.plan(test.refuse, test.fail)
				_, err := sup.Reload(t.Context(), th.parse(t, changed), th.kinds())
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %s", err, test.want)
				}
				var problems Problems
				if got := errors.As(err, &problems); got != (test.refuse != "") {
					t.Errorf("%T", err)
				}
				if got := states(sup); got != "quiet/film running, quiet/lens running, quiet/seat running" {
					t.Error(got)
				}
				if list := gathered(t, th.metrics, "mediad_test_total"); len(list) != 3 {
					t.Errorf("metrics: %v", list)
				}
				th.plan("", "")
				c, err := sup.Reload(t.Context(), th.parse(t, changed), th.kinds())
				if err != nil || len(c.Added) != 3 || len(c.Replaced) != 1 {
					t.Error(c, err)
				}
				th.mu.Lock()
				if th.opened["quiet/seat"] != 1 {
					t.Errorf("the seat that stays has opened %d sources", th.opened["quiet/seat"])
				}
				th.mu.Unlock()
				end()
			})
		})
	}
}

// A stage that was stopped to make room is made anew when what should follow fails.
func TestT69_RollBackOfWhatWasStopped(t *testing.T) {
	const text = "  p: [{use: film}, {use: seat, with: {tag: %s}}]\n"
	synctest.Test(t, func(t *testing.T) {
		th := newTheatre()
		sup, end := th.begin(t, fmt.Sprintf(text, "a"))
		th.plan("", "p/seat")
		_, err := sup.Reload(t.Context(), th.parse(t, fmt.Sprintf(text, "b")), th.kinds())
		if err == nil || !strings.Contains(err.Error(), "p/seat: no") {
			t.Error(err)
		}
		time.Sleep(time.Second)
		th.mu.Lock()
		if got := sup.Stages()[1]; got.State != Running || got.Settings.(*tag).Tag != "a" || th.opened["p/seat"] != 2 {
			t.Errorf("%s with %v, %d opened", got.State, got.Settings, th.opened["p/seat"])
		}
		th.mu.Unlock()
		end()
	})
}

func TestReload_TopOfTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newTheatre()
		sup, end := th.begin(t, quiet)
		g := th.parse(t, quiet+"listen: {rtmp: \":1936\"}\ndrain: 1s\nlog: {level: trace, format: json}\ncluster: {name: west, listen: \"\"}\n")
		c, err := sup.Reload(t.Context(), g, th.kinds())
		if want := []string{"listen", "cluster", "log.format", "drain"}; err != nil || !slices.Equal(c.Restart, want) || len(c.Kept) != 3 {
			t.Error(c, err)
		}
		end()
		if _, err := sup.Reload(t.Context(), g, th.kinds()); !errors.Is(err, ErrStopping) {
			t.Error(err)
		}
	})
}

// later lets a stage fail after it has passed its trial.
func later(err error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(time.Second):
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func TestSupervisor_MakesAgainWhatHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stages{serve: map[string]func(context.Context) error{}}
		fails := 0
		s.serve["live/broadcast"] = func(ctx context.Context) error {
			if fails++; fails > 2 {
				<-ctx.Done()
				return nil
			}
			return later(errors.New("lost its way"))(ctx)
		}
		sup, _, err := shipped(t, s)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		sup.Start()
		go func() {
			time.Sleep(1500 * time.Millisecond)
			if got := states(sup); !strings.Contains(got, "live/broadcast restarting") || strings.Count(got, "running") != 9 {
				t.Error(got)
			}
			time.Sleep(20 * time.Second)
			if got := states(sup); strings.Count(got, "running") != 10 {
				t.Error(got)
			}
		}()
		if err := sup.Wait(ctx); err != nil || fails != 3 {
			t.Error(fails, err)
		}
	})
}

// Five failures in a minute are enough. What cannot do without the stage goes with
// it, and the rest of the daemon goes on.
func TestSupervisor_FailureTakesDownOnlyWhatNeedsIt(t *testing.T) {
	for _, test := range []struct{ fails, down string }{
		{"archive/writer-disk", "archive/archiver"},
		{"live/broadcast", "live/ingest live/stream archive/archiver demo/playout"},
		{"on-demand/stream", ""},
	} {
		t.Run(strings.ReplaceAll(test.fails, "/", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stages{serve: map[string]func(context.Context) error{test.fails: later(errors.New("disk is gone"))}}
				sup, log, err := shipped(t, s)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				sup.Start()
				go func() {
					time.Sleep(time.Minute)
					down := strings.Fields(test.down)
					for _, st := range sup.Stages() {
						want := Running
						switch {
						case st.String() == test.fails:
							want = Failed
						case slices.Contains(down, st.String()):
							want = Stopped
						}
						if st.State != want {
							t.Errorf("%s is %s, want %s (%v)", st, st.State, want, st.Err)
						}
					}
					metrics := prometheus.NewRegistry()
					metrics.MustRegister(gauge{sup})
					up := 0.0
					for _, m := range gathered(t, metrics, "mediad_stage_up") {
						up += m.GetGauge().GetValue()
					}
					if want := 10 - 1 - len(down); int(up) != want {
						t.Errorf("%v stages are up, want %d", up, want)
					}
					// A reload of the same file begins again with what has ended.
					s.mu.Lock()
					delete(s.serve, test.fails)
					s.mu.Unlock()
					c, err := sup.Reload(ctx, parsed(t, s, "shipped"), s.kinds())
					if err != nil || len(c.Replaced) != 1+len(down) || strings.Count(states(sup), "running") != 10 {
						t.Error(c, err, states(sup))
					}
				}()
				if err := sup.Wait(ctx); err != nil {
					t.Error(err)
				}
				if want := "has failed 5 times within 1m0s, the last time: disk is gone"; !strings.Contains(log.String(), want) {
					t.Errorf("the log does not say %q:\n%s", want, log)
				}
			})
		})
	}
}

func TestSupervisor_EndsWhenNothingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stages{serve: map[string]func(context.Context) error{"a/cache": later(errors.New("out of luck"))}}
		g, err := Parse("f", []byte("version: 1\npipelines: {a: [{use: reader-http}, {use: cache}]}"), s.kinds(), testEnv)
		if err != nil {
			t.Fatal(err)
		}
		sup, err := Build(g, s.kinds(), nil, hclog.NewNullLogger(), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		sup.Start()
		if err := sup.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "a/cache: has failed 5 times") {
			t.Error(err)
		}
	})
}

func TestCanDoWithout(t *testing.T) {
	a, b, w := &Stage{Name: "a"}, &Stage{Name: "b"}, &Stage{Name: "w"}
	for _, test := range []struct {
		needs  stage.Need
		inputs []*Stage
		output *Stage
		lost   []*Stage
		want   bool
	}{
		{stage.One, []*Stage{a}, nil, []*Stage{b}, true},
		{stage.One, []*Stage{a}, nil, []*Stage{a}, false},
		{stage.Some, []*Stage{a, b}, nil, []*Stage{a}, true},
		{stage.Some, []*Stage{a, b}, nil, []*Stage{a, b}, false},
		{stage.Any, []*Stage{a}, nil, []*Stage{a}, true},
		{stage.Some, []*Stage{a}, w, []*Stage{w}, false},
		{stage.None, nil, w, []*Stage{w}, false},
		{stage.None, nil, nil, []*Stage{a}, true},
	} {
		lost := map[*Stage]bool{}
		for _, st := range test.lost {
			lost[st] = true
		}
		st := &Stage{Kind: stage.Kind{Ports: stage.Ports{NeedsReader: test.needs}}, Inputs: test.inputs, Output: test.output}
		if got := canDoWithout(st, lost); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
