// Numbers 19 to 34: files, and origins over HTTP.

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/e2e/lab"
)

// A screening is what a viewer got of a film.
type screening struct {
	numbers []int // of the video frames; -1 for one without
	sums    []uint32
	end     string // the code of the last status
}

// unbroken is how many frames there are, if they are those from 0 on; else -1.
func (s screening) unbroken() int {
	for i, n := range s.numbers {
		if n != i {
			return -1
		}
	}
	return len(s.numbers)
}

// play plays APP/NAME once, as fast as it comes.
func (h *house) play(ctx context.Context, path string) (s screening, err error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	app, name, _ := strings.Cut(path, "/")
	c, err := rtmp.Dial(ctx, h.URL(app))
	if err != nil {
		return s, err
	}
	defer c.Close()
	if err := c.Play(ctx, name, 0, -1, true); err != nil {
		return s, err
	}
	if err := c.SetBuffer(time.Hour); err != nil {
		return s, err
	}
	for {
		m, err := c.Next(ctx)
		if err != nil {
			return s, err
		}
		switch {
		case m.Kind == rtmp.KindStatus:
			s.end = m.Status.Code
			if m.Status.Level == "error" || s.end == "NetStream.Play.Stop" {
				return s, nil
			}
		case m.Kind == rtmp.KindMedia && m.Track == media.Video:
			p, err := flv.ParsePacket(media.Video, m.Body)
			if err != nil || p.Kind != flv.Coded {
				continue
			}
			n, ok := lab.Number(media.Video, m.Body)
			if !ok {
				n = -1
			}
			s.numbers = append(s.numbers, n)
			s.sums = append(s.sums, crc32.ChecksumIEEE(m.Body))
		}
	}
}

// played plays a film once and tells what came.
func (h *house) played(t *testing.T, path string) screening {
	t.Helper()
	s, err := h.play(t.Context(), path)
	if err != nil {
		t.Fatalf("%s: %v, after %d frames", path, err, len(s.numbers))
	}
	return s
}

// refused checks that a film is refused with a status.
func (h *house) refused(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if s := h.played(t, path); len(s.numbers) > 0 || s.end != "NetStream.Play.Failed" && s.end != "NetStream.Play.StreamNotFound" {
			t.Errorf("%s: %d frames, and then %s", path, len(s.numbers), s.end)
		}
	}
}

// shelve writes a file among the media.
func (h *house) shelve(t *testing.T, name string, content []byte) {
	t.Helper()
	must(t, os.WriteFile(h.Path("media", name), content, 0o644))
}

// unreadable is logged of a film that cannot be played at all.
const unreadable = "did not begin.*reason=failed"

func TestTorments_Files(t *testing.T) {
	t.Parallel()
	open(t, "").suffer(t, []ordeal{
		{19, "ByteByByte", byteByByte, "", "", false},
		{20, "Cut", cutFilms, "", "", false},
		{21, "PreviousTagSize", previousTagSize, "", "", false},
		{21, "DataOffset", dataOffset, unreadable, `mediad_stream_ends_total{cause="failed"}`, false},
		{22, "Boxes", boxes, unreadable, `mediad_stream_ends_total{cause="failed"}`, false},
		{23, "Counts", counts, unreadable, `mediad_stream_ends_total{cause="failed"}`, false},
		{24, "Moov", moov, unreadable, `mediad_stream_ends_total{cause="failed"}`, false},
		{25, "OutOfRoot", outOfRoot, "did not begin.*reason=not_found", `mediad_stream_ends_total{cause="not_found"}`, false},
		{26, "Shrinks", shrinks, "has changed while", `mediad_reader_disk_errors_total{cause="changed"}`, false},
		{26, "Replaced", replaced, "has changed while", `mediad_reader_disk_errors_total{cause="changed"}`, false},
	})
}

// film is an FLV file of numbered frames in memory.
func film(t *testing.T, frames int) []byte { return filmOf(t, 0, frames, 500) }

func filmOf(t *testing.T, first, frames, size int) []byte {
	t.Helper()
	p, err := lab.Film(first, frames, size)
	must(t, err)
	return p
}

// byteByByte plays a film from an origin that hands out a byte at a time, each in a
// packet of its own, and without ranges, so that it is read as it comes.
func byteByByte(t *testing.T, h *house) {
	content := film(t, 50)
	h.shelve(t, "once.flv", content)
	want := h.played(t, "vod/once.flv")
	trickle := newOrigin(t)
	trickle.serves(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		for i := range content {
			if _, err := w.Write(content[i : i+1]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	})
	must(t, h.Configure(healthy+fmt.Sprintf("  trickle:\n    - use: reader-http\n      with: {url: %q}\n    - use: stream\n      with: {app: trickle}\n", trickle.URL+"/")))
	must(t, h.Reload())
	got := h.played(t, "trickle/once.flv")
	if got.unbroken() != 50 || !slices.Equal(got.sums, want.sums) {
		t.Errorf("%d frames of 50, then %s; they are those of the disk: %v", got.unbroken(), got.end, slices.Equal(got.sums, want.sums))
	}
	t.Logf("saw: %d bytes, one by one; ", len(content))
	must(t, h.Configure(healthy))
	must(t, h.Reload())
}

func cutFilms(t *testing.T, h *house) {
	whole := film(t, 50)
	last := 0
	for i := range 10 {
		name := fmt.Sprintf("cut%d.flv", i)
		h.shelve(t, name, whole[:len(whole)/2+i*len(whole)/20+i])
		s := h.played(t, "vod/"+name)
		if n := s.unbroken(); n < last || n < 20 || n > 50 || s.end != "NetStream.Play.Stop" {
			t.Errorf("cut %d: %d frames, the one before had %d, %s", i, n, last, s.end)
		}
		last = s.unbroken()
	}
}

// previousTagSize has a wrong size behind each tag.
func previousTagSize(t *testing.T, h *house) {
	p := film(t, 50)
	for at := 13; at < len(p); {
		size := int(p[at+1])<<16 | int(p[at+2])<<8 | int(p[at+3])
		at += 11 + size + 4
		binary.BigEndian.PutUint32(p[at-4:], 77)
	}
	h.shelve(t, "sizes.flv", p)
	if s := h.played(t, "vod/sizes.flv"); s.unbroken() != 50 {
		t.Errorf("%d frames of 50, %s", s.unbroken(), s.end)
	}
}

func dataOffset(t *testing.T, h *house) {
	p := film(t, 50)
	binary.BigEndian.PutUint32(p[5:], 1<<32-1)
	h.shelve(t, "offset.flv", p)
	h.refused(t, "vod/offset.flv")
}

func box(size uint32, kind string, content ...byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, size), kind...), content...)
}

func boxes(t *testing.T, h *house) {
	ftyp := box(16, "ftyp", []byte("isom\x00\x00\x02\x00")...)
	nested := bytes.Repeat(box(1<<20, "moov"), 10_000)
	h.allocates(t, 64<<20, func() {
		for name, rest := range map[string][]byte{
			"zero.mp4": box(0, "moov"), "one.mp4": box(1, "moov", 0, 0, 0, 0, 0, 0, 0, 0), "large.mp4": box(1<<31, "moov"), "nested.mp4": nested,
		} {
			h.shelve(t, name, append(bytes.Clone(ftyp), rest...))
			h.refused(t, "vod/"+name)
		}
	})
}

// mp4 is a film of ffmpeg's.
var mp4 = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "mediad-torture-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := dir + "/film.mp4"
	cmd := exec.Command("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=s=64x64:r=25:d=2", //nolint:noctx // it is short
		"-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ffmpeg: %w: %s", err, out)
	}
	return os.ReadFile(path)
})

// counts claims 2^32-1 entries in the tables of a film.
func counts(t *testing.T, h *house) {
	whole, err := mp4()
	must(t, err)
	h.allocates(t, 64<<20, func() {
		for table, at := range map[string]int{"stts": 8, "stsz": 12, "stco": 8, "stsc": 8} {
			p := bytes.Clone(whole)
			where := bytes.Index(p, []byte(table))
			binary.BigEndian.PutUint32(p[where+at:], 1<<32-1)
			h.shelve(t, table+".mp4", p)
			h.refused(t, "vod/"+table+".mp4")
		}
	})
}

func moov(t *testing.T, h *house) {
	whole, err := mp4()
	must(t, err)
	h.shelve(t, "last.mp4", whole) // as ffmpeg makes it
	if s := h.played(t, "vod/last.mp4"); len(s.numbers) != 50 || s.end != "NetStream.Play.Stop" {
		t.Errorf("moov last: %d frames, %s", len(s.numbers), s.end)
	}
	at := bytes.Index(whole, []byte("moov")) - 4
	h.shelve(t, "none.mp4", whole[:at])
	h.shelve(t, "twice.mp4", append(bytes.Clone(whole), whole[at:]...))
	h.refused(t, "vod/none.mp4", "vod/twice.mp4")
}

func outOfRoot(t *testing.T, h *house) {
	must(t, os.WriteFile(h.Path("secret.flv"), film(t, 25), 0o644))
	must(t, os.Symlink(h.Path("secret.flv"), h.Path("media", "link.flv")))
	must(t, os.Symlink("..", h.Path("media", "up")))
	h.refused(t, "vod/link.flv", "vod/up/secret.flv", "vod/../secret.flv", "vod/"+h.Path("secret.flv"))
}

// midway plays a film in real time, does something after a second, and returns the
// numbers of all frames that come.
func (h *house) midway(t *testing.T, path string, do func()) (numbers []int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	app, name, _ := strings.Cut(path, "/")
	c, err := rtmp.Dial(ctx, h.URL(app))
	must(t, err)
	defer c.Close()
	must(t, c.SetBuffer(0))
	must(t, c.Play(ctx, name, 0, -1, true))
	for {
		m, err := c.Next(ctx)
		must(t, err)
		if m.Kind == rtmp.KindStatus && (m.Status.Level == "error" || m.Status.Code == "NetStream.Play.Stop") {
			return numbers
		}
		if n, ok := lab.Number(m.Track, m.Body); ok && m.Kind == rtmp.KindMedia && m.Track == media.Video {
			if numbers = append(numbers, n); len(numbers) == 10 {
				do()
				must(t, c.SetBuffer(time.Hour)) // no need to wait for the rest
			}
		}
	}
}

// unmixed checks that frames are a film's first ones, and then maybe those of another
// that begins at Epoch.
func unmixed(t *testing.T, numbers []int) {
	t.Helper()
	for i, n := range numbers {
		if i > 0 && n != numbers[i-1]+1 && n != lab.Epoch {
			t.Fatalf("frame %d follows frame %d", n, numbers[i-1])
		}
	}
}

const longFilm = 2000 // frames: more than is read ahead

func shrinks(t *testing.T, h *house) {
	h.shelve(t, "shrinks.flv", film(t, longFilm))
	numbers := h.midway(t, "vod/shrinks.flv", func() { must(t, os.Truncate(h.Path("media", "shrinks.flv"), 200_000)) })
	unmixed(t, numbers)
	t.Logf("saw: an end after %d frames of %d; ", len(numbers), longFilm)
}

// replaced has the file renamed over, and rewritten in place.
func replaced(t *testing.T, h *house) {
	h.shelve(t, "replaced.flv", film(t, longFilm))
	other := filmOf(t, lab.Epoch, longFilm, 500)
	h.shelve(t, "other.flv", other)
	renamed := h.midway(t, "vod/replaced.flv", func() {
		must(t, os.Rename(h.Path("media", "other.flv"), h.Path("media", "replaced.flv")))
	})
	unmixed(t, renamed)
	h.shelve(t, "rewritten.flv", film(t, longFilm))
	rewritten := h.midway(t, "vod/rewritten.flv", func() { h.shelve(t, "rewritten.flv", other) })
	unmixed(t, rewritten)
	t.Logf("saw: %d frames of %d when it was renamed over, %d when it was rewritten; ", len(renamed), longFilm, len(rewritten))
}

// An origin is an HTTP server that behaves as each ordeal wants.
type origin struct {
	*httptest.Server
	serve    atomic.Pointer[http.HandlerFunc]
	requests atomic.Int64
	bytes    atomic.Int64 // of the answers
}

// A counted answer counts its bytes.
type counted struct {
	http.ResponseWriter
	bytes *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	c.bytes.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// Flush sends what was written.
func (c counted) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

func newOrigin(t *testing.T) *origin {
	t.Helper()
	o := &origin{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.requests.Add(1)
		(*o.serve.Load())(counted{w, &o.bytes}, r)
	}))
	t.Cleanup(o.Close)
	return o
}

// serves makes the origin serve by f.
func (o *origin) serves(f http.HandlerFunc) { o.serve.Store(&f) }

// slowOrigin is logged of an origin that does not keep its time.
const slowOrigin = `bytes in 3s`

// either plays a film of 50 frames that two origins have, of which the one asked first
// is of no use.
func (h *house) either(t *testing.T, name string) {
	t.Helper()
	began := time.Now()
	if s := h.played(t, "either/"+name); s.unbroken() != 50 {
		t.Errorf("%s: %d frames of 50, then %s", name, s.unbroken(), s.end)
	}
	t.Logf("saw: from the next source in %v; ", time.Since(began).Round(10*time.Millisecond))
}

// whole serves a film as a good origin does.
func whole(content []byte, etag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

func TestTorments_Origin(t *testing.T) {
	t.Parallel()
	o, good := newOrigin(t), newOrigin(t)
	content := film(t, 50)
	h := open(t, fmt.Sprintf(`
  origin:
    - use: reader-http
      with: {url: %q, timeout: 3s, spool: 1MiB}
    - use: cache
      with: {memory: 4MiB}
    - use: broker
    - use: stream
      with: {app: origin}
  good:
    - use: reader-http
      with: {url: %q}
  either:
    - from: origin/reader-http
    - use: broker
      from: good/reader-http
    - use: stream
      with: {app: either}
`, o.URL+"/", good.URL+"/"))
	good.serves(whole(content, `"1"`))
	plays := func(t *testing.T, name string) {
		t.Helper()
		if s := h.played(t, "origin/"+name); s.unbroken() != 50 {
			t.Errorf("%s: %d frames of 50, then %s", name, s.unbroken(), s.end)
		}
	}
	noRanges := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"1"`)
		_, _ = w.Write(content)
	}
	h.suffer(t, []ordeal{
		{27, "NoRanges", func(t *testing.T, h *house) {
			o.serves(noRanges)
			before := o.requests.Load()
			plays(t, "noranges.flv")
			t.Logf("saw: %d requests; ", o.requests.Load()-before)
		}, "", "", false},
		{27, "NoRangesTooLarge", func(t *testing.T, h *house) {
			o.serves(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 2<<20)) })
			h.refused(t, "origin/toolarge.flv")
		}, "did not begin.*reason=", `mediad_reader_http_errors_total`, false},
		{28, "WholeForARange", func(t *testing.T, h *house) {
			const frames = 400
			large := filmOf(t, 0, frames, 2000) // more than is read at once, less than may be spooled
			good := whole(large, `"1"`)
			var forgotten atomic.Int64 // ranges
			o.serves(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
					r.Header.Del("Range")
					forgotten.Add(1)
				}
				good(w, r)
			})
			s := h.played(t, "origin/forgets.flv")
			if s.unbroken() < 0 || s.unbroken() < frames && s.end == "NetStream.Play.Stop" || forgotten.Load() == 0 {
				t.Errorf("the frames are %v, then %s; %d whole answers", s.numbers, s.end, forgotten.Load())
			}
			t.Logf("saw: %d frames of %d, %s; ", s.unbroken(), frames, s.end)
		}, "it has no range", "mediad_reader_http_errors_total", false},
		{29, "ETagChanges", func(t *testing.T, h *house) {
			o.serves(whole(filmOf(t, 0, longFilm, 5000), `"1"`)) // more than is read at once
			numbers := h.midway(t, "origin/changes.flv", func() {
				o.serves(whole(filmOf(t, lab.Epoch, 50, 5000), `"2"`))
			})
			unmixed(t, numbers)
			if again := h.played(t, "origin/changes.flv"); len(again.numbers) != 50 || again.numbers[0] != lab.Epoch {
				t.Errorf("then come the frames %v", again.numbers)
			}
			t.Logf("saw: an end after %d frames, then the other film whole; ", len(numbers))
		}, "cannot be read on", `mediad_reader_http_errors_total{cause="changed"}`, false},
		{30, "CutShort", func(t *testing.T, h *house) {
			o.serves(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				_, _ = w.Write(content[:len(content)/2])
				panic(http.ErrAbortHandler)
			})
			if s := h.played(t, "origin/short.flv"); s.unbroken() == 50 || s.unbroken() < 0 || s.end == "NetStream.Play.Stop" {
				t.Errorf("half a film: %d frames, %s", s.unbroken(), s.end)
			}
			o.serves(whole(content, `"1"`))
			must(t, lab.Eventually(15*time.Second, func() error { // a failure is remembered for a while
				if s, err := h.play(t.Context(), "origin/short.flv"); err != nil || s.unbroken() != 50 {
					return fmt.Errorf("%d frames, %s, %w", s.unbroken(), s.end, err)
				}
				return nil
			}))
		}, "input fails", `mediad_reader_http_errors_total`, false},
		{31, "StalledHeaders", func(t *testing.T, h *house) {
			o.serves(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			h.refused(t, "origin/stalled.flv")
			h.either(t, "stalled.flv")
		}, slowOrigin, `mediad_reader_http_errors_total{cause="slow"}`, false},
		{31, "OneByteASecond", func(t *testing.T, h *house) {
			o.serves(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"1"`)
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				for i := range content {
					if _, err := w.Write(content[i : i+1]); err != nil {
						return
					}
					w.(http.Flusher).Flush()
					select {
					case <-time.After(time.Second):
					case <-r.Context().Done():
						return
					}
				}
			})
			h.refused(t, "origin/slow.flv")
			h.either(t, "slow.flv")
		}, slowOrigin, `mediad_reader_http_errors_total{cause="slow"}`, false},
		{32, "Redirects", func(t *testing.T, h *house) {
			for name, to := range map[string]string{
				"loop.flv": o.URL + "/loop.flv", "link.flv": "http://169.254.169.254/latest/meta-data", "file.flv": "file:///etc/passwd",
				"own.flv": "http://" + h.HTTP + "/metrics",
			} {
				o.serves(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
				before := o.requests.Load()
				h.refused(t, "origin/"+name)
				if n := o.requests.Load() - before; n > 6 {
					t.Errorf("%s: %d requests", name, n)
				}
			}
		}, "did not begin.*(more than 5 times|is not a public address|file)", `mediad_reader_http_errors_total{cause="redirect"}`, false},
		{33, "Fails", func(t *testing.T, h *house) {
			var n atomic.Int64
			good := whole(content, `"1"`)
			o.serves(func(w http.ResponseWriter, r *http.Request) {
				switch n.Add(1) {
				case 1:
					http.Error(w, "not now", http.StatusServiceUnavailable)
				case 2:
					panic(http.ErrAbortHandler)
				default:
					good(w, r)
				}
			})
			plays(t, "fails.flv")
		}, "is asked again", `mediad_reader_http_retries_total`, false},
		{34, "ManyMiss", func(t *testing.T, h *house) {
			good := whole(content, `"1"`)
			o.serves(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(300 * time.Millisecond) // so that all come meanwhile
				good(w, r)
			})
			before := o.bytes.Load()
			plays(t, "one.flv")
			one := o.bytes.Load() - before
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					if s, err := h.play(t.Context(), "origin/hundred.flv"); err != nil || s.unbroken() != 50 {
						t.Errorf("%d frames, %s, %v", s.unbroken(), s.end, err)
					}
				})
			}
			all.Wait()
			hundred := o.bytes.Load() - before - one
			t.Logf("saw: %d bytes for one viewer, %d for a hundred; ", one, hundred)
			if hundred > one+100 { // some may have asked again whether it is there, for a byte
				t.Error("the hundred were not served by one fetch")
			}
		}, "", "", false},
	})
}
