package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/e2e/lab"
)

func (d *daemon) dial(app string) *rtmp.Client {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	c, err := rtmp.Dial(ctx, d.URL(app))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	return c
}

// until reads messages until one is what is wanted, which is returned.
func until(t *testing.T, c *rtmp.Client, what string, wanted func(rtmp.Message) bool) rtmp.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		m, err := c.Next(ctx)
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		if wanted(m) {
			return m
		}
	}
}

func status(code string) func(rtmp.Message) bool {
	return func(m rtmp.Message) bool { return m.Kind == rtmp.KindStatus && m.Status.Code == code }
}

// coded is a video message that is no configuration.
func coded(m rtmp.Message) bool {
	if m.Kind != rtmp.KindMedia || m.Track != media.Video {
		return false
	}
	p, err := flv.ParsePacket(media.Video, m.Body)
	return err == nil && p.Kind == flv.Coded
}

func key(m rtmp.Message) bool {
	p, err := flv.ParsePacket(media.Video, m.Body)
	return err == nil && p.Key
}

// publisher publishes made-up H.264: a keyframe each 25 frames, whose bodies
// carry their number.
type publisher struct {
	t      *testing.T
	client *rtmp.Client
}

func (d *daemon) publisher(name string) *publisher {
	d.t.Helper()
	c := d.dial("live")
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Publish(ctx, name, "live"); err != nil {
		d.t.Fatal(err)
	}
	p := &publisher{d.t, c}
	p.write(0, []byte("\x17\x00\x00\x00\x00\x01\x64\x00\x1e\xff\xe1\x00\x00\x01\x00\x00"))
	return p
}

func (p *publisher) write(timestamp uint32, body []byte) {
	p.t.Helper()
	if err := p.client.WriteMessage(media.Video, timestamp, body); err != nil {
		p.t.Fatal(err)
	}
}

// frame sends the frame n, padded to a size.
func (p *publisher) frame(n int, timestamp uint32, size int) {
	p.t.Helper()
	head := "\x27\x01\x00\x00\x00"
	if n%25 == 0 {
		head = "\x17\x01\x00\x00\x00"
	}
	body := fmt.Appendf([]byte(head), "%08d", n)
	p.write(timestamp, append(body, make([]byte, size)...))
}

// number is the number of a frame that a publisher made.
func number(t *testing.T, m rtmp.Message) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(string(m.Body[5:13]), "%d", &n); err != nil {
		t.Fatalf("a frame with the body %.20q", m.Body)
	}
	return n
}

func TestFiftySeeksAndPauses(t *testing.T) {
	t.Parallel()
	d := start(t, onDemand)
	source := film(t, 30, "flv")
	d.shelve(source, "film.flv")
	start := packets(t, source, "video")[0].DTS
	c := d.dial("vod")
	if err := c.Play(t.Context(), "film", 0, -1, true); err != nil {
		t.Fatal(err)
	}
	until(t, c, "the first frame", coded)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range 50 {
		to := time.Duration(rng.IntN(29500)) * time.Millisecond
		paused := i%5 == 0
		if paused {
			if err := c.Pause(true, to); err != nil {
				t.Fatal(err)
			}
			until(t, c, "Pause.Notify", status("NetStream.Pause.Notify"))
		}
		if err := c.Seek(to); err != nil {
			t.Fatal(err)
		}
		until(t, c, "Seek.Notify", status("NetStream.Seek.Notify"))
		m := until(t, c, "a frame after the seek", coded)
		// The film has a keyframe each second, on its own timeline.
		want := uint32(to.Truncate(time.Second).Milliseconds())
		if !key(m) || m.Time != want {
			t.Fatalf("seek %d to %v: the first frame is at %d ms, key %v, want the keyframe at %d ms (the film starts at %d)", i, to, m.Time, key(m), want, start)
		}
		if paused {
			if err := c.Pause(false, to); err != nil {
				t.Fatal(err)
			}
			until(t, c, "Unpause.Notify", status("NetStream.Unpause.Notify"))
			// While it was paused the client got the keyframe alone.
			if m := until(t, c, "a frame after the pause", coded); m.Time != want+40 {
				t.Fatalf("pause %d: the first frame after it is at %d ms, want %d", i, m.Time, want+40)
			}
		}
	}
}

// TestTwoViewersCostOneRead compares what two viewers of one film cost with what
// one viewer of a copy of it does.
func TestTwoViewersCostOneRead(t *testing.T) {
	t.Parallel()
	d := start(t, onDemand)
	source := film(t, 30, "flv")
	watch := func(name string, viewers int) (read float64) {
		d.shelve(source, name+".flv")
		before := d.metric("mediad_reader_disk_read_bytes_total")
		var all sync.WaitGroup
		for range viewers {
			c := d.dial("vod")
			all.Go(func() {
				if err := c.Play(t.Context(), name, 0, -1, true); err != nil {
					t.Error(err)
				}
				if err := c.SetBuffer(time.Hour); err != nil { // as fast as it goes
					t.Error(err)
				}
				until(t, c, "the end", status("NetStream.Play.Stop"))
			})
		}
		all.Wait()
		return d.metric("mediad_reader_disk_read_bytes_total") - before
	}
	one, two := watch("first", 1), watch("second", 2)
	if two > 1.01*one {
		t.Errorf("two viewers cost %.0f bytes, one %.0f", two, one)
	}
	if size := fileSize(t, source); one > 2.2*size { // once for the index, as this film has none, and once for the frames
		t.Errorf("one viewer of a film of %.0f bytes cost %.0f", size, one)
	}
}

func TestT48_LateTimestamps(t *testing.T) {
	t.Parallel()
	d := start(t, live)
	for name, from := range map[string]uint32{
		"after 4 h 39 min":  16770000,   // passes 0xffffff at 16777215 ms
		"after 49 days":     4294962296, // wraps 5 s later
		"from 2^31 - 1 s":   1<<31 - 1000,
		"from a large time": 1<<32 - 1,
	} {
		name = strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "^", "")
		p := d.publisher(name)
		viewer := d.dial("live")
		p.frame(0, from, 100)
		d.onAir(name)
		if err := viewer.Play(t.Context(), name, stream.StartAny, -1, true); err != nil {
			t.Fatal(err)
		}
		first := until(t, viewer, "the first frame", coded)
		if number(t, first) != 0 || first.Time != 0 {
			t.Fatalf("%s: the first frame is number %d at %d ms", name, number(t, first), first.Time)
		}
		for n := 1; n <= 225; n++ { // 9 s, less than the window
			p.frame(n, from+uint32(n*40), 100)
		}
		for n := 1; n <= 225; n++ {
			m := until(t, viewer, "a frame", coded)
			if number(t, m) != n || m.Time != uint32(n*40) {
				t.Fatalf("%s: got frame %d at %d ms, want %d at %d", name, number(t, m), m.Time, n, n*40)
			}
		}
	}
}

func TestT54_HugeKeyframe(t *testing.T) {
	t.Parallel()
	d := start(t, live)
	p := d.publisher("huge")
	viewer := d.dial("live")
	p.frame(0, 0, 100)
	d.onAir("huge")
	if err := viewer.Play(t.Context(), "huge", stream.StartAny, -1, true); err != nil {
		t.Fatal(err)
	}
	until(t, viewer, "the first frame", coded)
	go p.frame(25, 1000, 8<<20)
	if m := until(t, viewer, "the huge frame", coded); number(t, m) != 25 || len(m.Body) != 13+8<<20 {
		t.Errorf("frame %d of %d bytes", number(t, m), len(m.Body))
	}
}

func TestT53_SecondPublisherIsRefusedOrTakesOver(t *testing.T) {
	t.Parallel()
	d := start(t, live)
	p := d.publisher("show")
	p.frame(0, 0, 100)
	err := d.dial("live").Publish(t.Context(), "show", "live")
	var refused *rtmp.StatusError
	if !errors.As(err, &refused) || refused.Code != "NetStream.Publish.BadName" {
		t.Errorf("the second publisher gets %v, want NetStream.Publish.BadName", err)
	}

	d = start(t, strings.Replace(live, "linger: 2s", "linger: 2s, takeover: true", 1))
	first := d.publisher("show")
	first.frame(0, 0, 100)
	d.onAir("show")
	viewer := d.dial("live")
	if err := viewer.Play(t.Context(), "show", stream.StartAny, -1, true); err != nil {
		t.Fatal(err)
	}
	until(t, viewer, "the first frame", coded)
	second := d.publisher("show")
	second.frame(50, 0, 100)
	if m := until(t, viewer, "a frame of the second", coded); number(t, m) != 50 {
		t.Errorf("the viewer got frame %d", number(t, m))
	}
	until(t, first.client, "the loser to be told", func(m rtmp.Message) bool {
		return m.Kind == rtmp.KindStatus && m.Status.Level == "error"
	})
}

// TestT43_StalledViewerAmongFifty has one viewer that reads nothing. The publisher is as
// fast as the others are, so that a busy machine makes none of them slow.
func TestT43_StalledViewerAmongFifty(t *testing.T) {
	t.Parallel()
	d := start(t, live)
	p := d.publisher("show")
	p.frame(0, 0, 100)
	d.onAir("show")
	stalled := d.dial("live")
	if err := stalled.Play(t.Context(), "show", stream.StartAny, -1, true); err != nil {
		t.Fatal(err)
	}
	const frames, size = 1500, 40 << 10 // 60 MB: more than the sockets hold
	const ahead = 100                   // less than the window
	var ready, viewers sync.WaitGroup
	var seen [50]atomic.Int64
	for i := range seen {
		c := d.dial("live")
		if err := c.Play(t.Context(), "show", stream.StartAny, -1, true); err != nil {
			t.Fatal(err)
		}
		ready.Add(1)
		viewers.Go(func() {
			want := number(t, until(t, c, "the first frame", coded)) + 1
			ready.Done()
			for ; want < frames; want++ {
				if got := number(t, until(t, c, "a frame", coded)); got != want {
					t.Errorf("viewer %d got frame %d, want %d", i, got, want)
					return
				}
				seen[i].Store(int64(want))
			}
		})
	}
	ready.Wait()
	before := d.metric("process_resident_memory_bytes")
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for n := 1; n < frames; n++ {
		<-pace.C
		lab.Await(t, "the viewers follow", func() error {
			for i := range seen {
				if at := seen[i].Load(); at < int64(n-ahead) {
					return fmt.Errorf("viewer %d is at frame %d of %d", i, at, n)
				}
			}
			return nil
		})
		p.frame(n, uint32(n*40), size)
	}
	viewers.Wait()
	// The ring keeps 10 s; the race detector multiplies what is allocated.
	if after := d.metric("process_resident_memory_bytes"); after > before+400e6 {
		t.Errorf("the daemon grew from %.0f to %.0f MB", before/1e6, after/1e6)
	}
	lab.Await(t, "the stalled viewer is ended or skipped", func() error {
		return atLeast(d.metric("mediad_broadcast_skips_total")+closedAsSlow(d), 1)
	})
}

func closedAsSlow(d *daemon) float64 {
	if strings.Contains(d.Log.String(), "has not taken") {
		return 1
	}
	return 0
}

func TestT46_NobodyPublishes(t *testing.T) {
	t.Parallel()
	d := start(t, strings.Replace(live, "wait: 20s", "wait: 1s", 1))
	c := d.dial("live")
	if err := c.Play(t.Context(), "nobody", stream.StartAny, -1, true); err != nil {
		t.Fatal(err)
	}
	m := until(t, c, "an answer", func(m rtmp.Message) bool { return m.Kind == rtmp.KindStatus })
	if m.Status.Code != "NetStream.Play.StreamNotFound" || m.Status.Level != "error" {
		t.Errorf("the viewer is told %+v", m.Status)
	}
}

// TestT12_T13_HostileAMF sends what kills servers that trust go-amf0.
func TestT12_T13_HostileAMF(t *testing.T) {
	t.Parallel()
	d := start(t, live)
	p := d.publisher("show")
	p.frame(0, 0, 100)
	d.onAir("show")
	for _, args := range [][]byte{
		[]byte(strings.Repeat("\x03\x00\x01a", 10000)),
		[]byte("\x0a\x7f\xff\xff\xff"),
	} {
		conn, err := net.Dial("tcp", d.RTMP)
		if err != nil {
			t.Fatal(err)
		}
		hello := append([]byte{3}, make([]byte, 1536)...)
		reply := make([]byte, 1+1536+1536)
		message := append([]byte("\x02\x00\x07connect\x00\x3f\xf0\x00\x00\x00\x00\x00\x00"), args...)
		if _, err := conn.Write(hello); err != nil {
			t.Fatal(err)
		}
		readFull(t, conn, reply)
		conn.Write(reply[1 : 1+1536])
		conn.Write([]byte{3, 0, 0, 0, byte(len(message) >> 16), byte(len(message) >> 8), byte(len(message)), 20, 0, 0, 0, 0})
		for chunk := range chunks(message, 128) {
			conn.Write(chunk)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		for buf := make([]byte, 1024); ; {
			if _, err := conn.Read(buf); err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					t.Error("the connection was not closed")
				}
				break
			}
		}
		conn.Close()
	}
	p.frame(1, 40, 100)
	d.onAir("show")
}
