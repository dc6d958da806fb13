// What other programs, and peers that misbehave, may send.

package repeatertcp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus"
)

// written returns what a connection sends of batches.
func written(list ...arrival) []byte {
	here, there := net.Pipe()
	c := testConn(here)
	var sending sync.WaitGroup
	sending.Go(func() {
		_ = c.sendBatches(list)
		here.Close()
	})
	b, _ := io.ReadAll(there)
	sending.Wait()
	return b
}

// decoded reads messages after Opened, to the end or the first mistake.
func decoded(b []byte) (list []event, err error) {
	d := decoder{in: bufio.NewReader(bytes.NewReader(b))}
	for {
		e, err := d.event()
		if err != nil {
			return list, err
		}
		list = append(list, e)
	}
}

// unusual are batches with all that may be in them.
func unusual() []arrival {
	h := &media.Header{Meta: []byte("meta"), Video: media.Format{Codec: "av1"}}
	clock := media.Clock{Audio: -time.Second, Video: media.None, Data: 1<<62 + 1}
	return []arrival{
		{media.NewBatch(h, media.NoClock, media.Frame{Track: media.Data, DTS: -5, PTS: 1 << 60, Body: []byte("d")}), losses{}},
		{media.NewBatch(h, clock,
			media.Frame{Track: media.Video, Key: true, DTS: time.Hour, PTS: time.Hour + 1, Body: make([]byte, 80<<10)},
			media.Frame{Track: media.Audio, DTS: time.Second, Body: []byte("audio")}), losses{3, 1 << 40}},
		{media.NewBatch(&media.Header{}, clock, media.Frame{Track: media.Audio, Body: []byte("a")}), losses{4, 1 << 41}},
	}
}

func TestBatchesAsTheyAre(t *testing.T) {
	sent := unusual()
	got, err := decoded(written(sent...))
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(got) != len(sent) {
		t.Fatalf("%d of %d batches: %v", len(got), len(sent), err)
	}
	for i := range sent {
		if hash([]*media.Batch{got[i].batch}) != hash([]*media.Batch{sent[i].batch}) || got[i].losses != sent[i].losses {
			t.Errorf("batch %d is %+v, %v, want %+v, %v", i, got[i].batch.Frames(), got[i].losses, sent[i].batch.Frames(), sent[i].losses)
		}
	}
	if got[0].batch.Header() != got[1].batch.Header() || got[1].batch.Header() == got[2].batch.Header() {
		t.Error("headers are not as they were shared")
	}
}

// message makes a message of fields.
func message(k kind, parts ...[]byte) []byte {
	return finish(append(begin(nil, k), bytes.Join(parts, nil)...), 0, 0)
}

func TestWrongMessages(t *testing.T) {
	header := message(kindHeader, []byte{0, 0, 0, 0, 0})
	frame := func(flags, size byte) []byte { return []byte{flags, 0, 0, size} }
	// batch makes a batch of rows and bodies.
	batch := func(count byte, rows, body []byte) []byte {
		table := append([]byte{0, 0, 0, 0, 0, count}, rows...)
		return append(slices.Clone(header), message(kindBatch, binary.BigEndian.AppendUint32(nil, uint32(len(table))), table, body)...)
	}
	if _, err := decoded(batch(1, frame(5, 2), []byte("ab"))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a batch as it should be: %v", err)
	}
	for name, b := range map[string][]byte{
		"garbage":                   []byte("GET / HTTP/1.1\r\n\r\n"),
		"a message too long":        {byte(kindBeat), 0xff, 0xff, 0xff, 0xff},
		"a batch too long":          {byte(kindBatch), 0x7f, 0xff, 0xff, 0xff},
		"a header too long":         {byte(kindHeader), 1, 0, 0, 0},
		"a message that is none":    message(99, nil),
		"a message of the asker":    message(kindAsk, []byte{1}),
		"a beat that goes on":       message(kindBeat, []byte{0, 0, 0}),
		"a path without end":        message(kindBeat, []byte{0, 0xff, 0xff, 0xff, 0x7f}),
		"a path that is cut off":    message(kindBeat, []byte{0, 2, 1, 'a'}),
		"a name that is cut off":    message(kindBeat, []byte{0, 1, 9, 'a'}),
		"a number without end":      message(kindEnd, bytes.Repeat([]byte{0xff}, 20)),
		"no header":                 batch(1, frame(0, 1), []byte("a"))[len(header):],
		"a table too long":          append(slices.Clone(header), message(kindBatch, []byte{0, 0, 0, 200}, make([]byte, 100))...),
		"no frames":                 batch(0, nil, []byte("a")),
		"more frames than rows":     batch(2, frame(0, 1), []byte("a")),
		"more rows than frames":     batch(1, append(frame(0, 1), frame(0, 1)...), []byte("ab")),
		"frames without end":        batch(0xff, []byte{0xff, 0xff, 0x7f}, []byte("a")),
		"a track that is none":      batch(1, frame(3, 1), []byte("a")),
		"a key that is none":        batch(1, frame(4, 1), []byte("a")),
		"a key in the middle":       batch(2, append(frame(1, 1), frame(5, 1)...), []byte("ab")),
		"a body of nothing":         batch(1, frame(1, 0), []byte("a")),
		"less bodies than in table": batch(1, frame(1, 3), []byte("ab")),
		"more bodies than in table": batch(1, frame(1, 1), []byte("ab")),
		"a body without end":        batch(1, []byte{1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, []byte("ab")),
	} {
		if _, err := decoded(b); !errors.Is(err, errProtocol) || !errors.Is(err, media.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(written(unusual()...))
	f.Add(message(kindBeat, appendPath([]byte{1}, []string{"a", "b"})))
	f.Add(message(kindEnd, appendFailure(nil, &media.RedirectError{URL: "rtmp://x"})))
	f.Add(message(kindEnd, appendFailure(nil, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, _ := decoded(b)
		var list []arrival
		for _, e := range events {
			if e.batch != nil {
				list = append(list, arrival{e.batch, e.losses})
			}
		}
		again, _ := decoded(written(list...))
		if len(again) != len(list) {
			t.Fatalf("of %d batches %d come back", len(list), len(again))
		}
		for i, e := range again {
			if hash([]*media.Batch{e.batch}) != hash([]*media.Batch{list[i].batch}) || e.losses != list[i].losses {
				t.Fatalf("batch %d comes back as another", i)
			}
			if err := stagetest.CheckBatch(e.batch); err != nil && len(e.batch.Slab()) < media.MaxBatchBytes {
				t.Fatalf("batch %d: %v", i, err)
			}
		}
	})
}

// FuzzFields reads what is in the other messages, and writes it again.
func FuzzFields(f *testing.F) {
	req := media.OpenRequest{Name: "film", From: time.Second, LiveOnly: true}
	info := media.Info{Name: "film", Version: "1", Start: 1, Duration: 2, Size: 3}
	cost := media.Cost{Place: "disk", Base: 10, Load: 0.5, Depth: 1}
	f.Add(appendCost(appendFailure(appendInfo(appendRequest(nil, req), info), media.ErrDenied), cost))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := fields{b: b}
		req, info, err, cost := p.request(), p.info(), p.failure(), p.cost()
		if p.end() != nil {
			return
		}
		again := fields{b: appendCost(appendFailure(appendInfo(appendRequest(nil, req), info), err), cost)}
		if r, i := again.request(), again.info(); r != req || i != info {
			t.Errorf("%+v %+v come back as %+v %+v", req, info, r, i)
		}
		if e := again.failure(); fmt.Sprint(e) != fmt.Sprint(err) {
			t.Errorf("%v comes back as %v", err, e)
		}
		if c := again.cost(); c != cost || again.end() != nil {
			t.Errorf("%+v comes back as %+v, %v", cost, c, again.end())
		}
	})
}

// FuzzServer sends anything to a repeater that serves.
func FuzzServer(f *testing.F) {
	greeting := hello("fuzz")
	open := finish(appendRequest(appendUint(begin(nil, kindOpen), 1000), media.OpenRequest{Name: "film"}), 0, 0)
	ask := finish(appendRequest(appendUint(begin(nil, kindAsk), 1), media.OpenRequest{Name: "film"}), 0, 0)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(greeting)
	f.Add(slices.Concat(greeting, ask, message(kindPing, []byte{1}), open, message(kindCredit, []byte{100})))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := newNode(t, "a", nil, stagetest.Library{"film": stagetest.Film(2, 100)})
		c, err := net.Dial("tcp", a.at())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write(b)
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		var slow net.Error
		if _, err := io.Copy(io.Discard, c); errors.As(err, &slow) && slow.Timeout() {
			t.Error("the server does not hang up")
		}
	})
}

// TestBadPeers opens from peers that are none, or do not keep to the protocol.
func TestBadPeers(t *testing.T) {
	opened := func(info media.Info) []byte {
		return finish(appendPath(appendInfo(begin(nil, kindOpened), info), []string{"bad"}), 0, 0)
	}
	for _, c := range []struct {
		name string
		peer func(c *conn)
		want string
	}{
		{"garbage", saying([]byte("220 smtp.example ESMTP\r\n")), "does not keep to the protocol"},
		{"another version", saying([]byte("mediad\x02")), "speaks version 2"},
		{"no name", saying([]byte(preamble), message(kindHello, []byte{0})), "its own name"},
		{"a huge message", saying(hello("bad"), []byte{byte(kindPong), 0xff, 0xff, 0xff, 0xff}), "4294967295 bytes"},
		{"silence", saying(), "being connected"},
		{"no answer", saying(hello("bad")), "has not answered"},
		{"media of the wrong kind", promising(opened(media.Info{Name: "show"})), "wrong kind"},
		{"no media", promising(message(kindPong, []byte{1})), "a message of kind 6"},
		{"garbage as media", promising(opened(media.Info{Live: true}), []byte("garbage")), "no node that could go on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := badPeer(t, c.peer)
			n := newNode(t, "n", nil)
			n.pace.patience = 100 * time.Millisecond
			n.knows(stage.Peer{Name: "bad", Address: address})
			src, err := n.Open(t.Context(), media.OpenRequest{Name: "show", LiveOnly: true})
			if err == nil {
				_, err = src.Next(t.Context())
				src.Close()
			}
			if !errors.Is(err, media.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one with %q", err, c.want)
			}
		})
	}
}

// saying is a peer that says something and then nothing.
func saying(parts ...[]byte) func(*conn) {
	return func(c *conn) {
		_ = c.send(bytes.Join(parts, nil))
		_, _ = io.Copy(io.Discard, c)
	}
}

// promising is a peer that tells a low cost, and answers an Open so.
func promising(parts ...[]byte) func(*conn) {
	return func(c *conn) {
		if c.send(hello("bad")) != nil || c.greeted() != nil {
			return
		}
		for {
			k, p, err := c.message(kindPing, kindAsk, kindOpen)
			switch {
			case err != nil:
				return
			case k == kindAsk:
				b := appendFailure(appendUint(begin(nil, kindCost), p.uint(maxID)), nil)
				_ = c.send(finish(appendCost(b, media.Cost{Place: placeLive, Base: 1}), 0, 0))
			case k == kindOpen:
				_ = c.send(bytes.Join(parts, nil))
			}
		}
	}
}

// badPeer serves connections.
func badPeer(t *testing.T, serve func(*conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				serve(testConn(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

// testConn is a connection that is no repeater's.
func testConn(c net.Conn) *conn {
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "bytes"})
	return (&repeater{metrics: &metrics{sent: counter, received: counter}}).newConn(c)
}

// TestBadChildren connects who do not keep to the protocol; a child beside them is not touched.
func TestBadChildren(t *testing.T) {
	film := stagetest.Film(20, 5000)
	a, b := newNode(t, "a", nil, stagetest.Library{"film": film}), newNode(t, "b", nil)
	b.knows(a.peer())
	src, err := b.Open(t.Context(), media.OpenRequest{Name: "film"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got := take(t, src, 1)
	for name, says := range map[string][]byte{
		"garbage":         []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
		"a huge message":  append(hello("bad"), byte(kindOpen), 0xff, 0xff, 0xff, 0xff),
		"a bad name":      hello("../\x1b[31m"),
		"a wrong message": append(hello("bad"), message(kindBatch, nil)...),
	} {
		c, err := net.Dial("tcp", a.at())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(says)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		var slow net.Error
		if _, err := io.Copy(io.Discard, c); errors.As(err, &slow) && slow.Timeout() {
			t.Errorf("%s: the connection stays", name)
		}
		c.Close()
	}
	got = append(got, take(t, src, len(film)-1)...)
	if hash(got) != hash(film) {
		t.Error("other frames came than were sent")
	}
}
