package web

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
)

func TestPaths(t *testing.T) {
	for path, want := range map[string]target{
		"news.flv":                                {FLV, "news", ""},
		"a/b.c.mp4":                               {MP4, "a/b.c", ""},
		"news/index.m3u8":                         {HLS, "news", "index.m3u8"},
		"a/news/0123456789abcdef-12.m4s":          {HLS, "a/news", "0123456789abcdef-12.m4s"},
		"news/0123456789ab_video1_stream.m3u8":    {HLS, "news", "0123456789ab_video1_stream.m3u8"},
		"news/0123456789ab_audio2_part12.mp4":     {HLS, "news", "0123456789ab_audio2_part12.mp4"},
		"news/0123456789ab_audio2_part12.mp4.mp4": {MP4, "news/0123456789ab_audio2_part12.mp4", ""},
		"news/gap.mp4":                            {HLS, "news", "gap.mp4"},
		"gap.mp4":                                 {MP4, "gap", ""},
	} {
		if got, err := parse(path); got != want || err != nil {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	for _, path := range []string{
		"", "news", "index.m3u8", ".flv", "/news.flv", "../news.flv", "a/../../etc/passwd.flv", "a//b.mp4", ".hidden/index.m3u8",
		"<script>.flv", "a\x00b.mp4", "a\\b.mp4", "news.m3u8", "news/other.m3u8", strings.Repeat("a", 300) + ".flv",
	} {
		if got, err := parse(path); err == nil {
			t.Errorf("%q is taken for %+v", path, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"news.flv", "a/b/index.m3u8", "../x.mp4", "n/0123456789ab_video1_seg1.mp4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if got, err := parse(path); err == nil && media.CheckName(got.name) != nil {
			t.Errorf("%q is taken for %+v", path, got)
		}
	})
}

// TestFollows sends those away who can follow, and serves all others.
func TestFollows(t *testing.T) {
	away := &media.RedirectError{URL: "//10.0.0.2/film"}
	lib := &library{away: away}
	base, _, _ := serve(t, Limits{}, lib, func(v stream.Viewer, r stream.Request) {
		if r.Redirects {
			_ = v.(stream.Redirector).Redirect(away.URL)
			return
		}
		v.Status(stream.Status{Level: "error", Code: "NetStream.Play.Failed", Err: media.ErrDenied})
	})
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	port := base[strings.LastIndex(base, ":"):]
	for _, c := range []struct {
		agent, path string
		location    string
	}{
		{"Mozilla/5.0 (X11; Linux x86_64)", "/a/film.mp4?key=1", "http://10.0.0.2" + port + "/a/film.mp4?key=1"},
		{"Lavf/59.27.100", "/a/film/index.m3u8", "http://10.0.0.2" + port + "/a/film/index.m3u8"},
		{"VLC/3.0.18 LibVLC/3.0.18", "/a/film.flv", "http://10.0.0.2" + port + "/a/film.flv"},
		{"curl/7.88.1", "/a/film.mp4", ""},
		{"curl/7.88.1", "/a/film/index.m3u8", ""},
		{"", "/a/film.flv", ""},
		{"Lavf/59.27.100", "/a/film/0123456789abcdef-0.m4s", ""}, // has begun here
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("User-Agent", c.agent)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Location"); got != c.location || (resp.StatusCode == http.StatusFound) != (c.location != "") {
			t.Errorf("%s of %q: %s, location %q, want %q", c.path, c.agent, resp.Status, got, c.location)
		}
	}
}

// TestErrors checks what a client is told of what goes wrong.
func TestErrors(t *testing.T) {
	lib := &library{err: map[string]error{
		"denied": media.ErrDenied, "down": fmt.Errorf("dial 10.1.2.3: %w", media.ErrUnavailable), "broken": fmt.Errorf("/secret/path is damaged"),
		"moved": &media.RedirectError{URL: "http://other.example/a/moved.mp4"}, "trap": &media.RedirectError{URL: "javascript:alert(1)"},
	}}
	url, _, metrics := serve(t, Limits{}, lib, func(v stream.Viewer, r stream.Request) {
		err := media.ErrUnavailable
		if r.Name == "gone" {
			err = media.ErrNotFound
		}
		v.Status(stream.Status{Level: "error", Code: "NetStream.Play.Failed", Description: "/secret/path", Err: err})
	})
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/a/gone.flv", 404},
		{"GET", "/a/down.flv", 503},
		{"GET", "/a/gone.mp4", 404},
		{"HEAD", "/a/gone.flv", 404},
		{"GET", "/a/gone/index.m3u8", 404},
		{"GET", "/a/gone/0123456789ab_video1_stream.m3u8", 404},
		{"GET", "/a/gone/0-0.m4s", 404},
		{"GET", "/a/denied.mp4", 403},
		{"GET", "/a/denied/index.m3u8", 403},
		{"GET", "/a/down/index.m3u8", 503},
		{"GET", "/a/broken.mp4", 500},
		{"GET", "/a/moved.mp4", 302},
		{"GET", "/a/trap.mp4", 503},
		{"GET", "/b/gone.flv", 404},
		{"GET", "/a/", 404},
		{"GET", "/a/%3Cscript%3E.flv", 404},
		{"GET", "/a/x%2F..%2F..%2Fetc.flv", 404},
		{"GET", "/a/x.flv?start=-1", 400},
		{"GET", "/a/x.flv?start=soon", 400},
		{"POST", "/a/x.flv", 405},
		{"OPTIONS", "/a/x.flv", 204},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var body [1024]byte
		n, _ := resp.Body.Read(body[:])
		resp.Body.Close()
		if resp.StatusCode != c.code {
			t.Errorf("%s %s: %s, want %d", c.method, c.path, resp.Status, c.code)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "*" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: headers %v", c.method, c.path, resp.Header)
		}
		for _, secret := range []string{"secret", "10.1.2.3", "<script>"} {
			if strings.Contains(string(body[:n]), secret) {
				t.Errorf("%s %s: tells %q", c.method, c.path, body[:n])
			}
		}
	}
	if n := gauge(t, metrics, "mediad_web_refused_total"); n < 15 {
		t.Errorf("%v refusals are counted", n)
	}
}

func TestApps(t *testing.T) {
	s := New(Options{})
	watch := Watch{Forms: []Form{FLV}}
	remove, err := s.HandleWatch("a", watch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.HandleWatch("a", watch); err == nil {
		t.Error("an app is registered twice")
	}
	if _, err := s.HandleWatch("../a", watch); err == nil {
		t.Error("an app has a name that is none")
	}
	removeLonger, err := s.HandleWatch("a/b", watch)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/a/x.flv": "a", "/a/b/x.flv": "a/b", "/a/bc/x.flv": "a", "/ab/x.flv": "", "/a": ""} {
		name := ""
		if a, _, done := s.find(path); a != nil {
			name = a.name
			done()
		}
		if name != want || s.Serves(path) != (want != "") {
			t.Errorf("%s is of %q, want %q", path, name, want)
		}
	}
	remove()
	remove()
	if s.Serves("/a/x.flv") || !s.Serves("/a/b/x.flv") {
		t.Error("the wrong app is removed")
	}
	removeLonger()
	if _, err := s.HandleWatch("a", watch); err != nil {
		t.Errorf("a removed app cannot come again: %v", err)
	}
	s.Close()
	if _, err := s.HandleWatch("b", watch); err == nil {
		t.Error("an app is registered after Close")
	}
}

// TestClose checks that neither viewers nor those who wait hold the server up.
func TestClose(t *testing.T) {
	film := sampleFilm(t)
	lib := &library{live: true, films: map[string][]*media.Batch{"live": film, "short": film[:1]}}
	begun := make(chan struct{}, 2)
	url, s, metrics := serve(t, Limits{}, lib, func(v stream.Viewer, r stream.Request) {
		if r.Name == "live" {
			v.Write(film[:1])
			begun <- struct{}{}
		}
		<-v.Context().Done()
	})
	for _, path := range []string{"/a/live.flv", "/a/live.mp4", "/a/none.flv", "/a/short/index.m3u8"} {
		r, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if resp, err := http.DefaultClient.Do(r); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}()
		defer func() { <-done }()
	}
	<-begun
	<-begun
	eventually(t, "all are there", func() bool {
		return gauge(t, metrics, "mediad_web_viewers") == 4 && gauge(t, metrics, "mediad_web_muxers") == 1
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if viewers, muxers := gauge(t, metrics, "mediad_web_viewers"), gauge(t, metrics, "mediad_web_muxers"); viewers != 0 || muxers != 0 {
		t.Errorf("%v viewers and %v muxers are left", viewers, muxers)
	}
}
