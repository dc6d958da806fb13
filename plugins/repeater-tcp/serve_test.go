// Who is served, and who is not.

package repeatertcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		values map[string]any
		wrong  []string // settings
	}{
		{map[string]any{}, []string{"cert"}},
		{map[string]any{"plain": "true"}, nil},
		{map[string]any{"cert": "c", "key": "k", "ca": "a"}, nil},
		{map[string]any{"cert": "c", "ca": "a"}, []string{"key"}},
		{map[string]any{"cert": "c", "key": "k", "ca": "a", "plain": "true"}, []string{"plain"}},
		{map[string]any{"plain": "true", "listen": "4100"}, []string{"listen"}},
		{map[string]any{"plain": "true", "listen": ""}, nil},
		{map[string]any{"plain": "true", "peers": []string{"a:1", "b"}, "advertise": "c"}, []string{"peers", "advertise"}},
		{map[string]any{"plain": "true", "children": "0"}, []string{"children"}},
	} {
		_, err := Kind().Decode(c.values)
		for _, name := range c.wrong {
			if err == nil || !strings.Contains(err.Error(), name+": ") {
				t.Errorf("%v: %v, want a mistake in %s", c.values, err, name)
			}
		}
		if c.wrong == nil && err != nil {
			t.Errorf("%v: %v", c.values, err)
		}
	}
}

// TestAdmission asks a station that for some reason takes no child, or not this one.
func TestAdmission(t *testing.T) {
	full := func(s *station) {
		other := newNode(s.t, "other", nil)
		other.knows(s.peer())
		open(s.t, other, "show")
	}
	for _, c := range []struct {
		name   string
		reason string
		change func(s *station)
	}{
		{"has its children", refusedChildren, full},
		{"relay has its children", refusedChildren, func(s *station) {
			s.settings.Children = 2
			s.setPath("owner", "s")
			full(s)
		}},
		{"busy", refusedLoad, func(s *station) { s.setLoad(media.Overloaded) }},
		{"draining", refusedDraining, func(s *station) { s.leaving.Store(true) }},
		{"orphan", refusedOrphan, func(s *station) { s.setPath() }},
		{"loop", refusedLoop, func(s *station) { s.setPath("child", "s") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, child := newStation(t, "s", map[string]any{"children": "1"}), newNode(t, "child", nil)
			write(t, s.publish("show"), single(stagetest.Film(1, 100))...)
			child.knows(s.node.peer())
			c.change(s)
			_, err := child.Open(t.Context(), media.OpenRequest{Name: "show", LiveOnly: true})
			if !errors.Is(err, media.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			if n := s.refusals(c.reason); n != 1 {
				t.Errorf("%d refusals because of %s, want 1: %v", n, c.reason, err)
			}
		})
	}
}

// TestChildAgain lets a node that is a child already ask again, at a parent that has all its children.
func TestChildAgain(t *testing.T) {
	s, child := newStation(t, "s", map[string]any{"children": "1"}), newNode(t, "child", nil)
	write(t, s.publish("show"), single(stagetest.Film(1, 100))...)
	child.knows(s.peer())
	first := open(t, child, "show")
	open(t, child, "show").Close()
	first.Close()
	eventually(t, "the station has no children", func() bool { return s.children("show") == 0 })
	if n := testutil.ToFloat64(s.metrics.children); n != 0 {
		t.Errorf("%v children are counted", n)
	}
}

// TestErrors wants the errors of a peer's readers to be what they were.
func TestErrors(t *testing.T) {
	redirect := &media.RedirectError{URL: "rtmp://b/live/film"}
	for _, c := range []struct{ err, is error }{
		{media.ErrNotFound, media.ErrNotFound},
		{media.ErrDenied, media.ErrDenied},
		{media.ErrUnavailable, media.ErrUnavailable},
		{media.ErrChanged, media.ErrUnavailable}, // of an Open: another try may do
		{redirect, redirect},
	} {
		a, b := newNode(t, "a", nil, refusing{c.err}), newNode(t, "b", nil)
		b.knows(a.peer())
		_, err := b.Open(t.Context(), media.OpenRequest{Name: "film"})
		if to := (*media.RedirectError)(nil); errors.As(err, &to) && c.is == redirect {
			err = redirect
		}
		if !errors.Is(err, c.is) {
			t.Errorf("%v comes as %v", c.err, err)
		}
	}
}

type refusing struct{ err error }

func (r refusing) Open(context.Context, media.OpenRequest) (media.Source, error) {
	return nil, fmt.Errorf("here: %w", r.err)
}

// TestAsks chooses among peers by what they cost.
func TestAsks(t *testing.T) {
	film := stagetest.Film(3, 300)
	a := newNode(t, "a", nil, stagetest.Library{"film": film})
	b := newNode(t, "b", nil, stagetest.Library{"film": film})
	c := newNode(t, "c", nil, stagetest.Library{})
	d := newNode(t, "d", nil)
	d.knows(a.peer(), b.peer(), c.peer(), stage.Peer{Name: "gone", Address: "127.0.0.1:1"})
	a.setLoad(0.9)

	req := media.OpenRequest{Name: "film", RecordedOnly: true}
	cost, err := d.Cost(t.Context(), req)
	if err != nil || cost.Node != "b" || cost.RTT <= 0 || cost.Place != "memory" {
		t.Errorf("%+v, %v", cost, err)
	}
	list, err := d.Explain(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, c := range list {
		told = append(told, fmt.Sprintf("%s %v", c.Cost.Node, c.Chosen))
	}
	slices.Sort(told[2:])
	if want := []string{"b true", "a false", "c false", "gone false"}; !slices.Equal(told, want) {
		t.Errorf("Explain tells %v, want %v", told, want)
	}
	if list[1].Cost.Load != 0.9 || list[1].Total < 65 || list[2].Note == "" {
		t.Errorf("Explain tells %+v", list)
	}
	src, err := d.Open(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	src.Close()
	if n := testutil.ToFloat64(a.metrics.batchesOut); n != 0 {
		t.Error("it came from a, which is dearer")
	}

	req.Peer = "e"
	if _, err := d.Open(t.Context(), req); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("Open for a peer: %v", err)
	}
	if _, err := d.Cost(t.Context(), req); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("Cost for a peer: %v", err)
	}
	if _, err := d.Explain(t.Context(), req); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("Explain for a peer: %v", err)
	}
}

// TestTooDeep prefers a parent that is dearer to one that would make the tree too deep.
func TestTooDeep(t *testing.T) {
	deep, owner, child := newStation(t, "deep", nil), newStation(t, "owner", nil), newNode(t, "child", nil)
	for _, s := range []*station{deep, owner} {
		write(t, s.publish("show"), single(stagetest.Film(1, 100))...)
	}
	deep.setPath("owner", "x", "y", "deep")
	owner.setLoad(0.9)
	child.knows(deep.peer(), owner.peer())
	if path := open(t, child, "show").(media.Routed).Path(); len(path) != 1 {
		t.Errorf("the path is %v", path)
	}
	child.knows(deep.peer())
	if path := open(t, child, "show").(media.Routed).Path(); len(path) != 4 {
		t.Errorf("the path is %v", path)
	}
	// Not too deep for the child, but for those that have it from there.
	deep.setPath("owner", "x", "deep")
	child.knows(deep.peer(), owner.peer())
	if path := open(t, child, "show").(media.Routed).Path(); len(path) != 3 {
		t.Errorf("the path is %v", path)
	}
	child.knows(deep.peer(), owner.peer(), stage.Peer{Name: "grandchild", Address: deep.at(), Path: []string{"owner", "child", "grandchild"}})
	if path := open(t, child, "show").(media.Routed).Path(); len(path) != 1 {
		t.Errorf("the path is %v", path)
	}
}

// TestUnread leaves recorded media unread: nothing comes before the first Next, then only
// so much, and the rest on demand.
func TestUnread(t *testing.T) {
	film := stagetest.Film(40, 20000) // 800 KB each
	a, b := newNode(t, "a", nil, stagetest.Library{"film": film}), newNode(t, "b", nil)
	silence := b.pace.stalled + b.pace.stalled/10 // longer than a peer may be silent
	b.knows(a.peer())
	src, err := b.Open(t.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	wait(t.Context(), silence)
	if n := testutil.ToFloat64(a.metrics.sent); n > 4096 {
		t.Errorf("%v bytes were sent of media that are open, and not read", n)
	}
	got := take(t, src, 1)
	eventually(t, "some has come", func() bool { return testutil.ToFloat64(b.metrics.received) >= window })
	wait(t.Context(), silence)
	if n := testutil.ToFloat64(a.metrics.sent); n > window+3<<20 {
		t.Errorf("%v bytes were sent that nobody has read", n)
	}
	if got = append(got, take(t, src, len(film)-1)...); hash(got) != hash(film) {
		t.Error("other frames came than were sent")
	}
	if _, err := src.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// TestLost wants an error that lets a broker go on with another input.
func TestLost(t *testing.T) {
	for name, lose := range map[string]func(p *proxy){"cut": (*proxy).cut, "silent": (*proxy).hang} {
		t.Run(name, func(t *testing.T) {
			a, b := newNode(t, "a", nil, stagetest.Library{"film": stagetest.Film(40, 20000)}), newNode(t, "b", nil)
			link := newProxy(t, a.at())
			b.knows(stage.Peer{Name: "a", Address: link.address()})
			src, err := b.Open(t.Context(), media.OpenRequest{Name: "film"})
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			take(t, src, 1)
			lose(link)
			for err == nil {
				_, err = src.Next(t.Context())
			}
			if !errors.Is(err, media.ErrUnavailable) || errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestDrain lets what is open come to its end, and takes nothing new.
func TestDrain(t *testing.T) {
	film := stagetest.Film(20, 20000)
	a, b := newNode(t, "a", nil, stagetest.Library{"film": film}), newNode(t, "b", nil)
	b.knows(a.peer())
	src, err := b.Open(t.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got := take(t, src, 1)
	stopped := make(chan error, 1)
	go func() { stopped <- a.stop() }()
	eventually(t, "a leaves", a.leaving.Load)
	if a.at() != "" {
		t.Error("peers are still told where it is")
	}
	if _, err := b.Open(t.Context(), media.OpenRequest{Name: "film"}); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("another Open: %v", err)
	}
	got = append(got, take(t, src, len(film)-1)...)
	if hash(got) != hash(film) {
		t.Error("other frames came than were sent")
	}
	src.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestStopped uses a repeater whose Serve has returned.
func TestStopped(t *testing.T) {
	a, b := newNode(t, "a", nil, stagetest.Library{"film": stagetest.Film(1, 10)}), newNode(t, "b", nil)
	b.knows(a.peer())
	b.drain = 0
	src, err := b.Open(t.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	if _, err := b.Open(t.Context(), media.OpenRequest{Name: "film"}); err == nil {
		t.Error("it still opens")
	}
}
