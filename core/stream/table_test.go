package stream

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mediad/mediad/core/media"
)

// What a player has in a state.
var has = [numStates]struct{ on, source, opening bool }{
	ready:   {},
	waiting: {on: true, opening: true},
	playing: {on: true, source: true},
	paused:  {on: true},
	seeking: {on: true, source: true, opening: true},
	held:    {on: true, opening: true},
	stopped: {},
}

func check(t *testing.T, p *player) {
	t.Helper()
	is := has[p.state]
	is.on, is.source, is.opening = p.on, p.source != nil, p.opening != nil
	if p.info.Live && (p.state == paused || p.state == held || p.state == waiting) {
		is.source = false // live media keep theirs in a pause
	}
	if is != has[p.state] {
		t.Errorf("in state %v: %+v, want %+v", p.state, is, has[p.state])
	}
}

// bring makes a player, without its goroutine, that plays name and is in state to.
func bring(t *testing.T, h *house, name string, to state) (*player, *screen) {
	t.Helper()
	v := newScreen()
	p := newPlayer(h.stage, v)
	t.Cleanup(v.leave)
	r := ask(name)
	path := map[state][]kind{
		ready:   {},
		waiting: {play},
		playing: {play, opened},
		paused:  {play, opened, pause},
		seeking: {play, opened, seek},
		held:    {play, opened, pause, seek},
		stopped: {play, opened, ended},
	}[to]
	for _, k := range path {
		fire(p, event{kind: k, req: &r})
		check(t, p)
	}
	if p.state != to {
		t.Fatalf("the player is %v, want %v", p.state, to)
	}
	v.said()
	return p, v
}

// fire gives p an event, and what an event of an opening stands for.
func fire(p *player, e event) {
	switch {
	case e.kind == opened && p.opening != nil:
		e = p.arrived(<-p.opening.done)
	case e.kind == refused && p.opening != nil:
		p.abandon()
	}
	p.handle(e)
}

// Every cell of the table is walked, for recorded and for live media: it leads to
// the state that it names, with what a player has there; one that is empty does
// nothing at all; and from everywhere the player can be ended.
func TestTable(t *testing.T) {
	for _, name := range []string{"film", "live"} {
		for from := range numStates {
			for k := range numKinds {
				t.Run(fmt.Sprintf("%s/%v/%v", name, from, k), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { cell(t, name, from, k) })
				})
			}
		}
	}
}

func cell(t *testing.T, name string, from state, k kind) {
	h := newHouse(t)
	defer h.close(t)
	h.channels["live"].push(0, 3*time.Second)
	p, v := bring(t, h, name, from)

	cell := table[from][k]
	r := ask(name)
	e := event{kind: k, at: time.Second, req: &r, err: errors.New("test")}
	switch {
	case k == turned: // only told apart from ended by the list
		p.list = []*Request{&r}
	case k == misseek && name == "film":
		e.kind, e.at = seek, time.Hour
	case k == pause && name == "live" && from == stopped:
		cell = step{} // there will be nothing to go on with
	case k == seek && name == "live" && from == stopped:
		cell = table[from][misseek]
	}
	if misplaced := p.opening == nil && (k == opened || k == refused); misplaced && cell.do != nil {
		t.Fatalf("%v has a step for %v, but nothing is being opened there", from, k)
	}
	fire(p, e)
	switch {
	case cell.do == nil && k == misseek && e.kind == seek && p.opening != nil:
		cell.next = from // it cannot be told yet, and is postponed
	case cell.do == nil:
		cell.next = from
		if said := v.said(); said != "" {
			t.Errorf("an empty cell said:\n%s", said)
		}
	}
	if p.state != cell.next {
		t.Errorf("the player is %v, want %v", p.state, cell.next)
	}
	check(t, p)
	p.cancel(errClosed)
	p.leave()
	if p.on || p.source != nil || p.opening != nil {
		t.Error("the player has something after its end")
	}
	if v.wrong != "" {
		t.Error(v.wrong)
	}
}

// The mailbox and the postponed events are bounded whatever a client sends.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.close(t)
		h.channels["live"].push(0, time.Second)
		for _, k := range []state{ready, waiting, playing, paused, seeking, held, stopped} {
			p, _ := bring(t, h, "live", k)
			r := ask("live")
			r.Append = true
			for i := range 10_000 {
				p.Play(r)
				p.Seek(time.Duration(i) * ms)
				p.Pause(i%2 == 0, 0)
				p.Buffer(time.Second)
				p.Receive(media.Audio, i%2 == 0)
				if i%50 == 0 {
					for e, ok := p.take(); ok && p.state == k; e, ok = p.take() {
						p.handle(e)
					}
				}
			}
			if len(p.inbox) > maxEvents || len(p.later) > maxEvents || len(p.list) > maxList {
				t.Errorf("%d events, %d postponed, %d plays are kept", len(p.inbox), len(p.later), len(p.list))
			}
			p.cancel(errClosed)
			p.leave()
		}
	})
}
