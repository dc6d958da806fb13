package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	"github.com/mediad/mediad/core/stream"
)

// expectFLV checks that data is FLV with the frames of film, at the times that they
// have on the timeline of the media.
func expectFLV(t *testing.T, data []byte, film []*media.Batch) {
	t.Helper()
	file := memory(data)
	index, err := flv.ReadIndex(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	var got []media.Frame
	next := index.Batches(file, 0)
	for {
		b, err := next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b.Frames()...)
	}
	for _, b := range film {
		for _, want := range b.Frames() {
			if len(got) == 0 {
				t.Fatal("frames are missing at the end")
			}
			if f := got[0]; f.Track != want.Track || f.DTS != want.DTS || f.PTS != want.PTS || f.Key != want.Key || !bytes.Equal(f.Body, want.Body) {
				t.Fatalf("%s frame at %v, want %s at %v", f.Track, f.DTS, want.Track, want.DTS)
			}
			got = got[1:]
		}
	}
	if len(got) > 0 {
		t.Errorf("%d frames too many", len(got))
	}
}

func TestFLV(t *testing.T) {
	film := sampleFilm(t)
	url, _, metrics := serve(t, Limits{}, nil, playAll(film))
	resp, body := get(t, url+"/a/news.flv")
	if resp.Header.Get("Content-Type") != "video/x-flv" || resp.TransferEncoding[0] != "chunked" {
		t.Errorf("headers %v, %v", resp.Header, resp.TransferEncoding)
	}
	expectFLV(t, []byte(body), film)
	if n := gauge(t, metrics, "mediad_web_bytes_total"); n < float64(len(body)) {
		t.Errorf("%v bytes are counted of %d", n, len(body))
	}

	conn, _, err := websocket.Dial(t.Context(), strings.Replace(url, "http", "ws", 1)+"/a/news.flv", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)
	var messages []byte
	for {
		_, p, err := conn.Read(t.Context())
		if websocket.CloseStatus(err) == websocket.StatusNormalClosure {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, p...)
	}
	if string(messages) != body {
		t.Errorf("a WebSocket gets %d other bytes", len(messages))
	}
}

// TestFLVShared checks that the bytes of frames are made once, wherever a viewer joins.
func TestFLVShared(t *testing.T) {
	film := sampleFilm(t)
	var first, second flvEncoder
	a, err := first.encode(nil, film)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := second.encode(nil, film[3:])
	a, b = a[len(a)-9:], b[len(b)-9:]
	for i := range a {
		if &a[i][0] != &b[i][0] {
			t.Fatal("each viewer has bytes of its own")
		}
	}
}

// TestFLVHeader checks that a new header sends what is new of it, and no more.
func TestFLVHeader(t *testing.T) {
	b := sampleFilm(t)[0]
	other := *b.Header()
	other.Audio.Config = []byte("\xaf\x00\x12\x10")
	var e flvEncoder
	e.encode(nil, []*media.Batch{b})
	queue, _ := e.encode(nil, []*media.Batch{media.NewBatch(&other, media.NoClock, b.Frames()...)})
	want := append(appendTagHead(nil, media.Audio, b.DTS(), 4), "\xaf\x00\x12\x10\x00\x00\x00\x0f"...)
	if !bytes.Equal(queue[0], want) {
		t.Errorf("%x, want %x", queue[0], want)
	}
}

// TestHTTP10 checks that a client of HTTP/1.0 gets no chunks.
func TestHTTP10(t *testing.T) {
	film := sampleFilm(t)
	url, _, _ := serve(t, Limits{}, nil, playAll(film))
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /a/news.flv HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.TransferEncoding != nil {
		t.Errorf("%v, %v", resp.TransferEncoding, err)
	}
	expectFLV(t, body, film)
}

// TestBroken checks that a client can tell the end of media from a failure.
func TestBroken(t *testing.T) {
	film := sampleFilm(t)
	url, _, _ := serve(t, Limits{}, nil, func(v stream.Viewer, _ stream.Request) {
		v.Write(film)
		v.Status(stream.Status{Level: "error", Code: "NetStream.Play.Failed"})
	})
	resp, err := http.Get(url + "/a/news.flv")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the client sees %v", err)
	}
}

// TestSlow checks that a client who takes nothing is ended, and holds up nobody.
func TestSlow(t *testing.T) {
	film := sampleFilm(t)
	failed := make(chan error, 1)
	url, _, metrics := serve(t, Limits{Write: 50 * time.Millisecond}, nil, func(v stream.Viewer, _ stream.Request) {
		for {
			if err := v.Write(film); err != nil {
				failed <- err
				return
			}
		}
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /a/news.flv HTTP/1.1\r\nHost: a\r\n\r\n")
	if err := <-failed; !errors.Is(err, nowait.ErrSlow) {
		t.Errorf("the write fails with %v", err)
	}
	eventually(t, "the viewer is gone", func() bool { return gauge(t, metrics, "mediad_web_viewers") == 0 })
}

// TestLeave checks that a player learns that its client has left.
func TestLeave(t *testing.T) {
	film := sampleFilm(t)
	left := make(chan struct{})
	url, _, _ := serve(t, Limits{}, nil, func(v stream.Viewer, _ stream.Request) {
		v.Write(film)
		<-v.Context().Done()
		close(left)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/a/news.flv", nil)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-left
}

func TestLimits(t *testing.T) {
	film := sampleFilm(t)
	url, _, _ := serve(t, Limits{Viewers: 1, Wait: 20 * time.Millisecond}, nil, func(v stream.Viewer, r stream.Request) {
		if r.Name != "late" {
			v.Write(film[:1])
		}
		<-v.Context().Done()
	})
	if resp, _ := get(t, url+"/a/late.flv"); resp.StatusCode != 503 {
		t.Errorf("a channel without frames: %s", resp.Status)
	}
	resp, err := http.Get(url + "/a/news.flv")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp, text := get(t, url+"/a/news.flv"); resp.StatusCode != 503 || !strings.Contains(text, "too many viewers") {
		t.Errorf("a viewer too many: %s %s", resp.Status, text)
	}
}
