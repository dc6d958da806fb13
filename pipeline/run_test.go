package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// shipped builds the stages of the file that the goldens have as "shipped".
func shipped(t *testing.T, s *stages) (*Supervisor, *bytes.Buffer, error) {
	t.Helper()
	return built(t, s, "shipped", nil)
}

// built builds the stages of a golden.
func built(t *testing.T, s *stages, golden string, nodes stage.Nodes) (*Supervisor, *bytes.Buffer, error) {
	t.Helper()
	var log bytes.Buffer
	logger := hclog.New(&hclog.LoggerOptions{Output: &log})
	sup, err := Build(parsed(t, s, golden), s.kinds(), nodes, logger, prometheus.NewRegistry())
	return sup, &log, err
}

// parsed is the graph of a golden.
func parsed(t *testing.T, s *stages, golden string) *Graph {
	t.Helper()
	text, err := os.ReadFile("testdata/" + golden + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	input, _, _ := strings.Cut(string(text), divider)
	g, err := Parse("pipelines.yaml", []byte(input), s.kinds(), testEnv)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// inOrder fails unless events has the wanted ones in that order, whatever else
// stands between.
func inOrder(t *testing.T, events []string, want ...string) {
	t.Helper()
	last := -1
	for _, w := range want {
		i := slices.Index(events, w)
		if i <= last {
			t.Fatalf("%q is not where it belongs: want the order %q in %q", w, want, events)
		}
		last = i
	}
}

func TestBuild_ProvidersFirstWithTheirEnv(t *testing.T) {
	s := &stages{envs: map[string]stage.Env{}}
	if _, _, err := shipped(t, s); err != nil {
		t.Fatal(err)
	}
	inOrder(t, s.events, "new on-demand/reader-disk", "new on-demand/cache", "new on-demand/broker", "new on-demand/stream")
	inOrder(t, s.events, "new live/broadcast", "new live/ingest")
	inOrder(t, s.events, "new archive/writer-disk", "new archive/archiver")
	inOrder(t, s.events, "new live/broadcast", "new demo/playout")

	playout := s.envs["demo/playout"]
	if playout.Name != "demo/playout" || playout.Log.Name() != "demo/playout" || playout.Drain != 10*time.Second {
		t.Errorf("%+v", playout)
	}
	if len(playout.Inputs) != 1 || playout.Inputs[0].Name != "on-demand/broker" || playout.Inputs[0].Reader == nil || playout.Output == nil {
		t.Errorf("%+v", playout)
	}
	if in := s.envs["live/ingest"]; in.Output == nil || in.Inputs != nil {
		t.Errorf("%+v", in)
	}
}

func TestBuild_MetricsHaveTheNamesOfTheStage(t *testing.T) {
	g, err := Parse("f", []byte("version: 1\npipelines: {a: [{use: reader-http}, {use: cache, name: b}]}"), new(stages).kinds(), testEnv)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	s := &stages{envs: map[string]stage.Env{}}
	if _, err := Build(g, s.kinds(), nil, hclog.NewNullLogger(), registry); err != nil {
		t.Fatal(err)
	}
	s.envs["a/b"].Metrics.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_x_total"}))
	got := map[string]string{}
	for _, l := range gathered(t, registry, "mediad_x_total")[0].GetLabel() {
		got[l.GetName()] = l.GetValue()
	}
	if got["pipeline"] != "a" || got["stage"] != "b" || len(got) != 2 {
		t.Error(got)
	}
}

// gathered are the series of a metric.
func gathered(t *testing.T, g prometheus.Gatherer, name string) []*dto.Metric {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return nil
}

// What a stage refuses is reported at its place in the file, all at once.
func TestBuild_Refusals(t *testing.T) {
	s := &stages{new: map[string]error{
		"on-demand/reader-disk": stage.Wrong("root", "is no folder"),
		"live/stream":           errors.Join(stage.Wrong("key", "is missing"), errors.New("no front")),
		"on-demand/broker":      errors.New("is not made, as its reader is not"),
	}}
	_, _, err := shipped(t, s)
	const want = `pipelines.yaml:6:20: on-demand/reader-disk: root: is no folder
pipelines.yaml:16:7: live/stream: key: is missing
pipelines.yaml:16:7: live/stream: no front`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestSupervisor_StopsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stages{serve: map[string]func(context.Context) error{}}
		// Viewers stay to the end of the drain; all the others stop at once.
		s.serve["on-demand/stream"] = func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(9 * time.Second)
			return nil
		}
		sup, log, err := shipped(t, s)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range sup.Stages() {
			if st.State != Starting {
				t.Errorf("%s is %s", st, st.State)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		sup.Start()
		for _, st := range sup.Stages() {
			if st.State != Running || st.Made == nil {
				t.Errorf("%s is %s", st, st.State)
			}
		}
		go func() {
			time.Sleep(time.Minute)
			cancel()
			synctest.Wait()
			states := map[string]State{}
			for _, st := range sup.Stages() {
				states[st.String()] = st.State
			}
			if states["on-demand/stream"] != Stopping || states["on-demand/broker"] != Running || states["archive/archiver"] != Stopped {
				t.Error(states)
			}
		}()
		if err := sup.Wait(ctx); err != nil {
			t.Error(err)
		}
		for _, st := range sup.Stages() {
			if st.State != Stopped || st.Err != nil {
				t.Errorf("%s is %s: %v", st, st.State, st.Err)
			}
		}
		for _, order := range []string{
			"live/ingest archive/archiver archive/writer-disk",
			"demo/playout archive/archiver live/broadcast",
			"live/ingest live/stream live/broadcast",
			"on-demand/stream on-demand/broker on-demand/cache on-demand/reader-disk",
			"demo/playout on-demand/broker",
			"archive/archiver on-demand/stream", // the archive does not wait for viewers
		} {
			var want []string
			for name := range strings.FieldsSeq(order) {
				want = append(want, "stopped "+name)
			}
			inOrder(t, s.events, want...)
		}
		if strings.Contains(log.String(), "[ERROR]") {
			t.Error(log)
		}
	})
}

func TestSupervisor_FailureStopsTheRest(t *testing.T) {
	for name, test := range map[string]struct {
		serve func(context.Context) error
		want  string
	}{
		"error": {func(context.Context) error { return errors.New("disk is gone") }, "archive/archiver: disk is gone"},
		"panic": {func(context.Context) error { panic("nil map") }, "archive/archiver: panic: nil map"},
		"end":   {func(context.Context) error { return nil }, "archive/archiver: has ended by itself"},
		"hang": {func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Minute)
			return nil
		}, "archive/archiver: did not stop within 15s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stages{serve: map[string]func(context.Context) error{"archive/archiver": test.serve}}
				sup, log, err := shipped(t, s)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				sup.Start()
				err = sup.Wait(ctx)
				time.Sleep(time.Minute) // the one that hangs ends too, which changes nothing
				if err == nil || err.Error() != test.want {
					t.Errorf("got %v, want %s", err, test.want)
				}
				if !strings.Contains(log.String(), "archive/archiver") {
					t.Errorf("the log does not name the stage:\n%s", log)
				}
				for _, st := range sup.Stages() {
					if failed := st.String() == "archive/archiver"; failed != (st.State == Failed) || !failed && st.State != Stopped {
						t.Errorf("%s is %s", st, st.State)
					}
				}
			})
		})
	}
}

// Two stages that feed each other over a broadcast do not wait for each other.
func TestSupervisor_CircleOfFrames(t *testing.T) {
	const text = `version: 1
pipelines:
  live:
    - use: ingest
      with: {app: live}
    - use: broadcast
  all:
    - from: live
    - use: broker
  one:
    - from: all
    - use: playout
      with: {play: a}
    - to: live
  two:
    - from: all
    - use: playout
      with: {play: b}
    - to: live
`
	synctest.Test(t, func(t *testing.T) {
		s := new(stages)
		g, err := Parse("f", []byte(text), s.kinds(), testEnv)
		if err != nil {
			t.Fatal(err)
		}
		sup, err := Build(g, s.kinds(), nil, hclog.NewNullLogger(), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		sup.Start()
		if err := sup.Wait(ctx); err != nil {
			t.Error(err)
		}
		inOrder(t, s.events, "stopped live/ingest", "stopped one/playout", "stopped all/broker", "stopped live/broadcast")
		inOrder(t, s.events, "stopped live/ingest", "stopped two/playout", "stopped all/broker")
	})
}

// A stage that has tried again itself is not made again, nor is one that refuses its settings.
func TestSupervisor_LastingFailures(t *testing.T) {
	for name, lasting := range map[string]error{
		"given up": fmt.Errorf("%w after 5 failures", stage.ErrGivenUp),
		"setting":  stage.Wrong("memory", "is too much"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stages{serve: map[string]func(context.Context) error{"on-demand/cache": later(lasting)}}
				sup, log, err := shipped(t, s)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				sup.Start()
				waited := make(chan error, 1)
				go func() { waited <- sup.Wait(ctx) }()
				time.Sleep(2 * failuresWithin)
				cancel()
				if err := <-waited; !errors.Is(err, lasting) {
					t.Error(err)
				}
				if made := slices.Index(s.events, "new on-demand/cache"); slices.Contains(s.events[made+1:], "new on-demand/cache") {
					t.Error("it is made again")
				}
				if n := strings.Count(log.String(), lasting.Error()); n != 1 {
					t.Errorf("the log says %d times why:\n%s", n, log)
				}
			})
		})
	}
}

// A stage whose process is being started again is called that, though it has not failed.
func TestStages_Away(t *testing.T) {
	since := time.Now()
	u := newUnit(&Stage{Pipeline: "p", Name: "s"}, nil, stage.Env{}, prometheus.NewRegistry())
	u.enter(Running, nil)
	u.setMade(gone{since, nil})
	if s := u.seen(); s.State != Running || s.Err != nil {
		t.Errorf("%+v", s)
	}
	why := errors.New("killed")
	u.setMade(gone{since, why})
	if s := u.seen(); s.State != Restarting || s.Since != since || !errors.Is(s.Err, why) {
		t.Errorf("%+v", s)
	}
	u.enter(Stopping, nil)
	if s := u.seen(); s.State != Stopping {
		t.Errorf("%+v", s)
	}
}

type gone struct {
	since time.Time
	err   error
}

func (gone) Serve(context.Context) error { return nil }
func (g gone) Away() (time.Time, error)  { return g.since, g.err }
