// Files are played from origins of many kinds, good and bad.

package readerhttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// films are files of about 4 MB with the same frames.
var films = sync.OnceValue(func() map[string][]byte {
	dir, err := os.MkdirTemp("", "film")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	run := func(args ...string) {
		cmd := exec.Command("ffmpeg", append([]string{"-v", "error"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			panic(string(out))
		}
	}
	run("-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=8,noise=alls=30:allf=t", "-f", "lavfi", "-i", "sine=d=8",
		"-c:v", "libx264", "-preset", "ultrafast", "-b:v", "4M", "-g", "25", "-bf", "2", "-c:a", "aac", "film.mp4")
	run("-i", "film.mp4", "-c", "copy", "film.flv")
	run("-i", "film.mp4", "-c", "copy", "-movflags", "+faststart", "fast.mp4")
	files := map[string][]byte{}
	for _, name := range []string{"film.mp4", "film.flv", "fast.mp4"} {
		if files[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			panic(err)
		}
	}
	return files
})

// serve serves files at an origin as it should be.
func serve(w http.ResponseWriter, r *http.Request) {
	p, ok := films()[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", `"one"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p))
}

// newTestReader returns a reader of an origin.
func newTestReader(t *testing.T, origin http.HandlerFunc, settings map[string]any) *reader {
	t.Helper()
	server := httptest.NewServer(origin)
	t.Cleanup(server.Close)
	values := map[string]any{"url": server.URL}
	for name, value := range settings {
		values[name] = value
	}
	decoded, err := Kind().Decode(values)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Kind().New(stage.Env{Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, decoded)
	if err != nil {
		t.Fatal(err)
	}
	r := s.(*reader)
	r.origin.wait = time.Millisecond
	t.Cleanup(r.origin.client.CloseIdleConnections)
	return r
}

// read opens a name and reads it to the end.
func read(t *testing.T, r *reader, name string) (batches []*media.Batch, err error) {
	t.Helper()
	s, err := r.Open(t.Context(), media.OpenRequest{Name: name})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	for {
		b, err := s.Next(t.Context())
		if err == io.EOF {
			return batches, nil
		}
		if err != nil {
			return batches, err
		}
		batches = append(batches, b)
	}
}

// want checks that a play had the whole film.
func want(t *testing.T, batches []*media.Batch, err error) {
	t.Helper()
	frames := 0
	for _, b := range batches {
		frames += len(b.Frames())
	}
	if err != nil || frames < 540 {
		t.Fatalf("%d frames, error %v", frames, err)
	}
}

func TestPlay(t *testing.T) {
	for _, test := range []struct{ name, file string }{
		{"film", "film.flv"}, {"film.flv", "film.flv"}, {"film.mp4", "film.mp4"}, {"fast", "fast.mp4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newTestReader(t, serve, nil)
			batches, err := read(t, r, test.name)
			want(t, batches, err)
			size := float64(len(films()[test.file]))
			if n := testutil.ToFloat64(r.origin.read); n > 2*size+maxPiece { // once for the index of FLV
				t.Errorf("%v bytes were read of %v", n, size)
			}
			if n := testutil.ToFloat64(r.origin.requests); n > 20 {
				t.Errorf("%v requests", n)
			}
		})
	}
}

func TestOpenRequests(t *testing.T) {
	var paths []string
	var header http.Header
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		paths, header = append(paths, r.RequestURI), r.Header
		http.NotFound(w, r)
	}, map[string]any{"headers": []string{"Authorization: Bearer x"}})
	r.origin.base.Path, r.origin.base.RawQuery = "/bucket/", "X-Key=a%2Fb"
	for _, name := range []string{"a b/ü", "x.MP4", "../x", "v1.2"} {
		if _, err := read(t, r, name); !errors.Is(err, media.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got := strings.Join(paths, "\n")
	const want = `/bucket/a%20b/%C3%BC.flv?X-Key=a%2Fb
/bucket/a%20b/%C3%BC.mp4?X-Key=a%2Fb
/bucket/a%20b/%C3%BC?X-Key=a%2Fb
/bucket/x.MP4?X-Key=a%2Fb
/bucket/v1.2.flv?X-Key=a%2Fb
/bucket/v1.2.mp4?X-Key=a%2Fb
/bucket/v1.2?X-Key=a%2Fb`
	if got != want {
		t.Errorf("requests\n%s", got)
	}
	if header.Get("Authorization") != "Bearer x" || header.Get("Range") != "bytes=0-65535" {
		t.Errorf("header %v", header)
	}
}

func TestCost(t *testing.T) {
	r := newTestReader(t, serve, nil)
	for _, test := range []struct {
		req media.OpenRequest
		err error
	}{
		{media.OpenRequest{Name: "film"}, nil},
		{media.OpenRequest{Name: "fast"}, nil},
		{media.OpenRequest{Name: "none"}, media.ErrNotFound},
		{media.OpenRequest{Name: "film", LiveOnly: true}, media.ErrNotFound},
	} {
		c, err := r.Cost(t.Context(), test.req)
		if !errors.Is(err, test.err) || err == nil && (c.Place != "http" || c.Total() != media.CostHTTP) {
			t.Errorf("%+v: %+v, %v", test.req, c, err)
		}
	}
	if n := testutil.ToFloat64(r.origin.read); n != 2 {
		t.Errorf("%v bytes were read", n)
	}
}

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		status   int
		err      error
		requests float64
	}{
		{404, media.ErrNotFound, 1}, {410, media.ErrNotFound, 1}, {401, media.ErrDenied, 1}, {403, media.ErrDenied, 1},
		{400, media.ErrUnavailable, 1}, {204, media.ErrUnavailable, 1}, {429, media.ErrUnavailable, 4}, {503, media.ErrUnavailable, 4},
	} {
		r := newTestReader(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(test.status) }, nil)
		_, err := read(t, r, "film.flv")
		if !errors.Is(err, test.err) || testutil.ToFloat64(r.origin.requests) != test.requests {
			t.Errorf("%d: error %v after %v requests", test.status, err, testutil.ToFloat64(r.origin.requests))
		}
		if strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("the error shows the origin's URL: %v", err)
		}
	}
}

// Storages that do not let one list deny what is not there.
func TestDeniedThenFound(t *testing.T) {
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/fast.mp4" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		serve(w, r)
	}, nil)
	batches, err := read(t, r, "fast")
	want(t, batches, err)
	if _, err := read(t, r, "other"); !errors.Is(err, media.ErrDenied) {
		t.Errorf("error %v", err)
	}
}

// withoutRanges serves files whole, in two halves, the second when it may.
func withoutRanges(length bool, between func()) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := films()[strings.TrimPrefix(r.URL.Path, "/")]
		if p == nil {
			http.NotFound(w, r)
			return
		}
		if length {
			w.Header().Set("Content-Length", fmt.Sprint(len(p)))
		}
		half := len(p) / 2
		w.Write(p[:half])
		w.(http.Flusher).Flush()
		between()
		w.Write(p[half:])
	}
}

func TestT27_NoRanges(t *testing.T) {
	for _, length := range []bool{true, false} {
		for name := range films() {
			t.Run(fmt.Sprint(name, length), func(t *testing.T) {
				r := newTestReader(t, withoutRanges(length, func() {}), nil)
				batches, err := read(t, r, name)
				want(t, batches, err)
				if n := testutil.ToFloat64(r.origin.requests); n != 1 {
					t.Errorf("%v requests", n)
				}
				if n := r.origin.spooled.Load(); n != 0 {
					t.Errorf("%d bytes are still spooled", n)
				}
			})
			t.Run(fmt.Sprint(name, length, "too large"), func(t *testing.T) {
				r := newTestReader(t, withoutRanges(length, func() {}), map[string]any{"spool": "1MiB"})
				if _, err := read(t, r, name); !errors.Is(err, media.ErrUnavailable) || !strings.Contains(err.Error(), "spool") {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}

// The first half plays while the second is not there, and Close ends the wait for it.
func TestT27_PlaysAsItComes(t *testing.T) {
	for _, name := range []string{"film.flv", "fast.mp4"} {
		t.Run(name, func(t *testing.T) {
			leave := make(chan struct{})
			r := newTestReader(t, withoutRanges(false, func() { <-leave }), nil)
			defer close(leave)
			s, err := r.Open(t.Context(), media.OpenRequest{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			go func() {
				for {
					if _, err := s.Next(context.Background()); err != nil {
						ended <- err
						return
					}
				}
			}()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := <-ended; err != media.ErrClosed {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestT28_WholeFileForARange(t *testing.T) {
	first := true
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		if !first {
			r.Header.Del("Range")
		}
		first = false
		serve(w, r)
	}, nil)
	if _, err := read(t, r, "film.flv"); !errors.Is(err, errAnswer) {
		t.Errorf("error %v", err)
	}
	for _, bad := range []string{"bytes 1-65536/100000", "bytes 0-65535/1000", "bytes 0-65535/*", "", "bytes 5-2/100000"} {
		r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", bad)
			w.WriteHeader(http.StatusPartialContent)
			w.Write(films()["film.flv"][:minPiece])
		}, nil)
		if _, err := read(t, r, "film.flv"); !errors.Is(err, errAnswer) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

func TestT29_VersionChanges(t *testing.T) {
	type answer struct{ tag, modified, extra string }
	const day = "Mon, 02 Jan 2006 15:04:05 GMT"
	const next = "Tue, 03 Jan 2006 15:04:05 GMT"
	for _, test := range []struct {
		name         string
		first, later answer
		changed      bool
	}{
		{"tag", answer{tag: `"1"`}, answer{tag: `"2"`}, true},
		{"tag is gone", answer{tag: `"1"`}, answer{}, true},
		{"weak tag", answer{tag: `W/"1"`}, answer{tag: `W/"2"`}, true},
		{"date", answer{modified: day}, answer{modified: next}, true},
		{"size", answer{}, answer{extra: "more"}, true},
		{"other date, same tag", answer{`"1"`, day, ""}, answer{`"1"`, next, ""}, false},
		{"nothing", answer{}, answer{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var changed atomic.Bool
			r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
				now := test.first
				if changed.Load() {
					now = test.later
				}
				for name, value := range map[string]string{"ETag": now.tag, "Last-Modified": now.modified} {
					if value != "" {
						w.Header().Set(name, value)
					}
				}
				p := append(bytes.Clone(films()["film.mp4"]), now.extra...)
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p))
			}, nil)
			s, err := r.Open(t.Context(), media.OpenRequest{Name: "film.mp4"})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if known := test.first != (answer{}) && test.first.tag != `W/"1"`; (s.Info().Version != "") != known {
				t.Errorf("version %q", s.Info().Version)
			}
			changed.Store(true)
			for err == nil {
				_, err = s.Next(t.Context())
			}
			if test.changed != errors.Is(err, media.ErrChanged) || !test.changed && err != io.EOF {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A file that changes while it is opened is opened anew.
func TestT29_ChangesWhileOpened(t *testing.T) {
	n := 0
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n > 1 {
			w.Header().Set("ETag", `"2"`)
		} else {
			w.Header().Set("ETag", `"1"`)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(films()["film.mp4"]))
	}, nil)
	s, err := r.Open(t.Context(), media.OpenRequest{Name: "film.mp4"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if v := s.Info().Version; v != `"2"` {
		t.Errorf("version %s", v)
	}
}

// cutter serves files, but closes the connection in the middle of each answer after the first ones.
func cutter(whole int, bytes int) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) > int64(whole) {
			w = &short{w, bytes}
		}
		serve(w, r)
	}
}

// short is a ResponseWriter that ends the connection after some bytes.
type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(p []byte) (int, error) {
	if s.left == 0 {
		panic(http.ErrAbortHandler)
	}
	n, err := s.ResponseWriter.Write(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

func TestT30_CutShort(t *testing.T) {
	for _, name := range []string{"film.flv", "film.mp4"} {
		r := newTestReader(t, cutter(4, 10), nil)
		batches, err := read(t, r, name)
		if !errors.Is(err, media.ErrUnavailable) || errors.Is(err, io.EOF) {
			t.Errorf("%s: error %v after %d batches", name, err, len(batches))
		}
		r = newTestReader(t, cutter(0, 200<<10), nil) // enough to go on from
		batches, err = read(t, r, name)
		want(t, batches, err)

		p := films()[name]
		r = newTestReader(t, func(w http.ResponseWriter, _ *http.Request) { // no ranges
			w.Header().Set("Content-Length", fmt.Sprint(len(p)))
			w.Write(p[:len(p)-1000])
		}, nil)
		if batches, err = read(t, r, name); !errors.Is(err, media.ErrUnavailable) {
			t.Errorf("%s without ranges: error %v after %d batches", name, err, len(batches))
		}
	}
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-65535/1000000")
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(http.StatusPartialContent)
		w.Write(make([]byte, 100))
	}, nil)
	if _, err := read(t, r, "film.flv"); !errors.Is(err, errAnswer) {
		t.Errorf("wrong Content-Length: %v", err)
	}
}

func TestT31_Slow(t *testing.T) {
	for name, origin := range map[string]http.HandlerFunc{
		"headers": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-65535/1000000")
			w.WriteHeader(http.StatusPartialContent)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"a byte at a time": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-65535/1000000")
			w.WriteHeader(http.StatusPartialContent)
			for r.Context().Err() == nil {
				w.Write([]byte{0})
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond)
			}
		},
		"without ranges": func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("FLV"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestReader(t, origin, map[string]any{"timeout": "50ms"})
			if _, err := read(t, r, "film.flv"); !errors.Is(err, errSlow) || !errors.Is(err, media.ErrUnavailable) {
				t.Errorf("error %v", err)
			}
			if n := testutil.ToFloat64(r.origin.requests); n != 1 {
				t.Errorf("%v requests", n)
			}
		})
	}
}

func TestT32_Redirects(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(serve)) // on loopback, at another port
	defer other.Close()
	_, port, err := net.SplitHostPort(other.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		to      string
		private bool
		err     error
	}{
		{to: "/film.flv?again", err: errRedirect}, // for ever
		{to: "file:///etc/passwd", err: errRedirect},
		{to: other.URL, err: errRedirect},
		{to: "http://localhost:" + port, err: errRedirect},
		{to: "http://[::ffff:127.0.0.1]:" + port, err: errRedirect},
		{to: "http://0.0.0.0:" + port, err: errRedirect},
		{to: "http://169.254.169.254/latest/meta-data", err: errRedirect},
		{to: "http://10.0.0.1/", err: errRedirect},
		{to: "http://[fe80::1]/", err: errRedirect},
		{to: other.URL, private: true},
	} {
		t.Run(test.to, func(t *testing.T) {
			to := test.to
			if to == other.URL {
				to += "/film.flv"
			}
			r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, to, http.StatusFound)
			}, map[string]any{"allow_private": fmt.Sprint(test.private)})
			batches, err := read(t, r, "film.flv")
			if test.err == nil {
				want(t, batches, err)
				return
			}
			if !errors.Is(err, test.err) || !errors.Is(err, media.ErrUnavailable) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// The headers are for the origin alone.
func TestT32_HeadersAtRedirect(t *testing.T) {
	var got http.Header
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		serve(w, r)
	}))
	defer other.Close()
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
	}, map[string]any{"allow_private": "true", "headers": []string{"X-Key: secret", "Authorization: secret"}})
	batches, err := read(t, r, "film.flv")
	want(t, batches, err)
	if got.Get("X-Key") != "" || got.Get("Authorization") != "" || got.Get("Range") == "" {
		t.Errorf("the other host was sent %v", got)
	}
}

func TestRefusePrivate(t *testing.T) {
	for address, ok := range map[string]bool{
		"93.184.216.34:80": true, "[2606:2800:220:1::1]:443": true,
		"127.0.0.1:80": false, "127.9.9.9:80": false, "[::1]:80": false, "0.0.0.0:80": false, "[::]:80": false,
		"10.1.2.3:80": false, "172.16.0.1:80": false, "192.168.1.1:80": false, "100.64.0.1:80": false,
		"169.254.169.254:80": false, "[fe80::1%eth0]:80": false, "[fd00::1]:80": false, "224.0.0.1:80": false,
		"255.255.255.255:80": false, "[::ffff:10.0.0.1]:80": false, "[64:ff9b::7f00:1]:80": false, "[2002:7f00:1::]:80": false,
		"198.18.0.1:80": false, "[fec0::1]:80": false, "[::127.0.0.1]:80": false, "[64:ff9b:1::7f00:1]:80": false,
	} {
		if err := refusePrivate("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestT33_Retries(t *testing.T) {
	for name, fail := range map[string]func(http.ResponseWriter){
		"5xx":   func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
		"reset": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%3 != 0 { // two of three
					fail(w)
					return
				}
				serve(w, r)
			}, nil)
			batches, err := read(t, r, "film.mp4")
			want(t, batches, err)
			if testutil.ToFloat64(r.origin.retried) == 0 {
				t.Errorf("%v retries", testutil.ToFloat64(r.origin.retried))
			}
		})
	}
	r := newTestReader(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		map[string]any{"retries": "10"})
	r.origin.wait = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := r.Open(ctx, media.OpenRequest{Name: "film.flv"})
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestT34_OneIndexForAll(t *testing.T) {
	var moov atomic.Int64 // requests for the end of the file, where the moov is
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "bytes=0-65535" {
			moov.Add(1)
		}
		serve(w, r)
	}, nil)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			s, err := r.Open(t.Context(), media.OpenRequest{Name: "film.mp4"})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := moov.Load(); n != 1 {
		t.Errorf("the tables were read %d times", n)
	}
}

// Those who open a file while it is asked for share the answer, but not the end of
// the one who asks.
func TestT34_OneRequestForAll(t *testing.T) {
	var opens atomic.Int64
	asked, answer := make(chan struct{}), make(chan struct{})
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "bytes=0-65535" && opens.Add(1) <= 2 {
			asked <- struct{}{}
			<-answer
		}
		serve(w, r)
	}, nil)
	leaving, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := r.Open(leaving, media.OpenRequest{Name: "film.flv"})
		left <- err
	}()
	<-asked
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			batches, err := read(t, r, "film.flv")
			want(t, batches, err)
		})
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	<-asked // another goes on, and again all others wait for it
	if n := opens.Load(); n != 2 {
		t.Errorf("%d requests are under way, want one, after one that was left", n)
	}
	close(answer)
	all.Wait()
}

// A context that ends leaves the source as it was; Close ends a Next that waits.
func TestContextAndClose(t *testing.T) {
	var stall atomic.Bool
	waits := make(chan struct{}, 10)
	r := newTestReader(t, func(w http.ResponseWriter, r *http.Request) {
		if stall.Load() {
			waits <- struct{}{}
			<-r.Context().Done()
			return
		}
		serve(w, r)
	}, nil)
	s, err := r.Open(t.Context(), media.OpenRequest{Name: "film.mp4"})
	if err != nil {
		t.Fatal(err)
	}
	next := func(ctx context.Context) chan error {
		ended := make(chan error)
		go func() {
			var err error
			for err == nil {
				_, err = s.Next(ctx)
			}
			ended <- err
		}()
		<-waits
		return ended
	}
	stall.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	ended := next(ctx)
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Errorf("error %v", err)
	}
	stall.Store(false)
	if _, err := s.Next(t.Context()); err != nil {
		t.Errorf("after the context had ended: %v", err)
	}
	stall.Store(true)
	ended = next(t.Context())
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-ended; err != media.ErrClosed {
		t.Errorf("error %v", err)
	}
}

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		values map[string]any
		want   string
	}{
		{map[string]any{}, "url: is missing"},
		{map[string]any{"url": "ftp://x"}, "url: must begin"},
		{map[string]any{"url": "http:///x"}, "url: must begin"},
		{map[string]any{"url": "http://user:secret@x:y/"}, "url: is no URL"},
		{map[string]any{"url": "http://x", "headers": "no colon"}, "headers: number 1"},
		{map[string]any{"url": "http://x", "headers": []string{"A: b", "A b: c"}}, "headers: number 2"},
		{map[string]any{"url": "http://x", "timeout": "0s"}, "timeout: must"},
		{map[string]any{"url": "http://x", "retries": "-1"}, "retries: must"},
	} {
		_, err := Kind().Decode(test.values)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: error %v", test.values, err)
		}
	}
}

func TestServe(t *testing.T) {
	r := newTestReader(t, serve, nil)
	batches, err := read(t, r, "film.flv")
	want(t, batches, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Serve(ctx); err != nil {
		t.Error(err)
	}
}
