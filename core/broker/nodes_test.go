package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// cluster is this node's load and its peers.
type cluster struct {
	load  float64
	peers []stage.Peer
}

func (c *cluster) Self() string  { return "b" }
func (c *cluster) Load() float64 { return c.load }
func (c *cluster) Serves(string) {}

func (c *cluster) Peers(context.Context, string, bool) ([]stage.Peer, error) { return c.peers, nil }

// peers is an input that explains what the other nodes have.
type peers struct {
	*reader
	list []media.Candidate
}

func (p peers) Explain(context.Context, media.OpenRequest) ([]media.Candidate, error) {
	return p.list, nil
}

func remote(node, place string, base, load float64) *reader {
	r := at(place, base, load)
	r.cost.Node, r.cost.RTT = node, time.Millisecond
	return r
}

// Equal inputs do not take turns when their loads waver.
func TestSuccessiveOpensDoNotFlap(t *testing.T) {
	x, y := at("disk", 10, 0), at("disk", 10, 0)
	b := with(x, y)
	open := func(name string) {
		t.Helper()
		src, err := b.Open(t.Context(), media.OpenRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		src.Close()
	}
	for i := range 20 {
		x.cost.Load, y.cost.Load = float64(i%2)*0.3, float64(i%3)*0.2
		open("film")
	}
	if x.opened != 20 {
		t.Errorf("one input was opened %d times and the other %d times", x.opened, y.opened)
	}
	x.cost.Load, y.cost.Load = 0.6, 0
	open("film")
	if y.opened != 1 {
		t.Error("an input that is cheaper by 75% is not taken")
	}
	x.cost.Load, y.cost.Load = 0, 0.3
	open("another")
	open("film")
	if y.opened != 2 {
		t.Error("the choice was not kept, or it was another name's")
	}
	list, err := b.Explain(t.Context(), request)
	if err != nil || !list[0].Chosen || list[0].Source != "in/1" || !strings.Contains(list[0].Note, "last") {
		t.Errorf("explained as %+v, %v", list, err)
	}
	y.costErr = media.ErrNotFound
	open("film")
	if x.opened != 22 {
		t.Error("an input that has it no more was kept")
	}
}

func TestChoicesAreBounded(t *testing.T) {
	var c choices
	for i := range 3*maxChoices + 5 {
		c.note(fmt.Sprint(i), nil)
	}
	if len(c.of) > maxChoices {
		t.Errorf("%d names are remembered", len(c.of))
	}
}

func TestWeights(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Settings)
		want int
	}{
		{"as they are", func(*Settings) {}, 0},
		{"peers are free", func(s *Settings) { s.Peer = 0 }, 1},
		{"but far", func(s *Settings) { s.Peer, s.RTT = 0, 20 }, 0},
		{"load counts for much", func(s *Settings) { s.Load = 100 }, 1},
	} {
		s := defaults()
		c.set(s)
		b := with(at("disk", 10, 0.5), remote("a", "memory", 1, 0))
		b.weights = s.weights()
		if got := b.ask(t.Context(), request)[0].in; got != b.inputs[c.want] {
			t.Errorf("%s: %s is the cheapest", c.name, got.Name)
		}
	}
	for _, wrong := range []func(*Settings){
		func(s *Settings) { s.Peer = -1 }, func(s *Settings) { s.Redirect.Gain = 0.5 }, func(s *Settings) { s.Redirect.Gain = -2 },
	} {
		s := defaults()
		wrong(s)
		if err := s.Check(); err == nil {
			t.Errorf("%+v is no error", *s)
		}
	}
}

func TestExplainNodes(t *testing.T) {
	far := peers{remote("a", "disk", 10, 0.3), []media.Candidate{
		{Source: "peers", Cost: media.Cost{Place: "disk", Base: 10, Node: "a", Load: 0.3}, Chosen: true},
		{Source: "peers", Cost: media.Cost{Place: "disk", Base: 10, Node: "c", Load: 0.97}, Note: "overloaded"},
	}}
	b := with(lacks(media.ErrNotFound))
	b.inputs = append(b.inputs, &input{Input: stage.Input{Name: "peers", Reader: far}})
	b.weights.Peer = 100
	list, err := b.Explain(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range list {
		got = append(got, fmt.Sprintf("%s %s %.0f %v", c.Source, c.Cost.Node, c.Total, c.Chosen))
	}
	if want := "[peers a 112 true peers c 272 false in/0  0 false]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestRedirect(t *testing.T) {
	disk := func() *reader { return at("disk", 10, 0) }
	for _, c := range []struct {
		name     string
		here     *reader
		load     float64
		there    *reader
		gain     float64
		follows  bool
		asked    string
		redirect bool
	}{
		{"busy", disk(), 0.94, remote("a", "memory", 1, 0), 2, true, "", true},
		{"never", disk(), 0.94, remote("a", "memory", 1, 0), 0, true, "", false},
		{"the client cannot", disk(), 0.94, remote("a", "memory", 1, 0), 2, false, "", false},
		{"a peer asks", disk(), 0.94, remote("a", "memory", 1, 0), 2, true, "c", false},
		{"idle", disk(), 0, remote("a", "memory", 1, 0), 2, true, "", false},
		{"both are busy", disk(), 0.94, remote("a", "memory", 1, 0.93), 2, true, "", false},
		{"only there, but idle here", lacks(media.ErrNotFound), 0, remote("a", "disk", 10, 0), 2, true, "", false},
		{"only there, and busy here", lacks(media.ErrNotFound), 0.94, remote("a", "disk", 10, 0), 2, true, "", true},
		{"a node that is gone", disk(), 0.94, remote("x", "memory", 1, 0), 2, true, "", false},
		{"live", at("live", 1, 0), 0.94, remote("a", "live", 1, 0), 2, true, "", true},
		{"live is not replaced by a recording", at("live", 1, 0), 0.94, remote("a", "disk", 10, 0), 2, true, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := with(c.here, c.there)
			b.redirect = c.gain
			b.nodes = &cluster{load: c.load, peers: []stage.Peer{{Name: "c", Address: "[fd00::3]:4100"}, {Name: "a", Address: "10.0.0.1:4100"}}}
			src, err := b.Open(t.Context(), media.OpenRequest{Name: "my film", Redirects: c.follows, Peer: c.asked})
			var redirect *media.RedirectError
			if !c.redirect {
				if err != nil {
					t.Fatal(err)
				}
				src.Close()
				return
			}
			if !errors.As(err, &redirect) || redirect.URL != "//10.0.0.1/my%20film" {
				t.Errorf("got %v, want a redirect", err)
			}
			list, err := b.Explain(t.Context(), request)
			if last := list[len(list)-1]; err != nil || last.Source != "redirect" {
				t.Errorf("explained as %+v, %v", list, err)
			}
		})
	}
}
