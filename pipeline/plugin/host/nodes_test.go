package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin/internal/film"
	"github.com/mediad/mediad/pipeline/plugin/internal/relay"
)

// west is a node that knows another.
type west struct{ serves chan string }

func (west) Self() string  { return "west" }
func (west) Load() float64 { return 0.25 }

func (west) Peers(_ context.Context, name string, live bool) ([]stage.Peer, error) {
	if name != "show" || !live {
		return nil, fmt.Errorf("%s: %w", name, media.ErrNotFound)
	}
	return []stage.Peer{{Name: "east", Address: "127.0.0.1:4100", Load: 0.5, Path: []string{"south", "east"}}}, nil
}

func (w west) Serves(address string) { w.serves <- address }

// routed is a reader of a channel that comes another way from its third batch on.
type routed struct{ peer string }

func (r *routed) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	r.peer = req.Peer
	return &way{batches: film.Batches(5, 100)}, nil
}

type way struct {
	batches []*media.Batch
	read    int
}

func (w *way) Info() media.Info { return media.Info{Name: "show", Live: true} }
func (w *way) Close() error     { return nil }

func (w *way) Next(context.Context) (*media.Batch, error) {
	if w.read == len(w.batches) {
		return nil, io.EOF
	}
	w.read++
	return w.batches[w.read-1], nil
}

func (w *way) Path() []string { return wayAt(w.read) }

// wayAt is the way by which the nth batch has come.
func wayAt(n int) []string {
	if n < 3 {
		return []string{"south", "west"}
	}
	return []string{"south", "east", "west"}
}

func TestNodesOverTheWire(t *testing.T) {
	nodes := west{serves: make(chan string, 2)}
	input := &routed{}
	env := stage.Env{Inputs: []stage.Input{{Name: "live/broadcast", Reader: input}}, Nodes: nodes}
	binary := Binary{Path: filmPath, Args: []string{"relay"}}
	s := run(t, binary, quick, env, nil)
	if got := <-nodes.serves; got != "127.0.0.1:4100" {
		t.Errorf("it serves at %q", got)
	}
	cost, err := s.Cost(t.Context(), media.OpenRequest{Name: "show", LiveOnly: true})
	if want := (media.Cost{Place: "127.0.0.1:4100", Base: 0.5, Load: 0.25, Node: "east", RTT: relay.RTT, Depth: 2}); err != nil || cost != want {
		t.Errorf("%+v, %v, want %+v", cost, err, want)
	}
	if _, err := s.Cost(t.Context(), media.OpenRequest{Name: "show"}); !errors.Is(err, media.ErrNotFound) {
		t.Error(err)
	}
	src := open(t, s, "show")
	if input.peer != "west" {
		t.Errorf("%q asks, not west", input.peer)
	}
	for n := 0; ; n++ {
		if got := src.(media.Routed).Path(); !slices.Equal(got, wayAt(n)) {
			t.Errorf("batch %d has come by %q, not %q", n, got, wayAt(n))
		}
		if _, err := src.Next(t.Context()); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if got := <-nodes.serves; got != "" {
		t.Errorf("it has ended, and serves at %q", got)
	}
	kind, err := newKind(t.Context(), binary, quick, hclog.NewNullLogger())
	if want := relay.Kind().Ports; err != nil || kind.Ports != want {
		t.Errorf("%+v, %v, want %+v", kind.Ports, err, want)
	}
}
