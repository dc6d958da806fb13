package web

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
)

// largeFilm has a frame of 100 kB in each of its batches: 20 MB, which no socket keeps.
func largeFilm() (film []*media.Batch) {
	header := &media.Header{Video: media.Format{Codec: "h264", Config: []byte("\x17\x00\x00\x00\x00\x01")}}
	builder := media.NewBuilder(media.NoClock)
	for i := range 200 {
		at := 40 * time.Millisecond * time.Duration(i)
		body := bytes.Repeat([]byte{byte(i)}, 100_000)
		copy(body, "\x27\x01\x00\x00\x00")
		if i == 0 {
			body[0] = 0x17
		}
		builder.Copy(media.Frame{Track: media.Video, Key: i == 0, DTS: at, PTS: at, Body: body})
		film = append(film, builder.Batch(header))
	}
	return film
}

// TestTry plays to clients that read nothing at first. What the socket does not take at once
// comes later, in order and whole, however it is framed.
func TestTry(t *testing.T) {
	film := largeFilm()
	full := make(chan struct{})
	url, _, metrics := serve(t, Limits{}, nil, func(v stream.Viewer, _ stream.Request) {
		p := v.(promptViewer)
		err := p.Write(film[:1])
		n := 1
		for done := true; done && err == nil; n++ {
			if n == len(film) {
				t.Error("20 MB are taken by a socket that nobody reads from")
				break
			}
			done, err = p.Try(film[n : n+1])
		}
		full <- struct{}{}
		if err == nil {
			err = p.Write(nil)
		}
		s := socketOf(p.wire)
		s.Lock() // somebody else writes: nothing may wait, nor be lost
		if done, err := p.Try(film[n : n+1]); done || err != nil {
			t.Errorf("Try while another writes: %v, %v", done, err)
		}
		s.Unlock()
		n++
		if err == nil {
			err = p.Write(film[n:])
		}
		if err != nil {
			t.Error(err)
		}
		p.Status(stream.Status{Level: "status", Code: "NetStream.Play.Stop"})
		s.shut()
		if done, err := p.Try(film[:1]); done || err == nil {
			t.Error("Try works after the end")
		}
	})
	address := strings.TrimPrefix(url, "http://")
	for _, version := range []string{"HTTP/1.1", "HTTP/1.0"} {
		t.Run(version, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, "GET /a/news.flv "+version+"\r\nHost: a\r\n\r\n")
			<-full
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if chunked := resp.TransferEncoding != nil; err != nil || chunked != (version == "HTTP/1.1") {
				t.Errorf("%v, %v", resp.TransferEncoding, err)
			}
			expectFLV(t, body, film)
		})
	}
	t.Run("WebSocket", func(t *testing.T) {
		conn, _, err := websocket.Dial(t.Context(), "ws://"+address+"/a/news.flv", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		conn.SetReadLimit(-1)
		<-full
		pong := make(chan error, 1)
		go func() { pong <- conn.Ping(t.Context()) }()
		var body []byte
		for {
			_, p, err := conn.Read(t.Context())
			if websocket.CloseStatus(err) == websocket.StatusNormalClosure {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body = append(body, p...)
		}
		expectFLV(t, body, film)
		if err := <-pong; err != nil {
			t.Errorf("a ping while much is to be sent: %v", err)
		}
	})
	eventually(t, "all have left", func() bool { return gauge(t, metrics, "mediad_web_viewers") == 0 })
}

// TestPrompt checks who can be written to without waiting: who is sent what all are, on a
// connection that is the client's alone.
func TestPrompt(t *testing.T) {
	for path, want := range map[string]bool{"/a/news.flv": true, "/a/news.mp4": false} {
		seen := make(chan stream.Viewer, 1)
		url, _, _ := serve(t, Limits{}, nil, func(v stream.Viewer, _ stream.Request) {
			seen <- v
			v.Status(stream.Status{Level: "error"})
		})
		get(t, url+path)
		if _, is := (<-seen).(stream.Prompt); is != want {
			t.Errorf("%s: %v", path, is)
		}
	}
	for _, r := range []*http.Request{{ProtoMajor: 2}, {ProtoMajor: 1, TLS: new(tls.ConnectionState)}} {
		if _, is := (&viewer{encoder: &flvEncoder{}}).of(r).(stream.Prompt); is {
			t.Errorf("%+v", r)
		}
	}
}

// TestHTTP2 plays over HTTP/2, where the connection is not one viewer's: also after a pause that
// is longer than a write may take, and such that the end is told from a failure.
func TestHTTP2(t *testing.T) {
	film := sampleFilm(t)
	const write = 100 * time.Millisecond
	script := func(v stream.Viewer, r stream.Request) {
		v.Write(film[:1])
		time.Sleep(3 * write)
		if err := v.Write(film[1:]); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
		code := "NetStream.Play.Stop"
		level := "status"
		if r.Name == "broken" {
			code, level = "NetStream.Play.Failed", "error"
		}
		v.Status(stream.Status{Level: level, Code: code})
	}
	s := New(Options{Limits: Limits{Write: write}})
	if _, err := s.HandleWatch("a", Watch{Forms: []Form{FLV}, NewPlayer: func(v stream.Viewer) stream.Player {
		return &player{viewer: v, script: script}
	}}); err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewUnstartedServer(s.Handler())
	listener.EnableHTTP2 = true
	listener.StartTLS()
	defer listener.Close()
	defer s.Close()
	for _, name := range []string{"news", "broken"} {
		resp, err := listener.Client().Get(listener.URL + "/a/" + name + ".flv")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 || (err != nil) != (name == "broken") {
			t.Errorf("%s: %s, %v", name, resp.Proto, err)
		}
		if name == "news" {
			expectFLV(t, body, film)
		}
	}
}
