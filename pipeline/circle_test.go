// What stands apart: the repeater that serves a broadcast and is read by it.

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mediad/mediad/core/archive"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// lonely is a node without others.
type lonely struct{}

func (lonely) Self() string                                              { return "here" }
func (lonely) Load() float64                                             { return 0 }
func (lonely) Peers(context.Context, string, bool) ([]stage.Peer, error) { return nil, nil }
func (lonely) Serves(string)                                             {}

func TestBuild_Circle(t *testing.T) {
	s := &stages{envs: map[string]stage.Env{}}
	if _, _, err := built(t, s, "nodes", lonely{}); err != nil {
		t.Fatal(err)
	}
	inOrder(t, s.events, "new live/broadcast", "new peers/repeater-tcp", "new on-demand/broker")
	inOrder(t, s.events, "new on-demand/cache", "new peers/repeater-tcp")
	for name, want := range map[string][]string{
		"peers/repeater-tcp": {"live/broadcast", "on-demand/cache"},
		"live/broadcast":     {"peers/repeater-tcp"},
		"on-demand/broker":   {"on-demand/cache", "peers/repeater-tcp"},
	} {
		var got []string
		for _, in := range s.envs[name].Inputs {
			if got = append(got, in.Name); in.Reader == nil {
				t.Errorf("%s has no reader of %s", name, in.Name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s reads from %q, want %q", name, got, want)
		}
	}
	for name, env := range s.envs {
		if env.Nodes != (lonely{}) {
			t.Errorf("%s is not told of the other nodes", name)
		}
	}
	if a, b := s.envs["live/broadcast"].Inputs[0], s.envs["on-demand/broker"].Inputs[1]; a.Reader != b.Reader {
		t.Error("one stage has two ports")
	}
}

// The other nodes get the end of the channels, viewers what comes from there, and
// only then the repeater goes, before what it serves.
func TestSupervisor_StopsACircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stages{serve: map[string]func(context.Context) error{}}
		for _, slow := range []string{"live/ingest", "on-demand/stream", "live/stream", "peers/repeater-tcp"} {
			s.serve[slow] = func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				return nil
			}
		}
		sup, _, err := built(t, s, "nodes", nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		sup.Start()
		if err := sup.Wait(ctx); err != nil {
			t.Error(err)
		}
		for _, order := range []string{
			"live/ingest live/stream peers/repeater-tcp live/broadcast",
			"live/ingest archive/archiver peers/repeater-tcp",
			"demo/playout peers/repeater-tcp",
			"on-demand/stream on-demand/broker peers/repeater-tcp on-demand/cache on-demand/reader-disk",
		} {
			var want []string
			for name := range strings.FieldsSeq(order) {
				want = append(want, "stopped "+name)
			}
			inOrder(t, s.events, want...)
		}
	})
}

// Two repeaters that serve what the other has do not wait for each other.
func TestStopOrder_Crossed(t *testing.T) {
	const text = `version: 1
pipelines:
  a: [{from: first/broker}, {use: repeater-tcp}]
  b: [{from: second/broker}, {use: repeater-tcp}]
  first: [{from: b}, {use: broker}, {use: stream, with: {app: a}}]
  second: [{from: a}, {use: broker}, {use: stream, with: {app: b}}]
`
	g, err := Parse("f", []byte(text), new(stages).kinds(), testEnv)
	if err != nil {
		t.Fatal(err)
	}
	before := stopOrder(g)
	for _, st := range g.Stages {
		earlier := map[*Stage]bool{}
		if flood(st, before, earlier); earlier[st] {
			t.Errorf("%s stops after itself", st)
		}
	}
}

func TestPort_OfWhatStandsApart(t *testing.T) {
	ctx, req := t.Context(), media.OpenRequest{Name: "film"}
	k := stage.Kind{Ports: stage.Ports{ProvidesReader: true, Apart: true}}
	p := newPort("a/b", abilitiesOf(k, nil))
	coster, explainer := p.reader.(media.Coster), p.reader.(media.Explainer)
	if _, lists := p.reader.(archive.Lister); lists {
		t.Error("there is nothing that stands for a listing")
	}
	_, err := coster.Cost(ctx, req)
	_, err2 := explainer.Explain(ctx, req)
	if !errors.Is(err, media.ErrUnavailable) || !errors.Is(err2, media.ErrUnavailable) {
		t.Errorf("before it is made: %v, %v", err, err2)
	}
	// A broker takes a reader that knows no costs to be an origin over HTTP.
	unknown := media.Cost{Place: media.PlaceUnknown, Base: media.CostHTTP}
	for _, test := range []struct {
		made   stage.Stage
		cost   media.Cost
		source string
	}{
		{&fake{}, unknown, "a/b"},
		{&station{fake: fake{name: "station"}}, media.Cost{Place: "live"}, "station"},
	} {
		behind(p, test.made)
		cost, err := coster.Cost(ctx, req)
		list, err2 := explainer.Explain(ctx, req)
		if err := errors.Join(err, err2); err != nil || cost != test.cost || list[0].Source != test.source {
			t.Errorf("%T: %+v, %+v, %v", test.made, cost, list, err)
		}
	}
}

// A repeater has an address, so the old one stops before the new one is served; the
// broadcast that reads from it stays, with its channels.
func TestReload_Circle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stages{serve: map[string]func(context.Context) error{}}
		serving := false
		s.serve["peers/repeater-tcp"] = func(ctx context.Context) error {
			if serving {
				t.Error("the address is taken twice")
			}
			serving = true
			<-ctx.Done()
			time.Sleep(time.Second)
			serving = false
			return nil
		}
		sup, _, err := built(t, s, "nodes", nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		sup.Start()
		go func() {
			defer cancel()
			time.Sleep(time.Second)
			g := parsed(t, s, "nodes")
			repeater := g.Stages[0]
			repeater.Settings = &repeaterSettings{Listen: ":4200"}
			c, err := sup.Reload(ctx, g, s.kinds())
			if err != nil || fmt.Sprint(c.Replaced) != "[peers/repeater-tcp]" || len(c.Kept) != len(g.Stages)-1 {
				t.Error(c, err)
			}
			for _, st := range sup.Stages() {
				if st.State != Running {
					t.Errorf("%s is %s", st, st.State)
				}
			}
			// The same again: nothing is to be done.
			if c, err := sup.Reload(ctx, g, s.kinds()); err != nil || len(c.Kept) != len(g.Stages) {
				t.Error(c, err)
			}
		}()
		if err := sup.Wait(ctx); err != nil {
			t.Error(err)
		}
	})
}

// Without its repeater a node goes on alone.
func TestSupervisor_RepeaterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stages{serve: map[string]func(context.Context) error{"peers/repeater-tcp": later(errors.New("no address"))}}
		sup, _, err := built(t, s, "nodes", nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		sup.Start()
		go func() {
			time.Sleep(10 * time.Minute)
			for _, st := range sup.Stages() {
				if failed := st.String() == "peers/repeater-tcp"; failed != (st.State == Failed) {
					t.Errorf("%s is %s", st, st.State)
				}
			}
		}()
		if err := sup.Wait(ctx); err == nil || !strings.Contains(err.Error(), "no address") {
			t.Error(err)
		}
	})
}

// anywhere is a catalog whose kinds also run in processes of their own.
type anywhere struct{ Kinds }

func (a anywhere) Process(_, kind string, _ Process) (stage.Kind, error) {
	i := slices.IndexFunc(a.Kinds, func(k stage.Kind) bool { return k.Name == kind })
	return a.Kinds[i], nil
}

// A broadcast claims its channels in the cluster, which only the daemon can.
func TestParse_WhatRunsInTheDaemonOfANode(t *testing.T) {
	const live = `version: 1
pipelines:
  live:
    - {use: ingest, with: {app: live}}
    - {use: broadcast, run: process}
  peers:
    - {from: live}
    - {use: repeater-tcp, run: process}
`
	kinds := anywhere{new(stages).kinds()}
	if _, err := Parse("f", []byte(live), kinds, testEnv); err != nil {
		t.Error(err)
	}
	const want = "f:5:13: live/broadcast: the kind broadcast claims its channels in the cluster and must run in the daemon: " +
		"leave out run, sha256 and memory, or cluster"
	_, err := Parse("f", []byte(live+`cluster: {name: west, listen: "127.0.0.1:4222"}`), kinds, testEnv)
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}
