package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// prompt is a screen that can be written to without waiting. Of every so many
// calls one takes nothing.
type prompt struct {
	*screen
	tries, writes int
	refuse        int
	left          []*media.Batch
}

func (v *prompt) Try(batches []*media.Batch) (bool, error) {
	if v.tries++; v.refuse > 0 && v.tries%v.refuse == 0 {
		v.left = slices.Clone(batches)
		return false, nil
	}
	return true, v.screen.Write(batches)
}

func (v *prompt) Write(batches []*media.Batch) error {
	v.writes++
	left := v.left
	v.left = nil
	return v.screen.Write(append(left, batches...))
}

// onAir runs f with a broadcast of "show" and a stage that plays it.
func onAir(t *testing.T, l Latency, f func(t *testing.T, sink media.Sink, watch func(Viewer) Player)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, err := broadcast.New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()},
			broadcast.Settings{Window: 10 * time.Second, Memory: 1 << 20, Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		front := &door{}
		s, err := Kind(front, nil).New(stage.Env{
			Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry(), Drain: 10 * time.Second,
			Inputs: []stage.Input{{Name: "broadcast", Reader: b}},
		}, &settings{App: "live", Serve: []Form{RTMP}, Latency: l})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Serve(ctx) }()
		sink, err := b.Create(ctx, media.CreateRequest{Name: "show"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		f(t, sink, func(v Viewer) Player { return front.newPlayer(v) })
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// broadcastSeconds writes seconds of frames at their times.
func broadcastSeconds(t *testing.T, sink media.Sink, seconds int) (sent []media.Frame) {
	t.Helper()
	b := media.NewBuilder(media.NoClock)
	for i := range seconds * 50 {
		f := audio(time.Duration(i) * 20 * ms)
		if i%2 == 0 {
			f = video(time.Duration(i)*20*ms, i%100 == 0)
		}
		b.Copy(f)
		if err := sink.Write(t.Context(), b.Batch(header)); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, f)
		time.Sleep(20 * ms)
	}
	return sent
}

// Everybody gets every frame, in order and in time, however frames are held back
// and whoever is slow, in at most as many writes as there is time for.
func TestRound(t *testing.T) {
	for _, latency := range []Latency{Auto, 0, Latency(100 * ms), Latency(350 * ms)} {
		t.Run(latency.String(), func(t *testing.T) {
			onAir(t, latency, func(t *testing.T, sink media.Sink, watch func(Viewer) Player) {
				viewers, players := make([]*prompt, 200), make([]Player, 200)
				for i := range viewers {
					viewers[i] = &prompt{screen: newScreen()}
					if i%10 == 0 {
						viewers[i].refuse = 3
					}
					players[i] = watch(viewers[i])
					players[i].Play(Request{App: "live", Name: "show", Start: StartAny, Length: -1})
				}
				sent := broadcastSeconds(t, sink, 5)
				if err := sink.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(400 * ms) // the last are held back as well
				synctest.Wait()
				for i, v := range viewers {
					complete(t, fmt.Sprint("viewer ", i), v.screen, sent, max(0, time.Duration(latency)))
					if latency > 0 && v.refuse == 0 && v.tries*int(latency) > int(5500*ms) {
						t.Errorf("viewer %d: %d writes in 5 s", i, v.tries)
					}
					players[i].Close()
				}
			})
		})
	}
}

func complete(t *testing.T, who string, v *screen, sent []media.Frame, latency time.Duration) {
	t.Helper()
	got := v.frames()
	if v.wrong != "" {
		t.Fatalf("%s: %s", who, v.wrong)
	}
	if len(got) != len(sent) {
		t.Fatalf("%s has %d frames of %d", who, len(got), len(sent))
	}
	began := got[0].at.Add(-got[0].DTS)
	for i, f := range got {
		if f.Track != sent[i].Track || f.DTS != sent[i].DTS || f.Key != sent[i].Key {
			t.Fatalf("%s: frame %d is %v %v, want %v %v", who, i, f.Track, f.DTS, sent[i].Track, sent[i].DTS)
		}
		if late := f.at.Sub(began) - f.DTS; late > latency {
			t.Fatalf("%s: frame %d is %v late", who, i, late)
		}
	}
}

// Who boards while frames are held back for others, or leaves then, misses nothing and
// gets nothing twice, and is known to have been sent what it was.
func TestRoundComeAndGo(t *testing.T) {
	onAir(t, Latency(100*ms), func(t *testing.T, sink media.Sink, watch func(Viewer) Player) {
		viewers, players := make([]*prompt, 60), make([]Player, 60)
		var coming sync.WaitGroup
		for i := range viewers {
			viewers[i] = &prompt{screen: newScreen(), refuse: 2 + i%5}
			coming.Go(func() {
				time.Sleep(time.Duration(i) * 37 * ms)
				players[i] = watch(viewers[i])
				players[i].Play(Request{App: "live", Name: "show", Start: StartAny, Length: -1})
				time.Sleep(time.Second + time.Duration(i)*7*ms)
				if i%3 == 0 {
					players[i].Close()
				}
			})
		}
		sent := broadcastSeconds(t, sink, 5)
		coming.Wait()
		if err := sink.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(400 * ms)
		for i, v := range viewers {
			players[i].Close()
			got, bytes := v.frames(), 0
			from := slices.IndexFunc(sent, func(f media.Frame) bool { return f.DTS == got[0].DTS && f.Track == got[0].Track })
			if from < 0 || !sent[from].Key || v.tries == 0 || i%3 != 0 && from+len(got) != len(sent) {
				t.Fatalf("viewer %d: %d frames from number %d on, in %d rounds", i, len(got), from, v.tries)
			}
			for j, f := range got {
				bytes += len(f.Body)
				if want := sent[from+j]; f.Track != want.Track || f.DTS != want.DTS {
					t.Fatalf("viewer %d: frame %d is %v %v, want %v %v", i, j, f.Track, f.DTS, want.Track, want.DTS)
				}
			}
			if p := players[i].(*player); p.bytes < bytes || i%3 != 0 && p.bytes != bytes {
				t.Errorf("viewer %d was sent %d bytes, %d are counted", i, bytes, p.bytes)
			}
		}
	})
}

// A viewer can do anything in a round that it can do outside of it.
func TestRoundEvents(t *testing.T) {
	onAir(t, Auto, func(t *testing.T, sink media.Sink, watch func(Viewer) Player) {
		v := &prompt{screen: newScreen()}
		p := watch(v)
		p.Play(Request{App: "live", Name: "show", Start: StartAny, Length: -1})
		broadcastSeconds(t, sink, 1)
		p.Receive(media.Audio, false)
		p.Pause(true, 0)
		synctest.Wait()
		if v.tries == 0 {
			t.Error("the viewer was in no round")
		}
		p.Pause(false, 0)
		if n := len(v.frames()); n != 100 { // again from the newest keyframe
			t.Errorf("%d frames after the pause, want 100", n)
		}
		for _, line := range []string{"receive audio false", "status Pause.Notify", "status Unpause.Notify"} {
			if !slices.Contains(v.lines, line) {
				t.Errorf("%q is missing", line)
			}
		}
		p.Close()
	})
}

// Viewers are told once that nothing comes, and go on when something does.
func TestDry(t *testing.T) {
	onAir(t, Auto, func(t *testing.T, sink media.Sink, watch func(Viewer) Player) {
		v := &prompt{screen: newScreen()}
		p := watch(v)
		p.Play(Request{App: "live", Name: "show", Start: StartAny, Length: -1})
		broadcastSeconds(t, sink, 1)
		time.Sleep(time.Minute)
		if n := strings.Count(v.said(), "event Dry"); n != 1 {
			t.Errorf("Dry was said %d times in a minute, want once", n)
		}
		tries := v.tries
		broadcastSeconds(t, sink, 1)
		if n := len(v.frames()); n != 100 || v.tries == tries {
			t.Errorf("%d frames, want 100; %d of them in a round", n, v.tries-tries)
		}
		p.Close()
	})
}

// counter is a screen that cannot be written to without waiting.
type counter struct {
	*screen
	writes int
}

func (v *counter) Write(batches []*media.Batch) error {
	v.writes++
	return v.screen.Write(batches)
}

// Who is in no round is sent several frames at once as well.
func TestLatencyAlone(t *testing.T) {
	onAir(t, Latency(100*ms), func(t *testing.T, sink media.Sink, watch func(Viewer) Player) {
		v := &counter{screen: newScreen()}
		p := watch(v)
		p.Play(Request{App: "live", Name: "show", Start: StartAny, Length: -1})
		sent := broadcastSeconds(t, sink, 5)
		time.Sleep(time.Second)
		complete(t, "the viewer", v.screen, sent, 100*ms)
		if v.writes > 55 {
			t.Errorf("%d writes in 5 s", v.writes)
		}
		p.Close()
	})
}

func TestMerge(t *testing.T) {
	var batches []*media.Batch
	b := media.NewBuilder(media.NoClock)
	add := func(h *media.Header, f media.Frame) {
		b.Copy(f)
		batches = append(batches, b.Batch(h))
	}
	add(header, video(0, true))
	add(header, audio(10*ms))
	add(header, video(40*ms, false))
	add(header, video(80*ms, true)) // keyframes come first
	add(header, audio(90*ms))
	other := *header
	add(&other, audio(110*ms))          // another header
	b = media.NewBuilder(media.NoClock) // another publisher
	add(&other, audio(500*ms))
	r := &round{}
	var got []int
	var frames []time.Duration
	for _, m := range r.merge(batches) {
		got = append(got, len(m.Frames()))
		for _, f := range m.Frames() {
			frames = append(frames, f.DTS/ms)
		}
	}
	if want := []int{3, 2, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("batches of %v frames, want %v", got, want)
	}
	if want := []time.Duration{0, 10, 40, 80, 90, 110, 500}; !slices.Equal(frames, want) {
		t.Errorf("frames at %v, want %v", frames, want)
	}
	if first := r.merge(batches)[0]; first != r.merged[0] || r.merge(slices.Clone(batches))[0] != first {
		t.Error("the same batches are merged again")
	}
}

func TestLatency(t *testing.T) {
	for text, want := range map[string]Latency{"auto": Auto, "0s": 0, "100ms": Latency(100 * ms), "1s": Latency(time.Second)} {
		var l Latency
		if err := l.UnmarshalText([]byte(text)); err != nil || l != want || l.String() != text {
			t.Errorf("%s: %v, %v", text, l, err)
		}
	}
	for _, text := range []string{"-1s", "2s", "soon"} {
		if err := new(Latency).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
	if few, many := Auto.hold(50*time.Microsecond), Auto.hold(20*ms); few > ms || many != longestHold {
		t.Errorf("few viewers wait %v, many %v", few, many)
	}
}
