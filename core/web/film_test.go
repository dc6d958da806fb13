package web

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/mp4"
)

// expectMP4 checks that data is MP4 with the frames of film in their order on each
// track, from zero on.
func expectMP4(t *testing.T, data []byte, film []*media.Batch, zero time.Duration) {
	t.Helper()
	file := memory(data)
	index, err := mp4.ReadIndex(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	got := map[media.Track][]media.Frame{}
	next := index.Batches(file, 0)
	for {
		b, err := next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range b.Frames() {
			got[f.Track] = append(got[f.Track], f)
		}
	}
	for _, b := range film {
		for _, want := range b.Frames() {
			rest := got[want.Track]
			if p, err := flv.ParsePacket(want.Track, want.Body); err != nil || p.Kind != flv.Coded {
				continue // data, or the end of a sequence
			}
			if len(rest) == 0 {
				t.Fatalf("%s frames are missing from %v on", want.Track, want.DTS)
			}
			f := rest[0]
			if f.DTS != want.DTS-zero || f.PTS != want.PTS-zero || f.Key != want.Key || !bytes.Equal(f.Body, want.Body) {
				t.Fatalf("%s frame at %v (%v), want %v (%v)", f.Track, f.DTS, f.PTS, want.DTS-zero, want.PTS-zero)
			}
			got[want.Track] = rest[1:]
		}
	}
	if n := len(got[media.Audio]) + len(got[media.Video]); n > 0 {
		t.Errorf("%d frames too many", n)
	}
}

// divided returns the film with other batches, of which every keyframe still begins one.
func divided(film []*media.Batch, frames int) (out []*media.Batch) {
	for _, b := range film {
		builder := media.NewBuilder(b.Prev())
		for _, f := range b.Frames() {
			if builder.Len() == frames {
				out = append(out, builder.Batch(b.Header()))
			}
			builder.Copy(f)
		}
		out = append(out, builder.Batch(b.Header()))
	}
	return out
}

// soundOnly returns what is left of a film without its picture, in batches of a second.
func soundOnly(film []*media.Batch) (out []*media.Batch) {
	header := &media.Header{Audio: film[0].Header().Audio}
	builder := media.NewBuilder(media.NoClock)
	for _, b := range film {
		for _, f := range b.Frames() {
			if f.Track == media.Audio {
				builder.Copy(f)
			}
			if builder.Len() == 43 {
				out = append(out, builder.Batch(header))
			}
		}
	}
	return append(out, builder.Batch(header))
}

func TestFile(t *testing.T) {
	film := sampleFilm(t)
	sound := soundOnly(film)
	lib := &library{films: map[string][]*media.Batch{"film": film, "divided": divided(film, 7), "sound": sound}}
	url, _, _ := serve(t, Limits{}, lib, nil)
	resp, whole := get(t, url+"/a/film.mp4")
	expectMP4(t, []byte(whole), film, film[0].DTS())
	if resp.Header.Get("Content-Type") != "video/mp4" || resp.ContentLength != int64(len(whole)) || resp.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("headers %v", resp.Header)
	}
	_, sounds := get(t, url+"/a/sound.mp4")
	expectMP4(t, []byte(sounds), sound, sound[0].DTS())

	tag := resp.Header.Get("ETag")
	for _, r := range [][2]int{{0, 0}, {0, 99}, {len(whole) - 1, len(whole) - 1}, {5000, 300000}, {len(whole) / 2, len(whole) - 1}, {40000, 40001}} {
		span := fmt.Sprintf("bytes=%d-%d", r[0], r[1])
		resp, part := get(t, url+"/a/film.mp4", "Range", span, "If-Range", tag)
		if resp.StatusCode != http.StatusPartialContent || part != whole[r[0]:r[1]+1] {
			t.Errorf("%s: %s, %d bytes, the right ones: %v", span, resp.Status, len(part), part == whole[r[0]:r[1]+1])
		}
	}
	if resp, all := get(t, url+"/a/film.mp4", "Range", "bytes=5-9,20-30"); resp.StatusCode != 200 || all != whole {
		t.Errorf("two ranges: %s, %d bytes", resp.Status, len(all))
	}
	if resp, _ := get(t, url+"/a/film.mp4", "Range", "bytes=99999999-"); resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a range beyond the end: %s", resp.Status)
	}
	if resp, _ := get(t, url+"/a/film.mp4", "If-None-Match", tag); resp.StatusCode != http.StatusNotModified {
		t.Errorf("known already: %s", resp.Status)
	}
	// The layout does not depend on how a reader divides the frames.
	_, other := get(t, url+"/a/divided.mp4")
	if other != whole {
		t.Error("another division into batches makes another file")
	}
}

func TestPlaylist(t *testing.T) {
	film := sampleFilm(t)
	lib := &library{films: map[string][]*media.Batch{"film": film, "sound": soundOnly(film)}}
	url, _, _ := serve(t, Limits{}, lib, nil)
	for name, want := range map[string][]*media.Batch{"film": film, "sound": lib.films["sound"]} {
		_, list := get(t, url+"/a/"+name+"/index.m3u8?token=%22x")
		var data []byte
		var length time.Duration
		segments := 0
		for line := range strings.Lines(list) {
			line = strings.TrimSpace(line)
			var seconds float64
			if n, _ := fmt.Sscanf(line, "#EXTINF:%f,", &seconds); n == 1 {
				length += time.Duration(seconds * float64(time.Second))
			}
			uri := line
			if rest, ok := strings.CutPrefix(line, "#EXT-X-MAP:URI="); ok {
				uri = strings.Trim(rest, `"`)
			}
			if uri == "" || uri[0] == '#' {
				continue
			}
			if !strings.HasSuffix(uri, "?token=%22x") {
				t.Errorf("%s goes without what the playlist was asked for with", uri)
			}
			resp, segment := get(t, url+"/a/"+name+"/"+uri)
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "video/mp4" {
				t.Fatalf("%s: %s", uri, resp.Status)
			}
			data = append(data, segment...)
			segments++
		}
		expectMP4(t, data, want, want[0].DTS())
		if segments < 3 || length < 11900*time.Millisecond || length > 12200*time.Millisecond || !strings.HasSuffix(list, "#EXT-X-ENDLIST\n") {
			t.Errorf("%s: %d segments of %v:\n%s", name, segments, length, list)
		}
	}
	if resp, _ := get(t, url+"/a/film/0000000000000000-0.m4s"); resp.StatusCode != 404 {
		t.Errorf("a segment of another version: %s", resp.Status)
	}
}

// TestChanged checks that frames of another version never get into a response.
func TestChanged(t *testing.T) {
	film := sampleFilm(t)
	lib := &library{films: map[string][]*media.Batch{"film": film}}
	url, _, _ := serve(t, Limits{}, lib, nil)
	_, list := get(t, url+"/a/film/index.m3u8")
	lines := strings.Split(strings.TrimSpace(list), "\n")
	last := lines[len(lines)-2]
	lib.mu.Lock()
	lib.films["film"] = film[:len(film)-1]
	lib.mu.Unlock()
	for range 2 { // by what has changed, and then as unknown
		resp, err := http.Get(url + "/a/film/" + last)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode == 200 {
			t.Error("a segment of the old version is served")
		}
		resp.Body.Close()
	}
	if _, now := get(t, url+"/a/film/index.m3u8"); now == list {
		t.Error("the playlist is that of the old version")
	}
}

// TestUnfit checks what is told of films that have no MP4.
func TestUnfit(t *testing.T) {
	film := sampleFilm(t)
	h := *film[0].Header()
	h.Video.Codec = "vp6f"
	h.Audio = media.Format{}
	var vp6, changes []*media.Batch
	for i, b := range film {
		vp6 = append(vp6, media.NewBatch(&h, media.NoClock, b.Frames()...))
		other := *b.Header()
		other.Video.Config = append(bytes.Clone(other.Video.Config), byte(i/3))
		changes = append(changes, media.NewBatch(&other, media.NoClock, b.Frames()...))
	}
	lib := &library{films: map[string][]*media.Batch{"vp6": vp6, "changes": changes}}
	url, _, _ := serve(t, Limits{}, lib, nil)
	for _, path := range []string{"/a/vp6.mp4", "/a/vp6/index.m3u8", "/a/changes.mp4"} {
		opens := lib.opens
		for range 2 {
			if resp, text := get(t, url+path); resp.StatusCode != http.StatusNotAcceptable || !strings.Contains(text, "FLV") {
				t.Errorf("%s: %s %s", path, resp.Status, text)
			}
		}
		if lib.opens > opens+2 {
			t.Errorf("%s: it is read through each time", path)
		}
	}
}

func TestFilmsBound(t *testing.T) {
	film := sampleFilm(t)
	lib := &library{films: map[string][]*media.Batch{}}
	for i := range 5 {
		lib.films[fmt.Sprint(i)] = append([]*media.Batch(nil), film...)
	}
	one, err := scan(t.Context(), &playing{batches: film})
	if err != nil {
		t.Fatal(err)
	}
	url, _, metrics := serve(t, Limits{Films: 2*one.bytes() + 100}, lib, nil)
	for i := range 5 {
		get(t, url+fmt.Sprintf("/a/%d.mp4", i), "Range", "bytes=0-0")
	}
	if n, size := gauge(t, metrics, "mediad_web_films"), gauge(t, metrics, "mediad_web_film_bytes"); n != 2 || size != float64(2*one.bytes()) {
		t.Errorf("%v films of %v bytes are kept, one has %d", n, size, one.bytes())
	}
}

// TestLargeFile checks the tables of a film of more than 4 GiB.
func TestLargeFile(t *testing.T) {
	tables := []*table{{times: []int64{0, 40}, end: 80, sizes: []uint32{1, 1}, offsets: []int32{0, 0}, keys: []uint32{1},
		chunks: []chunk{{0, 1}, {5 << 30, 1}}, track: track{kind: media.Video, codec: "h264"}}}
	head := movie(tables, 1000)
	if i := bytes.Index(head, []byte("co64")); i < 0 || binary.BigEndian.Uint64(head[i+20:]) != 5<<30+1000 {
		t.Errorf("no place in 64 bits: %x", head)
	}
	if h := mdatHead(5 << 30); len(h) != 16 || binary.BigEndian.Uint64(h[8:]) != 5<<30+16 {
		t.Errorf("head %x", h)
	}
}

// TestLiveMP4 checks the fragments that a viewer gets, one frame a write.
func TestLiveMP4(t *testing.T) {
	film := sampleFilm(t)
	for len(film) > 0 && !film[0].Join() {
		film = film[1:]
	}
	var e mp4Encoder
	var out []byte
	fragments := 0
	for _, b := range divided(film, 1) {
		queue, err := e.encode(nil, []*media.Batch{b})
		if err != nil {
			t.Fatal(err)
		}
		if len(queue) > 0 {
			fragments++
		}
		out = append(out, bytes.Join(queue, nil)...)
	}
	queue, err := e.encode(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	expectMP4(t, append(out, bytes.Join(queue, nil)...), film, film[0].DTS())
	if fragments < 40 || fragments > 70 {
		t.Errorf("12 s are in %d fragments", fragments)
	}
	other := *film[0].Header()
	other.Video.Config = append(bytes.Clone(other.Video.Config), 0)
	if _, err := e.encode(nil, []*media.Batch{media.NewBatch(&other, media.NoClock, film[0].Frames()...)}); !errors.Is(err, media.ErrChanged) {
		t.Errorf("another configuration: %v", err)
	}
}

func BenchmarkScan(b *testing.B) {
	film := sampleFilm(b)
	size := 0
	for _, batch := range film {
		size += batch.Size()
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		if _, err := scan(context.Background(), &playing{batches: film}); err != nil {
			b.Fatal(err)
		}
	}
}

// An outlined source has its film as an MP4 file, and is not read.
type outlined struct {
	*playing
	index *mp4.Index
	t     *testing.T
}

func (o outlined) Outline(_ context.Context, add func(*media.Header, media.Frame, int) error) error {
	return o.index.Outline(add)
}

func (o outlined) Next(context.Context) (*media.Batch, error) {
	o.t.Error("a source with an outline is read")
	return nil, io.EOF
}

// TestOutline checks that the film of an outline is the one that reading makes.
func TestOutline(t *testing.T) {
	film := sampleFilm(t)
	for name, film := range map[string][]*media.Batch{"whole": film, "sound": soundOnly(film)} {
		url, _, _ := serve(t, Limits{}, &library{films: map[string][]*media.Batch{"x": film}}, nil)
		_, body := get(t, url+"/a/x.mp4")
		file := memory(body)
		read, err := mp4.ReadIndex(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		index := read.(*mp4.Index)
		source := &playing{info: media.Info{Version: "1"}}
		for next := index.Batches(file, 0); ; {
			b, err := next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			source.batches = append(source.batches, b)
		}
		got, err := scan(t.Context(), outlined{source, index, t})
		if err != nil {
			t.Fatal(err)
		}
		want, err := scan(t.Context(), source)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || len(want.units) < 5 {
			t.Errorf("%s: the outline's film has %d units, %d parts and the tag %s, want %d, %d and %s",
				name, len(got.units), len(got.parts), got.tag, len(want.units), len(want.parts), want.tag)
		}
	}
}
