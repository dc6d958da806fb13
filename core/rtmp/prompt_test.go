package rtmp

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// newPromptViewer returns a viewer on a TCP connection, and the client's end of it.
func newPromptViewer(t testing.TB) (promptViewer, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = conn.Close()
	})
	s := newSession(New(Options{}), context.Background(), context.Background(), conn)
	v := s.viewer(1).(promptViewer)
	v.Timeline(0)
	return v, client
}

// oneFrame returns batches of a frame each that follow each other.
func oneFrame(n, size int) (batches []*media.Batch) {
	b := media.NewBuilder(media.NoClock)
	h := &media.Header{Video: media.Format{Codec: "h264"}}
	for i := range n {
		body := bytes.Repeat([]byte{byte(i)}, size)
		b.Copy(media.Frame{Track: media.Video, Key: i == 0, DTS: ms(int64(40 * i)), Body: body})
		batches = append(batches, b.Batch(h))
	}
	return batches
}

// What the socket does not take at once is written later, in order and whole.
func TestTryLeavesTheRest(t *testing.T) {
	v, client := newPromptViewer(t)
	batches := oneFrame(200, 100_000)
	tries := 0
	for done := true; done; tries++ {
		if tries == len(batches) {
			t.Fatal("20 MB are taken by a socket that nobody reads from")
		}
		var err error
		if done, err = v.Try(batches[tries : tries+1]); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan []read)
	go func() {
		r := newChunkReader(client, nil)
		r.size, r.media, r.data, r.maxHeld = chunkSize, maxPayload, maxPayload, 4*maxPayload
		list, _ := readAll(r)
		got <- list
	}()
	if err := v.Write(nil); err != nil {
		t.Fatal(err)
	}
	v.s.out.Lock() // somebody else writes: nothing may wait, nor be lost
	if done, err := v.Try(batches[tries : tries+1]); done || err != nil {
		t.Errorf("Try while another writes: %v, %v", done, err)
	}
	v.s.out.Unlock()
	tries++
	if err := v.Write(batches[tries:]); err != nil {
		t.Fatal(err)
	}
	_ = v.s.conn.Close()
	list := <-got
	if len(list) != len(batches) {
		t.Fatalf("%d messages have come of %d", len(list), len(batches))
	}
	for i, m := range list {
		if m.data != string(batches[i].Frames()[0].Body) {
			t.Fatalf("message %d is another", i)
		}
	}
}

// A write deadline that has passed since the last write is not that of the next.
func TestTryAfterADeadline(t *testing.T) {
	v, _ := newPromptViewer(t)
	batches := oneFrame(2, 100)
	_ = v.s.conn.SetWriteDeadline(time.Now().Add(-time.Second))
	if done, err := v.Try(batches); !done || err != nil {
		t.Errorf("Try: %v, %v", done, err)
	}
	v.s.out.Shut()
	if _, err := v.Try(oneFrame(1, 100)); err == nil {
		t.Error("Try works on an output that is shut")
	}
}

// BenchmarkTry writes one frame to one viewer: it allocates nothing.
func BenchmarkTry(b *testing.B) {
	v, client := newPromptViewer(b)
	go io.Copy(io.Discard, client) //nolint:errcheck // ends with the connection
	batches := oneFrame(2, 9000)
	if _, err := v.Try(batches); err != nil {
		b.Fatal(err)
	}
	batches = batches[1:]
	o := &v.s.out
	b.SetBytes(9000)
	b.ReportAllocs()
	for b.Loop() {
		o.Lock()
		o.clocks[index(media.Video)].time = 0 // as if the frame were the next again
		o.Unlock()
		done, err := v.Try(batches)
		if !done && err == nil {
			err = v.Write(nil)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
