package rtmp

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/ingest"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

func TestT01_SilentHandshake(t *testing.T) {
	for name, send := range map[string]func(net.Conn){
		"silent": func(net.Conn) {},
		"a byte a second": func(c net.Conn) {
			for _, err := c.Write([]byte{3}); err == nil; _, err = c.Write([]byte{3}) {
				time.Sleep(time.Second)
			}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			s, stop := serveOn(t, l, Options{}, nil, nil)
			begin := time.Now()
			conn := l.dial()
			sent := make(chan struct{})
			go func() { send(conn); close(sent) }()
			_, err := conn.Read(make([]byte, 1))
			if took := time.Since(begin); err != io.EOF || took != 10*time.Second {
				t.Errorf("%s: ended after %v with %v", name, took, err)
			}
			<-sent
			stop()
			counts(t, s, causeHandshake)
		})
	}
}

func TestT02_NotRTMP(t *testing.T) {
	for _, hello := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00", "\x06"} {
		s := serve(t, Options{}, nil, nil)
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(hello))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q is answered with %d bytes, %v", hello, n, err)
		}
		_ = conn.Close()
		s.counted(t, causeNotRTMP)
	}
}

func TestT03_RandomC2(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{}, r, nil)
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, 1+2*1536) // C0, C1 and C2
	_, _ = rand.Read(hello)
	hello[0] = 3
	connect := amf.Append(nil, "connect", 1, amf.Object{{Key: "app", Value: "live"}})
	_, _ = conn.Write(slices.Concat(hello, wireOf(chunk{csid: 3, length: len(connect), kind: 20, data: connect})))
	reply := make([]byte, 1+2*1536+1)
	if _, err := io.ReadFull(conn, reply); err != nil || !bytes.Equal(reply[1+1536:1+2*1536], hello[1:1+1536]) {
		t.Errorf("%v, or S2 is not C1", err)
	}
	_ = conn.Close()
}

// raw sends a message with any payload.
func (c *Client) raw(kind byte, stream uint32, payload []byte) {
	_ = c.out.send(csidCommand, rtmpmsg.TypeID(kind), stream, payload)
}

func TestT12_AMFNesting(t *testing.T) {
	s := serve(t, Options{}, newRecorder(), nil)
	c := dial(t, s.url)
	c.raw(20, 0, append(amf.Append(nil, "createStream", 2), bytes.Repeat([]byte("\x03\x00\x01a"), 10000)...))
	closedBy(t, c)
	s.counted(t, causeProtocol)
}

func TestT13_AMFStrictArray(t *testing.T) {
	s := serve(t, Options{}, newRecorder(), nil)
	c := dial(t, s.url) // fourCcList is a short one
	c.raw(20, 0, append(amf.Append(nil, "createStream", 2), 0x0a, 0x7f, 0xff, 0xff, 0xff))
	closedBy(t, c)
	s.counted(t, causeProtocol)
}

func TestT14_OddMessages(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{}, r, player(func(stream.Request) []*media.Batch { return nil }))
	c := dial(t, s.url)
	if err := c.Publish(t.Context(), "x", "record"); err != nil {
		t.Fatal(err)
	}
	for kind := range byte(255) {
		switch kind {
		case 1, 2, 5, 8, 9, 15, 17, 18, 20, 22: // below, or not odd
		default:
			c.raw(kind, c.stream, seq[:12])
		}
	}
	for event := range byte(40) {
		c.raw(4, 0, []byte{0, event})
		c.raw(4, 0, append([]byte{0, event}, seq[:10]...))
	}
	for _, command := range []string{"nothing", "play", "pause", "seek", "connect", "receiveAudio", "FCSubscribe", "_checkbw",
		"getStreamLength", "releaseStream", "FCPublish", "play2", "pauseRaw", "onStatus", "", "publish"} {
		c.raw(20, c.stream, amf.Append(nil, command, 9, amf.Undefined{}, strings.Repeat("long", 9999)))
		c.raw(20, 77, amf.Append(nil, command, 9))
		c.raw(20, c.stream, amf.Append(nil, command))
	}
	c.raw(20, c.stream, amf.Append(nil, 1.5, "x"))
	c.raw(17, c.stream, amf.Append([]byte{0}, "seek", 0, nil, 1))
	c.raw(17, c.stream, []byte{0})
	c.raw(15, c.stream, append([]byte{0}, "\x02\x00\x01A1"...))
	c.raw(18, c.stream, append(slices.Clone(setDataFrame), "\x02\x00\x01B"...))
	c.raw(18, c.stream, setDataFrame)
	c.raw(18, c.stream, amf.Append(slices.Clone(clearDataFrame), "onMetaData"))
	c.raw(9, 77, []byte("nobody's"))

	tag := func(kind byte, at uint32, body string) []byte {
		n := len(body)
		b := []byte{kind, 0, byte(n >> 8), byte(n), byte(at >> 16), byte(at >> 8), byte(at), byte(at >> 24), 0, 0, 0}
		return append(append(b, body...), 0, 0, 0, byte(n+11))
	}
	aggregate := slices.Concat(tag(9, 1<<24+5, "video"), tag(8, 1<<24+9, "audio"), tag(8, 0, ""), []byte("cut"))
	_ = c.out.send(csidVideo, 22, c.stream, aggregate)
	if err := c.WriteMessage(media.Video, 7, []byte("last")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.call(t.Context(), "createStream", nil); err != nil { // all before it has been handled
		t.Fatal(err)
	}

	var got []string
	for _, m := range r.received() {
		got = append(got, fmt.Sprintf("%d %d %s", m.Track, m.Time, m.Body))
	}
	want := []string{"18 0 \x02\x00\x01A1", "18 0 \x02\x00\x01B", "9 0 video", "8 4 audio", "9 7 last"}
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

func TestT15_CreateStreamFlood(t *testing.T) {
	s := serve(t, Options{}, newRecorder(), nil)
	c := dial(t, s.url)
	for i := range 100 {
		a, err := c.call(t.Context(), "createStream", nil)
		var refused *StatusError
		if i < maxStreams && (err != nil || a.value != float64(i+1)) || i >= maxStreams && !errors.As(err, &refused) {
			t.Fatalf("stream %d is %v, %v", i+1, a.value, err)
		}
	}
	_ = c.Command("deleteStream", 2)
	if a, err := c.call(t.Context(), "createStream", nil); err != nil || a.value != 2.0 {
		t.Errorf("after stream 2 was deleted: %v, %v", a.value, err)
	}
}

func TestT16_Refusals(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{}, r, nil)
	for _, c := range []struct {
		app    string
		refuse error
		code   string
		text   string
	}{
		{"other", nil, "NetConnection.Connect.InvalidApp", `there is no app "other" here`},
		{"live", fmt.Errorf("%w: the key is wrong", media.ErrDenied), "NetStream.Publish.Denied", "denied: the key is wrong"},
		{"live", media.ErrBusy, "NetStream.Publish.BadName", "name is taken"},
	} {
		r.mu.Lock()
		r.refuse = c.refuse
		r.mu.Unlock()
		client, err := Dial(t.Context(), "rtmp://"+s.addr+"/"+c.app)
		if err == nil {
			err = client.Publish(t.Context(), "x", "live")
			closedBy(t, client)
			_ = client.Close()
		}
		var refused *StatusError
		if !errors.As(err, &refused) || refused.Code != c.code || refused.Description != c.text {
			t.Errorf("%s: %v, want %s: %s", c.app, err, c.code, c.text)
		}
	}
}

func TestT16_Backoff(t *testing.T) {
	var b backoff
	now := time.Now()
	addr := addrOf(&bufferConn{})
	for i, want := range []time.Duration{0, 0, 0, ms(250), ms(500), ms(1000), ms(2000), ms(4000), ms(8000), ms(8000), ms(8000)} {
		if got := b.refused(addr, now); got != want {
			t.Errorf("refusal %d is held back %v, want %v", i+1, got, want)
		}
		now = now.Add(refusalMemory)
	}
	if got := b.refused(addr, now.Add(time.Nanosecond)); got != 0 {
		t.Errorf("after a while it is held back %v", got)
	}
}

var badNames = []string{"", "../x", "a/../b", "a\x00b", strings.Repeat("x", 4096), "a\r\nb", "<script>", ".hidden", "a//b", "flv:"}

func TestT17_Names(t *testing.T) {
	s := serve(t, Options{}, newRecorder(), player(func(stream.Request) []*media.Batch { return nil }))
	viewer := dial(t, s.url)
	for _, name := range badNames {
		if err := viewer.Play(t.Context(), name, stream.StartAny, -1, true); err != nil {
			t.Fatal(err)
		}
		list := until(t, viewer, "NetStream.Play.StreamNotFound")
		if text := list[len(list)-1].Status.Description; !strings.HasPrefix(text, "the name") {
			t.Errorf("play %q: %s", name, text)
		}
	}
	s.backoff.mu.Lock()
	s.backoff.addrs = nil
	s.backoff.mu.Unlock()
	for _, name := range badNames[:3] { // the others would be held back
		var refused *StatusError
		if err := dial(t, s.url).Publish(t.Context(), name, "live"); !errors.As(err, &refused) || refused.Code != "NetStream.Publish.BadName" {
			t.Errorf("publish %q: %v", name, err)
		}
	}
}

func TestNames(t *testing.T) {
	served := func(app string) bool { return app == "live" || app == "live/eu" }
	for _, c := range []struct{ app, tcURL, name, wantApp, wantName, wantParams string }{
		{"live", "rtmp://h/live", "x", "live", "x", ""},
		{"live/", "", "mp4:x.mp4", "live", "x.mp4", ""},
		{"/live", "", "flv:x?a=1", "live", "x", "a=1"},
		{"live/a/b", "", "x", "live", "a/b/x", ""},
		{"live/a/b", "", "?a=1", "live", "a/b", "a=1"},
		{"live/eu/a", "", "x", "live/eu", "a/x", ""},
		{"live?a=2&b=3", "rtmp://h/live?a=2&b=3", "x?a=1", "live", "x", "a=1&a=2&b=3"},
		{"live", "rtmp://h/live?b=3", "x", "live", "x", "b=3"},
		{"other", "", "x", "", "", ""},
		{"", "", "x", "", "", ""},
		{"liver", "", "x", "", "", ""},
	} {
		a, ok := resolve(c.app, c.tcURL, served)
		if !ok {
			if c.wantApp != "" {
				t.Errorf("%s is not found", c.app)
			}
			continue
		}
		name, params, err := a.name(c.name)
		if a.app != c.wantApp || name != c.wantName || params.Encode() != c.wantParams || err != nil {
			t.Errorf("%s %s is app %q, name %q, params %s, %v", c.app, c.name, a.app, name, params.Encode(), err)
		}
	}
}

func TestT18_AcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		_, stop := serveOn(t, l, Options{}, nil, nil)
		defer stop()
		begin := time.Now()
		for range 12 {
			l.errors <- syscall.EMFILE
		}
		conn := l.dial()
		defer conn.Close()
		// 5 ms doubled up to 1 s: 11 pauses have passed, and the one after the last error
		if took := time.Since(begin); took != ms(5+10+20+40+80+160+320+640+4*1000) {
			t.Errorf("it took %v to accept again", took)
		}
	})
}

func TestListenerFails(t *testing.T) {
	l := newPipeListener()
	_ = l.Close()
	if err := New(Options{}).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v", err)
	}
}

func TestConnectionLimit(t *testing.T) {
	s := serve(t, Options{Limits: Limits{Connections: 1}}, newRecorder(), nil)
	c := dial(t, s.url)
	if _, err := Dial(t.Context(), s.url); err == nil {
		t.Error("a second connection was served")
	}
	_ = c.Close()
	s.stop()
	if n := testutil.ToFloat64(s.metrics.closed.WithLabelValues(causeLimit)); n != 1 {
		t.Errorf("%v connections were counted as too many", n)
	}
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s, stop := serveOn(t, l, Options{}, nil, nil)
		begin := time.Now()
		conn := l.dial()
		hello := make([]byte, 1+2*1536)
		hello[0] = 3
		go func() { _, _ = conn.Write(hello) }()
		_, err := io.Copy(io.Discard, conn)
		if took := time.Since(begin); err != nil || took != time.Minute {
			t.Errorf("ended after %v with %v", took, err)
		}
		stop()
		counts(t, s, causeIdle)
	})
}

func TestSilentPublisher(t *testing.T) {
	s := serve(t, Options{Limits: Limits{Silence: 50 * time.Millisecond}}, newRecorder(), nil)
	c := dial(t, s.url)
	if err := c.Publish(t.Context(), "x", "live"); err != nil {
		t.Fatal(err)
	}
	closedBy(t, c)
	s.counted(t, causeSilent)
}

func TestT44_StalledViewer(t *testing.T) {
	large := batchesOf(videoOnly, []media.Frame{frame(media.Video, 0, "K"+strings.Repeat("x", 8<<20))})
	viewers := make(chan stream.Viewer, 1)
	s := serve(t, Options{Limits: Limits{Write: 50 * time.Millisecond}}, nil, func(v stream.Viewer) stream.Player {
		viewers <- v
		return &listPlayer{v: v, list: func(stream.Request) []*media.Batch { return slices.Repeat(large, 10) }}
	})
	c := dial(t, s.url)
	if err := c.Play(t.Context(), "x", stream.StartAny, -1, true); err != nil {
		t.Fatal(err)
	}
	<-(<-viewers).Context().Done()
	s.counted(t, causeSlow)
	// What it did not take is gone: the kernel does not go on trying.
	if _, err := io.Copy(io.Discard, c.conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection has ended by %v, want a reset", err)
	}
}

func TestPublish(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{}, r, nil)
	c := dial(t, s.url+"?token=1")
	if err := c.Publish(t.Context(), "x?key=2", "append"); err != nil {
		t.Fatal(err)
	}
	want := ingest.Request{App: "live", Name: "x", Params: url.Values{"key": {"2"}, "token": {"1"}}, Remote: addrOf(c.conn), Append: true}
	if got := r.request(); !reflect.DeepEqual(got, want) {
		t.Errorf("the request is %+v, want %+v", got, want)
	}
	if err := c.Command("FCUnpublish", "x?key=2"); err != nil {
		t.Fatal(err)
	}
	until(t, c, "NetStream.Unpublish.Success")
	<-r.closed
}

func TestPublicationOver(t *testing.T) {
	for err, code := range map[error]string{
		media.ErrTakenOver:                  "NetStream.Publish.BadName",
		errors.New("the stage has stopped"): "NetStream.Unpublish.Success",
	} {
		r := newRecorder()
		s := serve(t, Options{}, r, nil)
		c := dial(t, s.url)
		if err := c.Publish(t.Context(), "x", "live"); err != nil {
			t.Fatal(err)
		}
		r.end(err)
		list := until(t, c, code)
		if st := list[len(list)-1].Status; st.Level != "error" || st.Description != err.Error() {
			t.Errorf("the client is told %+v", st)
		}
		closedBy(t, c)
		<-r.closed
		_ = c.Close()
		s.counted(t, causeOver)
	}
}

func TestPlay(t *testing.T) {
	players := make(chan *listPlayer, 1)
	s := serve(t, Options{}, nil, func(v stream.Viewer) stream.Player {
		p := &listPlayer{v: v, list: func(stream.Request) []*media.Batch {
			return batchesOf(videoOnly, []media.Frame{frame(media.Video, 100, "K1")}, []media.Frame{frame(media.Video, 140, "p2")})
		}}
		players <- p
		return p
	})
	c := dial(t, s.url)
	if err := c.createStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = c.SetBuffer(ms(3000))
	if err := c.Play(t.Context(), "mp4:x.mp4?t=1", ms(5000), 0, false); err != nil {
		t.Fatal(err)
	}
	_ = c.Pause(true, ms(1234))
	_ = c.Seek(ms(77))
	_ = c.SetBuffer(ms(30000))
	_ = c.Command("receiveVideo", false)
	_ = c.Command("pauseRaw", false, 9)
	list := until(t, c, "NetStream.Play.Stop")
	var got []string
	for _, m := range list {
		switch m.Kind {
		case KindMedia:
			got = append(got, fmt.Sprintf("%s %d %d", m.Track, m.Time, len(m.Body)))
		case KindStatus:
			got = append(got, m.Status.Code)
		case KindEvent:
			got = append(got, fmt.Sprint("event ", m.Event))
		}
	}
	want := []string{"event 4", "event 0", "NetStream.Play.Reset", "NetStream.Play.Start", "data 0 24", "video 100 2", "video 140 2",
		"event 1", got[8], "NetStream.Play.Stop"}
	if !slices.Equal(got, want) {
		t.Errorf("received %q", got)
	}
	_ = c.Command("closeStream")
	if _, err := c.call(t.Context(), "createStream", nil); err != nil { // the commands before it have been handled
		t.Fatal(err)
	}
	s.stop()
	calls := []any{
		ms(3000),
		stream.Request{App: "live", Name: "x.mp4", Protocol: "rtmp", Params: url.Values{"t": {"1"}}, Remote: addrOf(c.conn), Start: ms(5000), Length: 0, Append: true},
		[]any{"pause", true, ms(1234)}, []any{"seek", ms(77)}, ms(30000), []any{media.Video, false}, []any{"pause", false, ms(9)},
	}
	if p := <-players; !reflect.DeepEqual(p.calls, calls) {
		t.Errorf("the player was told\n%v, want\n%v", p.calls, calls)
	}
}

func TestPlayArguments(t *testing.T) {
	for _, c := range []struct {
		args          []any
		start, length time.Duration
		append        bool
	}{
		{nil, stream.StartAny, -1, false},
		{[]any{-2.0}, stream.StartAny, -1, false},
		{[]any{-2000.0}, stream.StartAny, -1, false},
		{[]any{-1.0, -1.0, true}, stream.StartLive, -1, false},
		{[]any{-1000.0, 0.0, false}, stream.StartLive, 0, true},
		{[]any{0.0, 2500.0, 1.0}, 0, ms(2500), false},
		{[]any{5000.0, nil, 0.0}, ms(5000), -1, true},
		{[]any{"x", amf.Undefined{}, "y"}, stream.StartAny, -1, false},
		{[]any{1e300}, ms(10 * 365 * 24 * 3600e3), -1, false},
	} {
		conn, viewers := newViewers(1)
		s := viewers[0].s
		p := new(listPlayer)
		p.list = func(stream.Request) []*media.Batch { return nil }
		p.v = viewers[0]
		s.address.app = "live"
		s.state = connected
		st := &messageStream{id: 1, state: playing, player: p}
		s.streams[1] = st
		if err := s.command(1, amf.Append(nil, append([]any{"play", 0, nil, "x"}, c.args...)...)); err != nil {
			t.Fatal(err)
		}
		p.Close()
		req := p.calls[0].(stream.Request)
		if req.Start != c.start || req.Length != c.length || req.Append != c.append {
			t.Errorf("%v is %+v", c.args, req)
		}
		_ = conn
	}
}

// TestDrain checks that a server which is asked to stop closes what does
// nothing, refuses what is new, lets go on what runs, and closes that in the end.
func TestDrain(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{Drain: time.Minute}, r, nil)
	idler, first := dial(t, s.url), dial(t, s.url)
	if err := first.Publish(t.Context(), "x", "live"); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	closedBy(t, idler)
	if _, err := Dial(t.Context(), s.url); err == nil {
		t.Error("a new client was served")
	}
	if err := first.WriteMessage(media.Video, 0, []byte("x")); err != nil {
		t.Error(err)
	}
	var refused *StatusError
	if err := first.Publish(t.Context(), "y", "live"); !errors.As(err, &refused) || refused.Description != errShutdown.Error() {
		t.Errorf("a publication while draining: %v", err)
	}
	<-r.closed
	<-stopped
	if len(r.received()) != 1 {
		t.Errorf("%d messages were received while draining", len(r.received()))
	}
}

// TestDrainAway checks that a server which is emptied asks those to connect elsewhere
// who can, refuses all that is new with a word, and knows when the last has left.
func TestDrainAway(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{Elsewhere: func() string { return "there" }}, r, player(func(stream.Request) []*media.Batch { return nil }))
	able, unable := dialCaps(t, s.url, canReconnect), dialCaps(t, s.url, 0)
	if err := errors.Join(able.Publish(t.Context(), "x", "live"), unable.Play(t.Context(), "y", 0, -1, true)); err != nil {
		t.Fatal(err)
	}
	until(t, unable, "NetStream.Play.StreamNotFound") // it is served
	left := make(chan int)
	go func() { left <- s.Drain(t.Context()) }()
	list := until(t, able, "NetConnection.Connect.ReconnectRequest")
	_, port, _ := net.SplitHostPort(s.addr)
	if got, want := list[len(list)-1].Elsewhere, "rtmp://there:"+port+"/live"; got != want {
		t.Errorf("sent to %q, want %q", got, want)
	}
	var refused *StatusError
	if _, err := Dial(t.Context(), s.url); !errors.As(err, &refused) || refused.Code != "NetConnection.Connect.Rejected" {
		t.Errorf("a new client: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if n := s.Drain(ended); n < 2 || s.Connected() < 2 {
		t.Errorf("%d are left, %d connected", n, s.Connected())
	}
	_, _ = able.Close(), unable.Close()
	if n := <-left; n != 0 {
		t.Errorf("%d are left in the end", n)
	}
}

// dialCaps connects a client that says what it can do.
func dialCaps(t *testing.T, url string, caps int) *Client {
	t.Helper()
	c, err := dialAs(t.Context(), url, caps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestElsewhere(t *testing.T) {
	for _, c := range [][3]string{
		{"rtmp://here/live", "there", "rtmp://there/live"},
		{"rtmps://here:1936/live?key=1", "10.0.0.2", "rtmps://10.0.0.2:1936/live?key=1"},
		{"rtmp://here/live", "fd00::2", "rtmp://[fd00::2]/live"},
		{"rtmp://here:1935/live", "fd00::2", "rtmp://[fd00::2]:1935/live"},
		{"rtmp://here/live", "", ""},
		{"live", "there", ""},
	} {
		if got := elsewhere(c[0], c[1]); got != c[2] {
			t.Errorf("%s at %s is %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

// A player that finds its media better elsewhere sends the client there.
func TestRedirect(t *testing.T) {
	s := serve(t, Options{}, nil, func(v stream.Viewer) stream.Player {
		return &listPlayer{v: v, list: func(req stream.Request) []*media.Batch {
			if req.Redirects {
				_ = v.(stream.Redirector).Redirect("//there/x")
			}
			return nil
		}}
	})
	for caps, want := range map[int]bool{canReconnect | 4: true, 4: false} {
		c := dialCaps(t, s.url, caps)
		if err := c.Play(t.Context(), "x", stream.StartAny, -1, true); err != nil {
			t.Fatal(err)
		}
		list := until(t, c, "NetStream.Play.StreamNotFound")
		sent := slices.ContainsFunc(list, func(m Message) bool { return strings.HasPrefix(m.Elsewhere, "rtmp://there:") })
		if sent != want {
			t.Errorf("capsEx %d: sent elsewhere: %v", caps, sent)
		}
	}
}

func TestDrainEnds(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{Drain: 20 * time.Millisecond}, r, nil)
	c := dial(t, s.url)
	if err := c.Publish(t.Context(), "x", "live"); err != nil {
		t.Fatal(err)
	}
	s.counted(t, causeShutdown)
	<-r.closed
}

func TestHandlers(t *testing.T) {
	s := New(Options{})
	remove, err := s.HandlePublish("live", newRecorder())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.HandlePublish("live", newRecorder()); err == nil {
		t.Error("an app was given to two publishers")
	}
	removePlay, err := s.HandlePlay("live", player(nil))
	if err != nil {
		t.Fatal(err)
	}
	remove()
	if !s.serves("live") {
		t.Error("an app that is played from is gone")
	}
	removePlay()
	if s.serves("live") {
		t.Error("an app without handlers is served")
	}
}

// TestReplay sends what real clients have sent, captured once (ffmpeg 5.1 with
// 1.4 s of H.264 and AAC, rtmpdump 2.4), all at once and byte by byte.
func TestReplay(t *testing.T) {
	for file, want := range map[string]struct{ messages, batches, plays int }{
		"ffmpeg-publish.bin": {messages: 71, batches: 68},
		"ffmpeg-play.bin":    {plays: 1},
		"rtmpdump-play.bin":  {plays: 1},
	} {
		sent, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{len(sent), 1} {
			r := newRecorder()
			plays := 0
			s := serve(t, Options{}, r, player(func(req stream.Request) []*media.Batch {
				plays++
				return batchesOf(videoOnly, []media.Frame{frame(media.Video, 0, "K1")})
			}))
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			received := make(chan error)
			go func() { _, err := io.Copy(io.Discard, conn); received <- err }()
			for part := range slices.Chunk(sent, size) {
				if _, err := conn.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			_ = conn.(*net.TCPConn).CloseWrite()
			<-received
			_ = conn.Close()
			s.counted(t, causeClient)
			if len(r.received()) != want.messages || len(r.recorded()) != want.batches || plays != want.plays {
				t.Errorf("%s: %d messages, %d frames, %d plays", file, len(r.received()), len(r.recorded()), plays)
			}
		}
	}
}

func FuzzSession(f *testing.F) {
	for _, file := range []string{"ffmpeg-publish.bin", "ffmpeg-play.bin", "rtmpdump-play.bin"} {
		b, err := os.ReadFile("testdata/" + file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[1+2*1536:])
	}
	command := func(stream uint32, values ...any) chunk {
		p := amf.Append(nil, values...)
		return chunk{csid: 3, length: len(p), kind: 20, stream: stream, data: p}
	}
	begin := []chunk{
		{csid: 2, length: 4, kind: 1, data: []byte{0, 0, 4, 0}}, // SetChunkSize 1024
		command(0, "connect", 1, amf.Object{{Key: "app", Value: "live"}, {Key: "capsEx", Value: 1}}),
		command(0, "createStream", 2, nil),
	}
	for _, rest := range [][]chunk{
		{command(1, "publish", 0, nil, "x", "live"), {csid: 6, length: 17, kind: 22, stream: 1, data: []byte("\x09\x00\x00\x02\x00\x00\x05\x00\x00\x00\x00ab\x00\x00\x00\x0d")}, {format: 1, csid: 6, length: 3, kind: 9, data: []byte("abc")}},
		{command(1, "play", 0, nil, "x"), command(1, "pause", 0, nil, true, 5), command(1, "seek", 0, nil, 5), {csid: 2, length: 10, kind: 4, data: []byte("\x00\x03\x00\x00\x00\x01\x00\x00\x10\x00")}},
		{command(1, "play2", 0, nil, amf.Object{{Key: "streamName", Value: "x"}}), command(1, "receiveVideo", 0, nil, false), command(1, "closeStream", 0, nil), command(0, "deleteStream", 0, nil, 1)},
		{command(1, "publish", 0, nil, "../x")}, {command(1, "play", 0, nil, false)}, {command(0, "FCUnpublish", 0, nil, "x")},
	} {
		f.Add(wireOf(append(slices.Clone(begin), rest...)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		server := New(Options{})
		_, _ = server.HandlePublish("live", newRecorder())
		_, _ = server.HandlePlay("live", player(func(stream.Request) []*media.Batch {
			return batchesOf(videoOnly, []media.Frame{frame(media.Video, 0, "K1")})
		}))
		hello := make([]byte, 1+2*1536)
		hello[0] = 3
		conn := &scriptConn{Reader: io.MultiReader(bytes.NewReader(hello), bytes.NewReader(b))}
		newSession(server, t.Context(), t.Context(), conn).run()
		if !conn.closed {
			t.Error("the connection was not closed")
		}
	})
}

// A scriptConn is a connection that sends what is given.
type scriptConn struct {
	bufferConn
	io.Reader
	closed bool
}

func (c *scriptConn) Read(p []byte) (int, error)       { return c.Reader.Read(p) }
func (c *scriptConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }
func (c *scriptConn) Close() error                     { c.closed = true; return nil }
