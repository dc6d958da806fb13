package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// An air is a reader of one channel, onto which a test puts batches.
type air struct {
	mu      sync.Mutex
	batches []*media.Batch
	ended   bool
	more    chan struct{} // closed and replaced by put and end
	open    int           // sources
}

func newAir(batches ...*media.Batch) *air {
	return &air{batches: batches, more: make(chan struct{})}
}

func (a *air) put(batches ...*media.Batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.batches = append(a.batches, batches...)
	close(a.more)
	a.more = make(chan struct{})
}

func (a *air) end() {
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.put()
}

func (a *air) sources() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

func (a *air) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended || req.RecordedOnly {
		return nil, media.ErrNotFound
	}
	a.open++
	return &listening{air: a, closed: make(chan struct{})}, nil
}

type listening struct {
	air    *air
	at     int
	once   sync.Once
	closed chan struct{}
}

func (l *listening) Info() media.Info { return media.Info{Live: true} }

func (l *listening) Buffered() int {
	l.air.mu.Lock()
	defer l.air.mu.Unlock()
	return len(l.air.batches) - l.at
}

func (l *listening) Next(ctx context.Context) (*media.Batch, error) {
	for {
		l.air.mu.Lock()
		more, ended := l.air.more, l.air.ended
		if l.at < len(l.air.batches) {
			l.at++
			defer l.air.mu.Unlock()
			return l.air.batches[l.at-1], nil
		}
		l.air.mu.Unlock()
		if ended {
			return nil, io.EOF
		}
		select {
		case <-more:
		case <-l.closed:
			return nil, media.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *listening) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.air.mu.Lock()
		defer l.air.mu.Unlock()
		l.air.open--
	})
	return nil
}

// serveAir serves a channel at /a/news, and returns the URL of its folder.
func serveAir(t *testing.T, limits Limits, a *air) string {
	t.Helper()
	url, s, _ := serve(t, limits, nil, nil)
	if _, err := s.HandleWatch("air", Watch{Forms: []Form{HLS}, Reader: a}); err != nil {
		t.Fatal(err)
	}
	return url + "/air/news/"
}

// uri returns the last match in a playlist.
func uri(t *testing.T, list, pattern string) string {
	t.Helper()
	all := regexp.MustCompile(pattern).FindAllString(list, -1)
	if len(all) == 0 {
		t.Fatalf("no %s in\n%s", pattern, list)
	}
	return all[len(all)-1]
}

// frames returns the sample, a frame a batch as they come live, and where its GOPs begin.
func frames(t *testing.T) (batches []*media.Batch, gops []int) {
	t.Helper()
	batches = divided(sampleFilm(t), 1)
	for i, b := range batches {
		if b.Join() {
			gops = append(gops, i)
		}
	}
	return batches, gops
}

func TestLiveHLS(t *testing.T) {
	all, gops := frames(t)
	a := newAir(all[:gops[2]+30]...)
	url := serveAir(t, Limits{}, a)
	_, master := get(t, url+"index.m3u8?token=1")
	video := uri(t, master, `.*video1.*`)
	_, list := get(t, url+video)
	if !strings.Contains(list, "#EXT-X-PRELOAD-HINT") || strings.Contains(list, "#EXT-X-ENDLIST") {
		t.Errorf("the playlist of a channel on air:\n%s", list)
	}
	for _, pattern := range []string{`[0-9a-f]*_video1_init.mp4.*token=1`, `[0-9a-f]*_video1_seg7.mp4.token=1`, `[0-9a-f]*_video1_part0.mp4`} {
		file := strings.TrimSuffix(uri(t, list+"\n"+strings.Replace(uri(t, list, `[0-9a-f]*_video1_part`), "part", "part0.mp4", 1), pattern), `"`)
		if resp, body := get(t, url+file); resp.StatusCode != 200 || len(body) < 100 || resp.Header.Get("Content-Type") != "video/mp4" {
			t.Errorf("%s: %s, %d bytes", file, resp.Status, len(body))
		}
	}
	audio := regexp.MustCompile(`[0-9a-f]*_audio2[^"]*`).FindString(master)
	if resp, list := get(t, url+audio); resp.StatusCode != 200 || !strings.Contains(list, "_audio2_seg7.mp4?token=1") {
		t.Errorf("sound: %s\n%s", resp.Status, list)
	}

	// What is not there yet is waited for.
	hint := uri(t, list, `[0-9a-f]*_video1_part[0-9]+\.mp4\?token=1`)
	next := fmt.Sprintf("%s&_HLS_msn=%d&_HLS_part=0", video, 8+strings.Count(list, "_seg"))
	skip := fmt.Sprintf("%s&_HLS_msn=%d&_HLS_part=0&_HLS_skip=YES", video, 8+strings.Count(list, "_seg"))
	type answer struct {
		code int
		body string
	}
	answers := map[string]chan answer{}
	for _, file := range []string{hint, next, skip} {
		c := make(chan answer, 1)
		answers[file] = c
		go func() {
			resp, err := http.Get(url + file)
			if err != nil {
				c <- answer{}
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			c <- answer{resp.StatusCode, string(body)}
		}()
	}
	a.put(all[gops[2]+30 : gops[3]+60]...)
	for file, c := range answers {
		got := <-c
		if got.code != 200 || len(got.body) < 100 {
			t.Errorf("%s: %d, %d bytes", file, got.code, len(got.body))
		}
		if file == next && strings.Count(got.body, "_seg") <= strings.Count(list, "_seg") {
			t.Errorf("the playlist has not grown:\n%s", got.body)
		}
	}
	for query, code := range map[string]int{
		"&_HLS_msn=999": 400, "&_HLS_msn=x": 400, "&_HLS_msn=-1": 400, "&_HLS_part=0": 400, "&_HLS_msn=8&_HLS_part=0": 200,
	} {
		if resp, _ := get(t, url+video+query); resp.StatusCode != code {
			t.Errorf("%s: %s, want %d", query, resp.Status, code)
		}
	}
	for _, file := range []string{"0123456789ab_video1_stream.m3u8", "0123456789ab_video1_part1.mp4",
		strings.Replace(hint, "part", "part99", 1)} {
		if resp, _ := get(t, url+file); resp.StatusCode != 404 {
			t.Errorf("%s: %s", file, resp.Status)
		}
	}

	if resp, text := get(t, url+gapFile); resp.StatusCode != 200 || text != "" {
		t.Errorf("a gap is %s, %q", resp.Status, text)
	}

	// The end is told, and all of it can be seen.
	a.put(all[gops[3]+60:]...)
	a.end()
	eventually(t, "the playlist has an end", func() bool {
		_, list = get(t, url+video)
		return strings.HasSuffix(list, "#EXT-X-ENDLIST\n")
	})
	if strings.Contains(list, "EXT-X-PRELOAD-HINT") {
		t.Errorf("after the end:\n%s", list)
	}
	eventually(t, "the last segment is there", func() bool {
		_, list = get(t, url+video+"&_HLS_msn=9&_HLS_part=0")
		return strings.Count(list, "_seg") == len(gops)
	})
	if resp, _ := get(t, url+uri(t, list, `[0-9a-f]*_video1_seg.*`)); resp.StatusCode != 200 {
		t.Errorf("the last segment: %s", resp.Status)
	}
	if resp, _ := get(t, url+"index.m3u8"); resp.StatusCode != 404 {
		t.Errorf("a channel that is off the air: %s", resp.Status)
	}
}

// TestLiveChange checks that another codec configuration begins another playlist, and that
// the old one tells its end.
func TestLiveChange(t *testing.T) {
	all, gops := frames(t)
	other := *all[0].Header()
	other.Audio = media.Format{}
	var silent []*media.Batch
	for _, b := range all[gops[2]:] {
		if f := b.Frames()[0]; f.Track == media.Video {
			silent = append(silent, media.NewBatch(&other, b.Prev(), f))
		}
	}
	a := newAir(all[:gops[2]]...)
	url := serveAir(t, Limits{}, a)
	_, before := get(t, url+"index.m3u8")
	if !strings.Contains(before, "audio2") {
		t.Errorf("no sound:\n%s", before)
	}
	a.put(silent...)
	var after string
	eventually(t, "the new playlist is there", func() bool {
		_, after = get(t, url+"index.m3u8")
		return !strings.Contains(after, "audio2")
	})
	if _, list := get(t, url+uri(t, before, `.*video1.*`)); !strings.HasSuffix(list, "#EXT-X-ENDLIST\n") {
		t.Errorf("the old playlist goes on:\n%s", list)
	}
	if _, list := get(t, url+uri(t, after, `.*video1.*`)); strings.HasSuffix(list, "#EXT-X-ENDLIST\n") {
		t.Errorf("the new playlist has ended:\n%s", list)
	}
}

// TestLiveIdle checks that a channel that nobody watches is read no longer.
func TestLiveIdle(t *testing.T) {
	all, _ := frames(t)
	a := newAir(all...)
	url := serveAir(t, Limits{Idle: 200 * time.Millisecond}, a)
	_, master := get(t, url+"index.m3u8")
	if a.sources() != 1 {
		t.Errorf("%d sources are open", a.sources())
	}
	eventually(t, "the source is closed", func() bool { return a.sources() == 0 })
	if resp, _ := get(t, url+uri(t, master, `.*video1.*`)); resp.StatusCode != 404 {
		t.Errorf("what was dropped: %s", resp.Status)
	}
	if resp, _ := get(t, url+"index.m3u8"); resp.StatusCode != 200 {
		t.Errorf("it does not come again: %s", resp.Status)
	}
}

// TestLiveMemory checks that fewer segments are kept where they are large, and that it is told
// when not even those fit.
func TestLiveMemory(t *testing.T) {
	all, gops := frames(t)
	size := 0 // of the largest GOP
	for i := range gops[1:] {
		n := 0
		for _, b := range all[gops[i]:gops[i+1]] {
			n += len(b.Frames()[0].Body)
		}
		size = max(size, n)
	}
	url := serveAir(t, Limits{Memory: minSegments * size * 3 / 2}, newAir(all...))
	if resp, _ := get(t, url+"index.m3u8"); resp.StatusCode != 200 {
		t.Errorf("with room for %d: %s", minSegments, resp.Status)
	}
	url = serveAir(t, Limits{Memory: minSegments * 1000}, newAir(all...))
	if resp, _ := get(t, url+"index.m3u8"); resp.StatusCode != 503 {
		t.Errorf("without room for a segment: %s", resp.Status)
	}
}

func TestLiveLimit(t *testing.T) {
	all, _ := frames(t)
	a := newAir(all...)
	url := serveAir(t, Limits{Muxers: 1}, a)
	get(t, url+"index.m3u8")
	if resp, text := get(t, strings.Replace(url, "news", "more", 1)+"index.m3u8"); resp.StatusCode != 503 || !strings.Contains(text, "too many channels") {
		t.Errorf("a channel too many: %s %s", resp.Status, text)
	}
}

// FuzzMuxer feeds a muxer frames of any content.
func FuzzMuxer(f *testing.F) {
	film := sampleFilm(f)
	f.Add([]byte("\x17\x01\x00\x00\x00\x00\x00\x00\x02\x65\x88"), []byte("\xaf\x01\x21"))
	f.Add([]byte("\x27\x01\x00\x00\x00\x00\x00\x00\x00"), []byte("\xaf"))
	f.Fuzz(func(t *testing.T, video, audio []byte) {
		m, err := newMuxer(film, minSegments, Limits{}.withDefaults(), newMetrics(nil))
		if err != nil {
			t.Fatal(err)
		}
		for at := range 3 {
			dts := time.Duration(at) * time.Second
			b := media.NewBatch(film[0].Header(), media.NoClock,
				media.Frame{Track: media.Video, Key: true, DTS: dts, PTS: dts, Body: video}, media.Frame{Track: media.Audio, DTS: dts, PTS: dts, Body: audio})
			if err := m.write(b); err != nil && !errors.Is(err, errFull) {
				t.Fatal(err)
			}
		}
		m.finish()
		m.close()
	})
}
