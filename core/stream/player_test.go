package stream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mediad/mediad/core/media"
)

// expect compares what was sent with lines, which may be indented.
func expect(t *testing.T, v *screen, want string) {
	t.Helper()
	got := v.said()
	want = strings.ReplaceAll(strings.TrimSpace(want), "\t", "")
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if v.wrong != "" {
		t.Error(v.wrong)
	}
}

// in runs f with a running stage in a bubble where time is made.
func in(t *testing.T, f func(t *testing.T, h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		f(t, h)
		h.close(t)
	})
}

func TestPlayRecorded(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Play(ask("film"))
		expect(t, v, `
			event Recorded
			event Begin
			status Play.Reset
			status Play.Start
			access
			timeline 0s
			video key 0s to 950ms
			video key 1s to 1.95s
			video key 2s to 2.95s
			video key 3s to 3.95s
			video key 4s to 4.95s`)
		time.Sleep(time.Second)
		expect(t, v, `video key 5s to 5.95s`)
		time.Sleep(time.Hour)
		expect(t, v, `
			video key 6s to 6.95s
			video key 7s to 7.95s
			video key 8s to 8.95s
			video key 9s to 9.95s
			event EOF
			complete 10s 1500 bytes
			status Play.Stop`)
		p.Close()
	})
}

// The client's time 0 of recorded media is the position it asked for, wherever the
// file's own time begins; what it gets from before that lies before 0.
func TestPlayFromPosition(t *testing.T) {
	for _, c := range []struct {
		name          string
		start, length time.Duration
		want          string
	}{
		{"odd", StartAny, -1, "video key 0s to 950ms"},
		{"odd", 0, -1, "video key 0s to 950ms"},
		{"odd", 3700 * ms, -1, "video key -700ms to 250ms"},
		{"odd", 3000 * ms, -1, "video key 0s to 950ms"},
		{"film", 3700 * ms, -1, "video key -700ms to 250ms"},
		{"film", 9 * time.Second, -1, "video key 0s to 950ms"},
		{"film", 2500 * ms, 700 * ms, "video key -500ms to 450ms\nvideo key 500ms to 650ms\nevent EOF\ncomplete 1.15s 180 bytes\nstatus Play.Stop"},
		{"film", 0, 0, "video key 0s\nevent EOF\ncomplete 0s 10 bytes\nstatus Play.Stop"},
		{"live", 500 * ms, 250 * ms, "video key 0s\naudio 50ms\nvideo 100ms\naudio 150ms\nvideo 200ms\nevent EOF\ncomplete 200ms 40 bytes\nstatus Play.Stop"},
		{"live", 1200 * ms, 0, "video key 0s\nevent EOF\ncomplete 0s 10 bytes\nstatus Play.Stop"},
	} {
		t.Run(fmt.Sprint(c.name, c.start, c.length), func(t *testing.T) {
			in(t, func(t *testing.T, h *house) {
				h.channels["live"].push(0, 2*time.Second)
				p, v := h.watch()
				p.Buffer(0)
				p.Play(Request{Name: c.name, Start: c.start, Length: c.length})
				synctest.Wait()
				_, got, _ := strings.Cut(v.said(), "timeline ")
				_, got, _ = strings.Cut(got, "\n")
				if !strings.HasPrefix(got, c.want) {
					t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
				}
				p.Close()
			})
		})
	}
}

func TestPlayLive(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		c := h.channels["live"]
		c.push(0, 1200*ms)
		p, v := h.watch()
		p.Play(ask("live"))
		expect(t, v, `
			event Begin
			status Play.Reset
			status Play.Start
			access
			timeline 1s
			video key 0s
			audio 50ms
			video 100ms
			audio 150ms`)
		c.push(1200*ms, 1300*ms)
		expect(t, v, `
			video 200ms
			audio 250ms`)

		c.update(func() { c.skip++ })
		c.push(6*time.Second, 6100*ms)
		expect(t, v, `
			timeline 1s
			video key 5s
			audio 5.05s`)

		p.Pause(true, 5*time.Second)
		c.push(6100*ms, 9*time.Second)
		expect(t, v, `
			status Pause.Notify
			event EOF`)
		c.push(9*time.Second, 9100*ms)
		p.Pause(false, 5*time.Second)
		expect(t, v, `
			event Begin
			status Unpause.Notify
			timeline 1s
			video key 8s
			audio 8.05s`)

		c.end()
		expect(t, v, `
			event EOF
			status Play.UnpublishNotify`)
		p.Close()
		if n := testutil.ToFloat64(h.stage.metrics.skips); n != 1 {
			t.Errorf("%v skips are counted, want 1", n)
		}
	})
}

// The client's time goes on when a publisher's has begun anew in a pause.
func TestLiveBeginsAnew(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		c := h.channels["live"]
		c.push(time.Hour, time.Hour+200*ms)
		p, v := h.watch()
		p.Play(ask("live"))
		synctest.Wait()
		p.Pause(true, 0)
		v.said()
		c.update(func() { c.frames = nil })
		v.floor = media.None // these frames are from before
		c.push(0, 100*ms)
		p.Pause(false, 0)
		expect(t, v, `
			event Begin
			status Unpause.Notify
			timeline -150ms
			video key 150ms
			audio 200ms`) // the last one before had 150ms
		p.Close()
	})
}

// A skip in the midst of what is at hand begins a write of its own.
func TestSkipAtHand(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := bring(t, h, "live", ready)
		s := &jumpy{at: 2}
		for i := range 4 {
			s.batches = append(s.batches, media.NewBatch(header, media.NoClock, video(time.Duration(i)*time.Second, true)))
		}
		fire(p, event{kind: play, req: &Request{Name: "later", Length: -1}})
		p.abandon()
		p.handle(event{kind: opened, open: result{source: s}})
		v.said()
		p.work()
		p.work()
		expect(t, v, "timeline 0s\nvideo key 0s\nvideo key 1s\ntimeline 0s\nvideo key 2s\nvideo key 3s")
		p.leave()
	})
}

// jumpy is live media that are all at hand, with a skip.
type jumpy struct {
	batches []*media.Batch
	at      int // before this batch
	next    int
}

func (s *jumpy) Info() media.Info { return media.Info{Live: true} }
func (s *jumpy) Buffered() int    { return len(s.batches) - s.next }
func (s *jumpy) Close() error     { return nil }

func (s *jumpy) Skips() int {
	if s.next > s.at {
		return 1
	}
	return 0
}

func (s *jumpy) Next(context.Context) (*media.Batch, error) {
	s.next++
	return s.batches[s.next-1], nil
}

// What is at hand is sent in one call, up to a bound.
func TestOneWrite(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		c := h.channels["live"]
		c.push(0, 100*ms)
		v := newScreen()
		w := &counting{screen: v}
		p := h.newPlayer(w)
		p.Play(ask("live"))
		synctest.Wait()
		w.writes = 0
		c.push(100*ms, 2*time.Second)
		synctest.Wait()
		if w.writes != 1 {
			t.Errorf("38 frames took %d writes, want 1", w.writes)
		}
		w.writes = 0
		c.update(func() {
			for i := range 8 {
				f := video(time.Duration(20+i)*100*ms, false)
				f.Body = make([]byte, maxWrite/4)
				c.frames = append(c.frames, media.NewBatch(header, media.NoClock, f))
			}
		})
		synctest.Wait()
		if w.writes != 2 {
			t.Errorf("twice the bound took %d writes, want 2", w.writes)
		}
		p.Close()
	})
}

type counting struct {
	*screen
	writes int
}

func (c *counting) Write(b []*media.Batch) error {
	c.writes++
	return c.screen.Write(b)
}

// A viewer who comes first waits, and what it sends meanwhile is not lost.
func TestT46_PlayBeforePublisher(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		h.channels["later"] = newChannel()
		p, v := h.watch()
		p.Play(ask("live"))
		p.Buffer(time.Second)
		p.Pause(true, 0)
		expect(t, v, "")
		h.channels["live"].push(0, 200*ms)
		expect(t, v, `
			event Begin
			status Play.Reset
			status Play.Start
			access
			status Pause.Notify
			event EOF`)

		p.Play(ask("later"))
		time.Sleep(9 * time.Second)
		expect(t, v, "")
		p.Play(ask("film")) // another play ends the wait
		if got := v.statuses(); got != "status Play.Reset\nstatus Play.Start" {
			t.Errorf("got %s", got)
		}
		p.Play(ask("later"))
		time.Sleep(11 * time.Second)
		expect(t, v, "error Play.StreamNotFound")
		p.Play(ask("later"))
		synctest.Wait()
		p.Close() // does not wait for a publisher
	})
}

// librtmp asks for a start of 0 when it is not told that a stream is live.
func TestStarts(t *testing.T) {
	for _, c := range []struct {
		name  string
		start time.Duration
		want  string // "" when it is not found
	}{
		{"live", StartAny, "timeline 4s"},
		{"live", StartLive, "timeline 4s"},
		{"live", 0, "timeline 4s"},
		{"live", 2500 * ms, "timeline 2s"},
		{"film", StartLive, ""},
		{"none", StartAny, ""},
		{"none", 0, ""},
	} {
		t.Run(fmt.Sprint(c.name, c.start), func(t *testing.T) {
			in(t, func(t *testing.T, h *house) {
				h.channels["live"].push(0, 5*time.Second)
				p, v := h.watch()
				p.Play(Request{Name: c.name, Start: c.start, Length: -1})
				got := v.said()
				if c.want == "" && got != "error Play.StreamNotFound" || !strings.Contains(got, c.want) {
					t.Errorf("got:\n%s\nwant %q in it", got, c.want)
				}
				p.Close()
			})
		})
	}
}

func TestPauseRecorded(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Play(ask("odd"))
		if !strings.HasSuffix(v.said(), "status Play.Stop") {
			t.Fatal("the film is longer than the client's buffer")
		}
		p.Pause(true, 1230*ms) // the client is still playing
		expect(t, v, `
			status Pause.Notify
			event EOF`)
		if h.open != 0 {
			t.Error("a paused player keeps its source open")
		}
		time.Sleep(time.Hour)
		p.Pause(false, 1230*ms)
		expect(t, v, `
			event Begin
			status Unpause.Notify
			timeline 1h0m0s
			audio 1.25s to 1.95s
			video key 2s to 2.95s
			video key 3s to 3.95s
			video key 4s to 4.95s
			event EOF
			complete 5s 560 bytes
			status Play.Stop`)
		p.Close()
	})
}

// A client that has thrown nothing away (ffmpeg sends the time of the last frame
// that it got) goes on without a frame missing or sent twice.
func TestPauseAndGoOn(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Buffer(time.Second)
		p.Play(ask("film"))
		for range 5 {
			time.Sleep(1500 * ms)
			sent := v.frames()
			at := sent[len(sent)-1].client
			p.Pause(true, at)
			time.Sleep(time.Minute)
			p.Pause(false, at)
		}
		time.Sleep(time.Minute)
		if n := len(v.frames()); n != 200 {
			t.Errorf("%d frames were sent, the film has 200", n)
		}
		for i, f := range v.frames() {
			if want := time.Duration(i) * 50 * ms; f.client != want {
				t.Fatalf("frame %d has the time %v, want %v", i, f.client, want)
			}
		}
		p.Close()
	})
}

// A client that pauses before it was given anything is still where it was.
func TestPauseTwice(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Play(ask("film"))
		v.said() // up to 5 s is sent
		p.Pause(true, 1230*ms)
		v.said()
		h.set(time.Second, nil)
		p.Pause(false, 1230*ms)
		synctest.Wait()
		p.Pause(true, 0)
		time.Sleep(2 * time.Second)
		p.Pause(false, 3*time.Second)
		time.Sleep(2 * time.Second)
		if got := v.said(); !strings.Contains(got, "\ntimeline 0s\naudio 1.25s to 1.95s\nvideo key 2s") {
			t.Errorf("got:\n%s", got)
		}
		p.Close()
	})
}

func TestSeekRecorded(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Buffer(0)
		p.Seek(0)
		expect(t, v, "status Seek.Failed")
		p.Play(ask("odd"))
		v.said()
		p.Seek(3300 * ms)
		expect(t, v, `
			event EOF
			status Seek.Notify
			event Begin
			status Play.Start
			timeline 1h0m0s
			video key 3s to 3.95s
			video key 4s to 4.95s
			event EOF
			complete 5s 600 bytes
			status Play.Stop`)
		p.Seek(4900 * ms) // after the end
		expect(t, v, `
			status Seek.Notify
			event Begin
			status Play.Start
			timeline 1h0m0s
			video key 4s to 4.95s
			event EOF
			complete 5s 150 bytes
			status Play.Stop`)
		p.Close()
	})
}

// A seek counts from the start of the file, also when play began in its midst.
func TestSeekAfterStart(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Buffer(0)
		p.Play(Request{Name: "odd", Start: 3 * time.Second, Length: -1})
		v.said()
		p.Seek(4 * time.Second)
		if got := v.said(); !strings.Contains(got, "timeline 1h0m3s\nvideo key 1s to 1.95s\n") {
			t.Errorf("forward:\n%s", got)
		}
		p.Seek(2 * time.Second)
		if got := v.said(); !strings.Contains(got, "timeline 1h0m2s\nvideo key 0s to 950ms\n") {
			t.Errorf("to before the start:\n%s", got)
		}
		p.Seek(5100 * ms)
		if got := v.said(); got != "status Seek.InvalidTime" {
			t.Errorf("beyond the end:\n%s", got)
		}
		p.Close()
	})
}

// A paused client that seeks is shown the picture there, and stays paused.
func TestSeekPaused(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Buffer(0)
		p.Play(ask("film"))
		p.Pause(true, 0)
		v.said()
		p.Seek(7700 * ms)
		expect(t, v, `
			status Seek.Notify
			event Begin
			timeline 0s
			video key 7s
			event EOF`)
		time.Sleep(time.Hour)
		expect(t, v, "")
		p.Pause(false, 7700*ms)
		expect(t, v, `
			event Begin
			status Unpause.Notify
			timeline 0s
			audio 7.05s to 7.95s
			video key 8s to 8.95s`)
		p.Close()
	})
}

// A seek that fails leaves what is played alone.
func TestSeekFails(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Play(ask("film"))
		v.said()
		p.Seek(11 * time.Second)
		expect(t, v, "status Seek.InvalidTime")
		h.set(0, media.ErrUnavailable)
		p.Seek(8 * time.Second)
		expect(t, v, "status Seek.Failed")
		time.Sleep(time.Second)
		expect(t, v, "video key 5s to 5.95s")
		p.Pause(true, 0)
		p.Seek(8 * time.Second)
		expect(t, v, `
			status Pause.Notify
			event EOF
			status Seek.Failed`)
		h.set(0, nil)
		p.Pause(false, time.Second)
		if got := v.statuses(); got != "status Unpause.Notify" {
			t.Errorf("got %s", got)
		}
		p.Close()
	})
}

func TestSeekLive(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		c := h.channels["live"]
		c.push(0, 3*time.Second)
		p, v := h.watch()
		p.Play(ask("live"))
		v.said()
		c.push(3*time.Second, 5100*ms)
		v.said()
		p.Seek(1500 * ms) // the client joined at 2 s
		got := v.said()
		if want := "timeline 2s\nvideo key 1s\n"; !strings.Contains(got, want) {
			t.Errorf("got:\n%s\nwant in it:\n%s", got, want)
		}
		p.Pause(true, 0)
		v.said()
		p.Seek(-2 * time.Second) // to before it joined
		expect(t, v, `
			status Seek.Notify
			event Begin
			timeline 0s
			video key 0s
			event EOF`)
		p.Pause(false, 0) // goes on from there, and not live
		got = v.said()
		if want := "Unpause.Notify\ntimeline 0s\naudio 50ms\n"; !strings.Contains(got, want) {
			t.Errorf("got:\n%s\nwant in it:\n%s", got, want)
		}
		p.Seek(time.Hour)
		got = v.said()
		if want := "timeline 0s\nvideo key 5s\n"; !strings.Contains(got, want) {
			t.Errorf("got:\n%s\nwant in it:\n%s", got, want)
		}
		p.Close()
	})
}

// Fifty seeks and pauses on one connection: each leads to its keyframe.
func TestFiftySeeks(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Play(ask("odd"))
		for i := range 50 {
			time.Sleep(time.Duration(i*37%400) * ms)
			to := time.Duration(i*977%5000) * ms
			before := len(v.frames())
			if i%3 == 0 {
				p.Pause(true, 0)
			}
			p.Seek(to)
			sent := v.frames()
			if len(sent) == before {
				t.Fatalf("seek %d to %v: nothing was sent", i, to)
			}
			first := sent[before]
			if want := to.Truncate(time.Second); !first.Key || first.client != want {
				t.Errorf("seek %d to %v led to %v (key %v), want %v", i, to, first.client, first.Key, want)
			}
			if i%3 == 0 {
				p.Pause(false, to)
			}
		}
		p.Close()
	})
}

// Of seeks that come while one is under way, only the last matters.
func TestScrubbing(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Play(ask("film"))
		v.said()
		h.set(time.Second, nil)
		opens := h.opens
		for i := range 9 {
			p.Seek(time.Duration(i) * time.Second)
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := h.opens - opens; got != 2 {
			t.Errorf("9 seeks opened the media %d times, want 2", got)
		}
		if got := v.said(); !strings.Contains(got, "timeline 0s\nvideo key 8s") {
			t.Errorf("got:\n%s", got)
		}
		p.Close()
	})
}

// What was meant for one play is not done to the next.
func TestPlayInstead(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		h.set(time.Second, nil)
		p, v := h.watch()
		p.Play(ask("film"))
		p.Seek(5 * time.Second)
		p.Pause(true, 0)
		p.Play(Request{Name: "film", Length: -1, Append: true})
		p.Play(ask("odd"))
		time.Sleep(time.Hour)
		if got := v.statuses(); got != "status Play.Reset\nstatus Play.Start\nstatus Play.Stop" {
			t.Errorf("got:\n%s", got)
		}
		p.Close()
	})
}

func TestPlaylist(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Buffer(time.Hour)
		p.Play(Request{Name: "odd", Start: 4 * time.Second, Length: 500 * ms})
		p.Play(Request{Name: "odd", Start: 2 * time.Second, Length: 1200 * ms, Append: true})
		p.Play(Request{Name: "film", Start: 9 * time.Second, Length: -1, Append: true})
		expect(t, v, `
			event Recorded
			event Begin
			status Play.Reset
			status Play.Start
			access
			timeline 1h0m4s
			video key 0s to 450ms
			event EOF
			event Recorded
			event Begin
			status Play.Start
			access
			timeline 1h0m1.5s
			video key 500ms to 1.45s
			video key 1.5s to 1.65s
			event EOF
			event Recorded
			event Begin
			status Play.Start
			access
			timeline 7.3s
			video key 1.7s to 2.65s
			event EOF
			complete 10s 150 bytes
			status Play.Stop`)
		p.Seek(2 * time.Second)
		if got := v.said(); !strings.Contains(got, "timeline 7.3s\nvideo key 1.7s to 2.65s\n") {
			t.Errorf("a seek in a list:\n%s", got)
		}
		p.Seek(-2 * time.Second)
		if got := v.said(); !strings.Contains(got, "timeline 5s\nvideo key 0s to 950ms\n") {
			t.Errorf("a seek to before the list:\n%s", got)
		}
		p.Play(Request{Name: "film", Append: true}) // after the end
		if got := v.said(); !strings.Contains(got, "timeline -5s\nvideo key 5s\n") {
			t.Errorf("appended after the end:\n%s", got)
		}
		p.Play(Request{Name: "film"})
		if got := v.said(); !strings.Contains(got, "timeline 0s\nvideo key 0s\n") {
			t.Errorf("played instead of the list:\n%s", got)
		}
		p.Close()
	})
}

// Pacing keeps to the client's buffer, and follows when that changes.
func TestPacing(t *testing.T) {
	for _, c := range []struct {
		buffer time.Duration
		change time.Duration // after 2 s
		sent   []int         // GOPs after 0, 1, 2... seconds
	}{
		{3 * time.Second, 0, []int{5, 6, 7, 8, 9, 10, 10}},
		{0, 0, []int{2, 3, 4, 5, 6, 7, 8}},
		{time.Second, 6 * time.Second, []int{3, 4, 10}},
		{6 * time.Second, time.Second, []int{8, 9, 10}},
		{-time.Hour, 0, []int{2, 3, 4}},
		{1000 * time.Hour, 0, []int{10}},
	} {
		t.Run(c.buffer.String(), func(t *testing.T) {
			in(t, func(t *testing.T, h *house) {
				p, v := h.watch()
				p.Buffer(c.buffer)
				p.Play(ask("film"))
				for second, want := range c.sent {
					if second == 2 && c.change != 0 {
						p.Buffer(c.change)
					}
					if got := len(v.frames()) / 20; got != want {
						t.Errorf("after %d s %d GOPs are sent, want %d", second, got, want)
					}
					time.Sleep(time.Second)
				}
				p.Close()
			})
		})
	}
}

// Those who came at different times are sent what is due at the same.
func TestBeat(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		began := time.Now()
		var viewers []*screen
		for range 3 {
			p, v := h.watch()
			defer p.Close()
			p.Buffer(0)
			p.Play(ask("film"))
			viewers = append(viewers, v)
			time.Sleep(35 * ms)
		}
		sent := make([]int, len(viewers))
		for time.Since(began) < 4*time.Second {
			for i, v := range viewers {
				n := len(v.frames())
				if off := time.Since(began) % beat; n > sent[i] && sent[i] > 0 && off > ms {
					t.Errorf("viewer %d is sent something %v after a beat", i, off)
				}
				sent[i] = n
			}
			time.Sleep(ms)
		}
		if sent[2] < 5*20 {
			t.Errorf("%d frames are sent", sent)
		}
	})
}

// A client that starts within a GOP is as far ahead of its clock as another.
func TestPacingFromPosition(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Buffer(0)
		p.Play(Request{Name: "film", Start: 3950 * ms, Length: -1})
		expect(t, v, `
			event Recorded
			event Begin
			status Play.Reset
			status Play.Start
			access
			timeline 3.95s
			video key -950ms to 0s
			video key 50ms to 1s
			video key 1.05s to 2s`)
		p.Close()
	})
}

func TestFailures(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Buffer(0)
		h.films["film"].fail = map[int]error{2: errors.New("/secret/disk: input/output error")}
		p.Play(ask("film"))
		if got := v.statuses(); got != "status Play.Reset\nstatus Play.Start\nerror Play.Failed" {
			t.Errorf("got %s", got)
		}
		p.Play(Request{Name: "odd", Start: StartAny, Length: 4900 * ms})
		if got := v.statuses(); got != "status Play.Reset\nstatus Play.Start" {
			t.Errorf("after a failure: %s", got)
		}
		time.Sleep(2500 * ms)
		v.fail(errors.New("broken pipe")) // for the last of it
		time.Sleep(time.Minute)
		synctest.Wait()
		v.said()
		p.Play(ask("film"))
		expect(t, v, "")
		p.Close()
		for cause, want := range map[string]float64{"failed": 1, "left": 1} {
			if n := testutil.ToFloat64(h.stage.metrics.ends.WithLabelValues(cause)); n != want {
				t.Errorf("%v ends by %s are counted, want %v", n, cause, want)
			}
		}
	})
}

// What clients are told of errors does not give away how the server is made.
func TestExplainErrors(t *testing.T) {
	for _, c := range []struct {
		err         error
		cause, code string
	}{
		{media.ErrNotFound, "not_found", codeNotFound},
		{media.ErrDenied, "denied", codeFailed},
		{media.ErrUnavailable, "unavailable", codeFailed},
		{media.ErrChanged, "changed", codeFailed},
		{&media.RedirectError{URL: "rtmp://b/vod"}, "redirected", codeFailed},
		{errors.New("x"), "failed", codeFailed},
	} {
		cause, code, reason := describe(fmt.Errorf("open /secret: %w", c.err))
		if cause != c.cause || code != c.code || strings.Contains(reason, "secret") {
			t.Errorf("describe(%v) = %s, %s, %q; want %s, %s", c.err, cause, code, reason, c.cause, c.code)
		}
	}
}

// A viewer that stops reading is in nobody's way, and ends with its front.
func TestT43_StalledViewer(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		c := h.channels["live"]
		c.push(0, 100*ms)
		stuck, v := h.watch()
		v.stall = make(chan struct{})
		stuck.Play(ask("live"))
		other, w := h.watch()
		other.Play(ask("live"))
		synctest.Wait()
		c.push(100*ms, 10*time.Second)
		if n := len(w.frames()); n != 200 {
			t.Errorf("the other viewer has %d frames, want 200", n)
		}
		v.fail(fmt.Errorf("write: %w", os.ErrDeadlineExceeded))
		close(v.stall)
		stuck.Close()
		other.Close()
		if n := testutil.ToFloat64(h.stage.metrics.ends.WithLabelValues("slow")); n != 1 {
			t.Errorf("%v slow viewers are counted, want 1", n)
		}
	})
}

func TestReceive(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		p, v := h.watch()
		p.Receive(media.Audio, false)
		p.Play(Request{Name: "film", Length: 900 * ms})
		got := v.said()
		if !strings.HasPrefix(got, "receive audio false\n") || !strings.Contains(got, "complete 850ms 90 bytes") {
			t.Errorf("got:\n%s", got)
		}
		p.Close()
	})
}

// A client that can be sent elsewhere is, and is served until it goes. Another is served.
func TestRedirect(t *testing.T) {
	for _, follows := range []bool{true, false} {
		in(t, func(t *testing.T, h *house) {
			h.redirect = "//other/film"
			p, v := h.watch()
			r := ask("film")
			r.Redirects = follows
			p.Play(r)
			got := v.said()
			if strings.HasPrefix(got, "redirect //other/film\n") != follows || !strings.Contains(got, "status Play.Start") {
				t.Errorf("follows %v, got:\n%s", follows, got)
			}
			p.Close()
		})
	}
}

// A client that has paused live media hears that they have ended.
func TestPausedLiveEnds(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		c := h.channels["live"]
		c.push(0, time.Second)
		p, v := h.watch()
		p.Play(ask("live"))
		p.Pause(true, 0)
		v.said()
		c.push(time.Second, 3*time.Second)
		if got := v.said(); got != "" {
			t.Errorf("while it is paused:\n%s", got)
		}
		c.end()
		expect(t, v, `
			event EOF
			status Play.UnpublishNotify`)
		p.Close()
	})
}

// A client that has paused live media that end with more in the list gets nothing of
// what comes next until it goes on.
func TestLive_EndsWhilePausedInAList(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		c := h.channels["live"]
		c.push(0, time.Second)
		p, v := h.watch()
		p.Play(Request{Name: "live", Start: StartLive, Length: -1})
		p.Play(Request{Name: "film", Length: -1, Append: true})
		p.Pause(true, 0)
		v.said()
		c.end()
		synctest.Wait()
		if got := v.said(); strings.Contains(got, "video") || !strings.Contains(got, "status Pause.Notify") {
			t.Errorf("while it is paused:\n%s", got)
		}
		p.Pause(false, 0)
		if got := v.said(); !strings.Contains(got, "status Unpause.Notify") || !strings.Contains(got, "video key") {
			t.Errorf("when it goes on:\n%s", got)
		}
		p.Close()
	})
}
