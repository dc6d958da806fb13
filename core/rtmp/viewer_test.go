package rtmp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
)

// A bufferConn is a connection whose writes are kept.
type bufferConn struct {
	net.Conn
	written []byte
}

func (*bufferConn) SetWriteDeadline(time.Time) error { return nil }
func (*bufferConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *bufferConn) Write(p []byte) (int, error) {
	c.written = append(c.written, p...)
	return len(p), nil
}
func (c *bufferConn) messages(t *testing.T) []read {
	t.Helper()
	r := newChunkReader(bytes.NewReader(c.written), nil)
	r.size, r.media, r.data, r.maxHeld = chunkSize, maxPayload, maxPayload, 4*maxPayload
	list, err := readAll(r)
	if err != io.EOF {
		t.Fatal(err)
	}
	return list
}

// newViewers returns viewers on the message streams 1 to n of one connection.
func newViewers(n int) (*bufferConn, []*viewer) {
	conn := new(bufferConn)
	s := newSession(New(Options{}), context.Background(), context.Background(), conn)
	viewers := make([]*viewer, n)
	for i := range viewers {
		viewers[i] = s.newViewer(uint32(i + 1))
	}
	return conn, viewers
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func frame(t media.Track, at int64, body string) media.Frame {
	return media.Frame{Track: t, Key: t == media.Video && strings.HasPrefix(body, "K"), DTS: ms(at), PTS: ms(at), Body: []byte(body)}
}

// batchesOf makes a batch of each list of frames; they follow each other.
func batchesOf(h *media.Header, lists ...[]media.Frame) (batches []*media.Batch) {
	clock := media.NoClock
	for _, frames := range lists {
		b := media.NewBatch(h, clock, frames...)
		for _, f := range frames {
			*clock.At(f.Track) = f.DTS
		}
		batches = append(batches, b)
	}
	return batches
}

var videoOnly = &media.Header{Video: media.Format{Codec: "h264"}}

func TestViewerWrite(t *testing.T) {
	const a, v, d = media.Audio, media.Video, media.Data
	type frames = []media.Frame
	for name, c := range map[string]struct {
		frames []frames
		do     func(v *viewer, batches []*media.Batch)
		want   []read
	}{
		"join": {
			frames: []frames{{frame(v, 1000, "K1")}, {frame(a, 1010, "a1")}, {frame(v, 1040, "p2"), frame(a, 1033, "a2")}},
			do: func(v *viewer, b []*media.Batch) {
				v.Timeline(ms(1000))
				_ = v.Write(b)
			},
			want: []read{{9, 1, 0, "K1"}, {8, 1, 10, "a1"}, {9, 1, 40, "p2"}, {8, 1, 33, "a2"}},
		},
		"join in the middle, skip, seek back": {
			frames: []frames{{frame(v, 0, "K1")}, {frame(v, 40, "p2")}, {frame(v, 80, "K3")}, {frame(v, 120, "p4")}},
			do: func(v *viewer, b []*media.Batch) {
				v.Timeline(ms(40))
				_ = v.Write(b[1:2])
				_ = v.Write(b[3:])
				v.Timeline(0)
				_ = v.Write(b[:2])
			},
			want: []read{{9, 1, 0, "p2"}, {9, 1, 80, "p4"}, {9, 1, 0, "K1"}, {9, 1, 40, "p2"}},
		},
		"before the zero": { // sound that lies before the picture it comes after
			frames: []frames{{frame(v, 1000, "K1"), frame(a, 980, "a1"), frame(a, 1003, "a2"), frame(a, 1026, "a3")}},
			do: func(v *viewer, b []*media.Batch) {
				v.Timeline(ms(1000))
				_ = v.Write(b)
			},
			want: []read{{9, 1, 0, "K1"}, {8, 1, 0, "a1"}, {8, 1, 3, "a2"}, {8, 1, 26, "a3"}},
		},
		"backwards": { // held within the batch, right again after it
			frames: []frames{{frame(v, 100, "K1"), frame(v, 90, "p2"), frame(v, 95, "p3")}, {frame(v, 110, "p4")}, {frame(v, 150, "p5")}},
			do: func(v *viewer, b []*media.Batch) {
				v.Timeline(0)
				_ = v.Write(b)
			},
			want: []read{{9, 1, 100, "K1"}, {9, 1, 100, "p2"}, {9, 1, 100, "p3"}, {9, 1, 110, "p4"}, {9, 1, 150, "p5"}},
		},
		"a jump that no delta can hold": {
			frames: []frames{{frame(v, 0, "K1"), frame(v, 20000000, "p2"), frame(v, 20000040, "p3")}, {frame(v, 40000000, "p4")}},
			do: func(v *viewer, b []*media.Batch) {
				v.Timeline(0)
				_ = v.Write(b)
			},
			want: []read{{9, 1, 0, "K1"}, {9, 1, 20000000, "p2"}, {9, 1, 20000040, "p3"}, {9, 1, 40000000, "p4"}},
		},
		"T48 past 0xffffff and 2^32": {
			frames: []frames{{frame(v, 0xfffff0, "K1")}, {frame(v, 0x1000018, "p2")}, {frame(v, 1<<32+35, "p3")}, {frame(v, 1<<32+75, "p4")}},
			do: func(v *viewer, b []*media.Batch) {
				v.Timeline(0)
				_ = v.Write(b)
			},
			want: []read{{9, 1, 0xfffff0, "K1"}, {9, 1, 0x1000018, "p2"}, {9, 1, 35, "p3"}, {9, 1, 75, "p4"}},
		},
		"tracks off and on": {
			frames: []frames{
				{frame(v, 0, "K1"), frame(a, 5, "a1")}, {frame(v, 40, "p2"), frame(a, 45, "a2")},
				{frame(v, 80, "p3"), frame(a, 85, "a3"), frame(d, 90, "d3")}, {frame(v, 120, "K4"), frame(v, 160, "p5")},
			},
			do: func(v *viewer, b []*media.Batch) {
				v.Timeline(0)
				v.Receive(media.Audio, false)
				_ = v.Write(b[:1])
				v.Receive(media.Audio, true)
				v.Receive(media.Video, false)
				_ = v.Write(b[1:2])
				v.Receive(media.Video, true)
				_ = v.Write(b[2:])
			},
			want: []read{{9, 1, 0, "K1"}, {8, 1, 45, "a2"}, {8, 1, 85, "a3"}, {18, 1, 90, "d3"}, {9, 1, 120, "K4"}, {9, 1, 160, "p5"}},
		},
	} {
		conn, viewers := newViewers(1)
		c.do(viewers[0], batchesOf(videoOnly, c.frames...))
		if got := conn.messages(t); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %v\nwant %v", name, got, c.want)
		}
	}
}

func TestViewerHeader(t *testing.T) {
	h1 := &media.Header{
		Meta:  []byte("meta1"),
		Video: media.Format{Codec: "h264", Config: []byte("vconf1")},
		Audio: media.Format{Codec: "aac", Config: []byte("aconf1")},
	}
	h2 := *h1
	h2.Audio.Config = []byte("aconf2")
	b := batchesOf(h1, []media.Frame{frame(media.Video, 100, "K1"), frame(media.Audio, 120, "a1")}, []media.Frame{frame(media.Video, 140, "p2")})
	clock := media.Clock{Audio: ms(120), Video: ms(140), Data: media.None}
	changed := media.NewBatch(&h2, clock, frame(media.Video, 180, "p3"), frame(media.Audio, 190, "a3"))

	conn, viewers := newViewers(1)
	v := viewers[0]
	v.Timeline(ms(100))
	_ = v.Write(append(b, changed))
	v.Timeline(ms(180))
	_ = v.Write([]*media.Batch{changed})
	want := []read{
		{18, 1, 0, "meta1"}, {9, 1, 0, "vconf1"}, {8, 1, 20, "aconf1"}, {9, 1, 0, "K1"}, {8, 1, 20, "a1"}, {9, 1, 40, "p2"},
		{8, 1, 90, "aconf2"}, {9, 1, 80, "p3"}, {8, 1, 90, "a3"},
		{18, 1, 0, "meta1"}, {9, 1, 0, "vconf1"}, {8, 1, 10, "aconf2"}, {9, 1, 0, "p3"}, {8, 1, 10, "a3"},
	}
	if got := conn.messages(t); !slices.Equal(got, want) {
		t.Errorf("\n got %v\nwant %v", got, want)
	}
}

// TestViewersShare checks that a viewer in its stride is written the slab of
// the batch and nothing else.
func TestViewersShare(t *testing.T) {
	batches := batchesOf(videoOnly,
		[]media.Frame{frame(media.Video, 0, "K1"), frame(media.Audio, 3, "a1")},
		[]media.Frame{frame(media.Audio, 26, "a2"), frame(media.Video, 40, strings.Repeat("x", chunkSize+1)), frame(media.Audio, 49, "a3")})
	_, viewers := newViewers(1)
	v := viewers[0]
	v.Timeline(0)
	_ = v.Write(batches[:1])
	o := &v.s.out
	v.putBatch(o, formOf(batches[1]))
	slab := batches[1].Slab()
	cut := media.Headroom + len("a2") + media.Headroom + chunkSize // the large body is two chunks
	want := [][]byte{slab[:cut], {0xc6}, slab[cut:]}
	if !reflect.DeepEqual(o.Queue, want) || &o.Queue[0][0] != &slab[0] || &o.Queue[2][0] != &slab[cut] {
		t.Errorf("%d pieces are not those of the slab", len(o.Queue))
	}
}

// TestViewersRandom has some viewers on one connection join, skip and go on in
// a random stream of batches: each message must arrive whole and at its time.
func TestViewersRandom(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var lists [][]media.Frame
		at := [3]int64{rnd.Int64N(1 << 33), 0, 0}
		at[1], at[2] = at[0], at[0]
		tracks := []media.Track{media.Audio, media.Video, media.Data}
		for range 40 {
			var frames []media.Frame
			for range 1 + rnd.IntN(4) {
				i := rnd.IntN(3)
				at[i] += rnd.Int64N(50)
				if rnd.IntN(40) == 0 {
					at[i] += rnd.Int64N(1 << 25)
				}
				body := fmt.Sprintf("%d.%d.", len(lists), len(frames))
				if rnd.IntN(8) == 0 {
					body += strings.Repeat("x", rnd.IntN(3*chunkSize))
				}
				frames = append(frames, frame(tracks[i], at[i], body))
			}
			lists = append(lists, frames)
		}
		batches := batchesOf(videoOnly, lists...)
		conn, viewers := newViewers(3)
		zeros := make([]time.Duration, len(viewers))
		for i, v := range viewers {
			zeros[i] = batches[0].DTS() - ms(1<<26) // no frame is before it
			v.Timeline(zeros[i])
		}
		var want []read
		for range 100 {
			i := rnd.IntN(len(viewers))
			v := viewers[i]
			from := rnd.IntN(len(batches))
			some := batches[from:min(from+1+rnd.IntN(5), len(batches))]
			if rnd.IntN(5) == 0 {
				zeros[i] = batches[0].DTS() - ms(rnd.Int64N(1<<25)+1<<26)
				v.Timeline(zeros[i])
			}
			if err := v.Write(some); err != nil {
				t.Fatal(err)
			}
			for _, b := range some {
				for _, f := range b.Frames() {
					want = append(want, read{byte(f.Track), v.id, uint32((f.DTS - zeros[i]).Milliseconds()), string(f.Body)})
				}
			}
		}
		got := conn.messages(t)
		for i := range want {
			if i >= len(got) || got[i] != want[i] {
				t.Fatalf("seed %d: message %d differs from what was written", seed, i)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("seed %d: %d messages, want %d", seed, len(got), len(want))
		}
	}
}

func TestViewerStatuses(t *testing.T) {
	conn, viewers := newViewers(1)
	v := viewers[0]
	_ = v.Status(stream.Status{Level: "status", Code: "NetStream.Play.Start", Description: "x"})
	_ = v.Event(stream.EOF)
	_ = v.Access()
	_ = v.Complete(1500*time.Millisecond, 7)
	got := conn.messages(t)
	if len(got) != 4 || got[0].kind != 20 || got[0].stream != 1 || got[1] != (read{4, 0, 0, "\x00\x01\x00\x00\x00\x01"}) ||
		got[2].kind != 18 || !strings.Contains(got[3].data, "NetStream.Play.Complete") {
		t.Errorf("got %v", got)
	}
}

// BenchmarkViewers writes one live batch, a frame of 8 KiB, to many viewers.
func BenchmarkViewers(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			server := New(Options{})
			viewers := make([]*viewer, n)
			drained := make(chan error)
			for i := range viewers {
				client, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					_, err := io.Copy(io.Discard, client)
					_ = client.Close()
					drained <- err
				}()
				conn, err := l.Accept()
				if err != nil {
					b.Fatal(err)
				}
				s := newSession(server, context.Background(), context.Background(), conn)
				viewers[i] = s.newViewer(1)
				viewers[i].Timeline(0)
			}
			body := make([]byte, 8<<10)
			builder := media.NewBuilder(media.NoClock)
			one := make([]*media.Batch, 1)
			at := time.Duration(0)
			b.SetBytes(int64(n * len(body)))
			b.ReportAllocs()
			for b.Loop() {
				builder.Copy(media.Frame{Track: media.Video, DTS: at, Body: body})
				at += ms(40)
				one[0] = builder.Batch(videoOnly)
				for _, v := range viewers {
					if err := v.Write(one); err != nil {
						b.Fatal(err)
					}
				}
			}
			for _, v := range viewers {
				_ = v.s.conn.Close()
				if err := <-drained; err != nil {
					b.Error(err)
				}
			}
		})
	}
}

// TestT09_WrittenTimestamps checks that an extended timestamp is repeated before
// each further chunk: our own reader would take it without, ffmpeg would not.
func TestT09_WrittenTimestamps(t *testing.T) {
	var o output
	o.put(csidVideo, 9, 1, extended, make([]byte, chunkSize+1))
	want := [][]byte{{6, 255, 255, 255, 1, 0, 1, 9, 1, 0, 0, 0, 0, 255, 255, 255}, make([]byte, chunkSize), {0xc6, 0, 255, 255, 255}, {0}}
	if !reflect.DeepEqual(o.Queue, want) {
		t.Errorf("the pieces begin with %v", o.Queue[0])
	}
}
