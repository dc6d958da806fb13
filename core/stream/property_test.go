package stream

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mediad/mediad/core/media"
)

// Whatever clients, publishers and the clock do in whatever order: after each
// event the player is in a state of the table and has what belongs to it, frames
// come only between Begin and EOF and start with a keyframe, after a seek with
// the right one, none is from before the last seek, and the end waits for nothing.
func FuzzPlayer(f *testing.F) {
	for seed := range uint64(300) {
		r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
		ops := make([]byte, 120)
		_, _ = r.Read(ops)
		f.Add(ops)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		in(t, func(t *testing.T, h *house) { live(t, h, ops) })
	})
}

// live does what ops say, two bytes for each thing.
func live(t *testing.T, h *house, ops []byte) {
	c := h.channels["live"]
	pushed := time.Duration(0)
	p, v := h.checked(t)
	for ; len(ops) >= 2; ops = ops[2:] {
		op, arg := ops[0], ops[1]
		at := time.Duration(arg) * 50 * ms
		switch op % 16 {
		case 0, 1:
			p.Play(Request{
				Name:   []string{"film", "odd", "live", "none"}[arg%4],
				Start:  []time.Duration{StartAny, StartLive, 0, 3500 * ms}[arg/4%4],
				Length: []time.Duration{-1, -1, 0, 2500 * ms}[arg/16%4],
				Append: arg >= 128,
			})
		case 2, 3:
			p.Pause(true, at)
		case 4, 5:
			p.Pause(false, at)
		case 6, 7:
			p.Seek(at - time.Second)
		case 8:
			p.Buffer(at)
		case 9:
			p.Receive(media.Audio, arg%2 == 0)
		case 10:
			time.Sleep(at)
		case 11:
			c.push(pushed, pushed+time.Second)
			pushed += time.Second
		case 12:
			h.set(at/4, nil)
		case 13:
			c.update(func() { c.skip++ })
		case 14:
			if arg < 4 {
				c.end()
			}
		case 15:
			if arg < 4 {
				h.stop()
			}
		}
		if op >= 128 {
			synctest.Wait()
		}
	}
	synctest.Wait()
	began := time.Now()
	p.Close()
	if took := time.Since(began); took != 0 {
		t.Errorf("Close took %v", took)
	}
	if v.wrong != "" {
		t.Error(v.wrong)
	}
}

// checked is watch with a player that is looked at after each event.
func (h *house) checked(t *testing.T) (Player, *screen) {
	v := newScreen()
	p := newPlayer(h.stage, v)
	h.stage.mu.Lock()
	h.stage.players[p] = struct{}{}
	h.stage.mu.Unlock()
	go func() {
		defer close(p.done)
		for p.ctx.Err() == nil {
			e := p.next()
			if e.kind == opened {
				v.aim = aim(p, e.open)
			}
			p.handle(e)
			check(t, p)
		}
		p.leave()
	}()
	return p, v
}

// aim is the keyframe that a seek has to lead to.
func aim(p *player, r result) time.Duration {
	info := r.source.Info()
	if r.purpose != toSeek || info.Live {
		return media.None
	}
	return min(p.target.Truncate(time.Second), info.Start+info.Duration-time.Second)
}
