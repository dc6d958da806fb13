package stream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

func TestSettings(t *testing.T) {
	k := Kind(&door{}, nil)
	for _, values := range []map[string]any{{}, {"app": "../x"}, {"app": ""}} {
		var wrong *stage.SettingError
		if _, err := k.Decode(values); !errors.As(err, &wrong) || wrong.Setting != "app" {
			t.Errorf("Decode(%v): %v, want an error of app", values, err)
		}
	}
	if _, err := k.Decode(map[string]any{"app": "vod"}); err != nil {
		t.Error(err)
	}
}

// At the end of the stage live viewers are ended at once, those of recorded media
// go on and are ended at the limit, and nobody may begin to play.
func TestT71_Drain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.channels["later"] = newChannel()
		h.films["long"] = newFilm("long", 0, 100)
		h.channels["live"].push(0, time.Second)
		live, liveView := h.watch()
		live.Play(ask("live"))
		waits, waitsView := h.watch()
		waits.Play(ask("later"))
		film, filmView := h.watch()
		film.Buffer(0)
		film.Play(ask("film"))
		long, longView := h.watch()
		long.Play(ask("long"))
		paused, pausedView := h.watch()
		paused.Play(ask("film"))
		paused.Pause(true, 0)
		idle, _ := h.watch()
		synctest.Wait()
		for _, v := range []*screen{liveView, filmView, longView, pausedView} {
			v.said()
		}

		h.stop()
		began := time.Now()
		expect(t, liveView, `
			event EOF
			status Play.UnpublishNotify`)
		expect(t, waitsView, "error Play.Failed")
		expect(t, longView, "")
		live.Play(ask("film"))
		expect(t, liveView, "error Play.Failed")
		late, lateView := h.watch()
		late.Play(ask("film"))
		expect(t, lateView, "error Play.Failed")
		film.Seek(6 * time.Second)
		if got := filmView.statuses(); got != "status Seek.Notify\nstatus Play.Start" {
			t.Errorf("a seek while the stage drains: %s", got)
		}

		if err := <-h.done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 9*time.Second {
			t.Errorf("the stage took %v to stop, want 9s", took)
		}
		if got := filmView.statuses(); got != "status Play.Stop" {
			t.Errorf("the film ended with %s", got)
		}
		if got := longView.statuses(); got != "error Play.Failed" {
			t.Errorf("the long film ended with %s", got)
		}
		expect(t, pausedView, "error Play.Failed")
		if h.open != 0 {
			t.Errorf("%d sources are open", h.open)
		}
		if n := testutil.ToFloat64(h.stage.metrics.viewers); n != 0 {
			t.Errorf("%v viewers are counted after the end", n)
		}
		after, afterView := h.watch()
		after.Play(ask("film"))
		expect(t, afterView, "")
		for _, p := range []Player{live, waits, film, long, paused, idle, late, after} {
			p.Close()
		}
	})
}

// A stage where nobody is playing stops at once.
func TestDrainIdle(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Buffer(time.Hour)
		p.Play(ask("odd"))
		v.said()
		began := time.Now()
		h.stop()
		h.done <- <-h.done
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
		p.Close()
	})
}

// Who is thrown out is told so, whatever it is doing, and its connection is ended.
func TestKick(t *testing.T) {
	const left = "error Play.Failed\nleave: thrown out by who runs the server"
	for name, watch := range map[string]func(*house, Player){
		"film":  func(_ *house, p Player) { p.Play(ask("film")) },
		"live":  func(_ *house, p Player) { p.Play(ask("live")) },
		"later": func(_ *house, p Player) { p.Play(ask("later")) }, // it waits
		"paused": func(_ *house, p Player) {
			p.Play(ask("film"))
			p.Pause(true, time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, h *house) {
				h.channels["later"] = newChannel()
				h.films["long"] = newFilm("long", 0, 100)
				h.channels["live"].push(0, time.Second)
				p, v := h.watch()
				watch(h, p)
				other, otherView := h.watch()
				other.Play(ask("long"))
				v.said()
				if clients := h.stage.Clients(); len(clients) != 2 || !clients[0].Kickable {
					t.Fatalf("the clients are %+v", clients)
				}
				if n := h.stage.Kick(func(c access.Client) bool { return c.Name != "vod/long" }); n != 1 {
					t.Errorf("%d were thrown out", n)
				}
				expect(t, v, left)
				if clients := h.stage.Clients(); len(clients) != 1 {
					t.Errorf("left are %+v", clients)
				}
				if got := testutil.ToFloat64(h.stage.metrics.ends.WithLabelValues("kicked")); got != 1 {
					t.Errorf("%v are counted as thrown out", got)
				}
				otherView.said()
				time.Sleep(time.Second)
				if otherView.said() == "" {
					t.Error("the other viewer is sent nothing more")
				}
				p.Close()
				other.Close()
			})
		})
	}
	onAir(t, Auto, func(t *testing.T, sink media.Sink, watch func(Viewer) Player) {
		v := &prompt{screen: newScreen()}
		p := watch(v)
		p.Play(Request{App: "live", Name: "show", Start: StartAny, Length: -1})
		broadcastSeconds(t, sink, 1)
		v.said()
		if v.tries == 0 {
			t.Error("the viewer was in no round")
		}
		if n := p.(*player).stage.Kick(func(access.Client) bool { return true }); n != 1 {
			t.Errorf("%d were thrown out of the round", n)
		}
		expect(t, v.screen, left)
		p.Close()
	})
}

func TestServeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.close(t)
		other := *h.door
		s := &stream{app: "vod", serve: []Form{RTMP}, front: taken{other}}
		if err := s.Serve(context.Background()); !errors.Is(err, media.ErrBusy) {
			t.Errorf("Serve: %v, want ErrBusy", err)
		}
	})
}

type taken struct{ door }

func (taken) HandlePlay(string, func(Viewer) Player) (func(), error) { return nil, media.ErrBusy }

type priced struct {
	library
	err error
}

func (p *priced) Cost(context.Context, media.OpenRequest) (media.Cost, error) {
	return media.Cost{Place: "disk", Base: media.CostDisk}, p.err
}

func TestExplain(t *testing.T) {
	var _ media.Explainer = (*stream)(nil)
	plain := &stream{input: stage.Input{Name: "a/b", Reader: &library{}}}
	cost := &stream{input: stage.Input{Name: "a/b", Reader: &priced{}}}
	fails := &stream{input: stage.Input{Name: "a/b", Reader: &priced{err: media.ErrNotFound}}}
	asks := &stream{input: stage.Input{Name: "a/c", Reader: explainer{cost}}}
	for _, s := range []*stream{plain, cost, asks} {
		list, err := s.Explain(t.Context(), media.OpenRequest{Name: "film"})
		if err != nil || len(list) != 1 || !list[0].Chosen || list[0].Source != "a/b" {
			t.Errorf("Explain: %+v, %v", list, err)
		}
	}
	if _, err := fails.Explain(t.Context(), media.OpenRequest{}); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("Explain: %v, want ErrNotFound", err)
	}
}

type explainer struct{ *stream }

func (e explainer) Open(context.Context, media.OpenRequest) (media.Source, error) { return nil, nil }
