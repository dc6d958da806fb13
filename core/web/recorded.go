// Recorded media as HLS, and as an MP4 file with ranges.

package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
)

// servePlaylist serves the playlist of recorded media: one media playlist, whose
// segments carry all tracks.
func (a *app) servePlaylist(w http.ResponseWriter, r *http.Request, name string, source media.Source) error {
	f, err := a.film(r.Context(), name, source)
	if err != nil {
		return fmt.Errorf("%s as HLS: %w", name, err)
	}
	text := f.playlist(query(r))
	h := w.Header()
	h.Set("Content-Type", playlistType)
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = io.WriteString(a.paced(w, HLS), text) // the client has left
	return nil
}

func (a *app) paced(w http.ResponseWriter, form Form) *paced {
	return newPaced(w, a.server.limits.Write, a.server.metrics.bytes.WithLabelValues(string(form)))
}

// playlist writes the segments of f (RFC 8216bis, 4.4), whose names have the film's tag:
// so those of another version are never taken for them.
func (f *film) playlist(query string) string {
	target := time.Duration(0)
	for _, p := range f.parts {
		target = max(target, p.duration)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:%.0f\n#EXT-X-MEDIA-SEQUENCE:0\n", math.Ceil(target.Seconds()))
	b.WriteString("#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-INDEPENDENT-SEGMENTS\n")
	fmt.Fprintf(&b, "#EXT-X-MAP:URI=\"%s-init%s%s\"\n", f.tag, segmentSuffix, query)
	for i, p := range f.parts {
		fmt.Fprintf(&b, "#EXTINF:%.3f,\n%s-%d%s%s\n", p.duration.Seconds(), f.tag, i, segmentSuffix, query)
	}
	b.WriteString("#EXT-X-ENDLIST\n")
	return b.String()
}

// serveSegment serves a segment of recorded media, or what goes before them.
func (a *app) serveSegment(w http.ResponseWriter, r *http.Request, name, file string) error {
	tag, which, _ := strings.Cut(strings.TrimSuffix(file, segmentSuffix), "-")
	f := a.server.films.find(filmKey{a, name}, tag)
	if f == nil { // forgotten, or never known
		source, err := a.look(r, name, false)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		if source.Info().Live {
			_ = source.Close()
			return media.ErrNotFound
		}
		if f, err = a.film(r.Context(), name, source); err != nil {
			return fmt.Errorf("%s as HLS: %w", name, err)
		}
		if f.tag != tag {
			return media.ErrNotFound
		}
	}
	h := w.Header()
	h.Set("Content-Type", "video/mp4")
	h.Set("Cache-Control", "max-age=3600")
	if which == "init" {
		var tables []*table
		for _, t := range f.tracks {
			tables = append(tables, &table{track: t})
		}
		_, _ = a.paced(w, HLS).Write(movie(tables, 0)) // the client has left
		return nil
	}
	n, err := strconv.Atoi(which)
	if err != nil || n < 0 || n >= len(f.parts) {
		return media.ErrNotFound
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	return a.writePart(a.paced(w, HLS), r, f, name, f.parts[n])
}

// writePart writes a segment, a fragment for each unit: a film has GOPs of any length.
func (a *app) writePart(w *paced, r *http.Request, f *film, name string, p part) error {
	reel, err := a.project(r.Context(), f, name, p.first)
	if err != nil {
		return a.changed(err, name)
	}
	defer reel.close()
	for n := p.first; n < p.last; n++ {
		runs, err := reel.unit(r.Context())
		if err != nil {
			if err = a.changed(err, name); w.wrote {
				panic(http.ErrAbortHandler) // so that the client does not take it for whole
			}
			return err
		}
		if _, err := nowait.WriteJoined(w, fragment(nil, uint32(n+1), f.start, runs)); err != nil {
			return nil // the client has left
		}
	}
	return nil
}

// changed forgets a film that is not the one that was read through.
func (a *app) changed(err error, name string) error {
	if errors.Is(err, media.ErrChanged) {
		a.server.log.Warn("a film has changed", "app", a.name, "name", name, "error", err)
		a.server.films.forget(func(k filmKey) bool { return k == filmKey{a, name} })
	}
	return err
}

// serveFile serves recorded media as an MP4 file. There is none: its tables are made
// of the film's, and the frames are read from where a range begins.
func (a *app) serveFile(w http.ResponseWriter, r *http.Request, name string, source media.Source) error {
	f, err := a.film(r.Context(), name, source)
	if err != nil {
		return fmt.Errorf("%s as MP4: %w", name, err)
	}
	count := a.server.metrics.viewers.WithLabelValues(string(MP4))
	count.Inc()
	defer count.Dec()
	w.Header().Set("ETag", `"`+f.tag+`"`)
	if strings.Contains(r.Header.Get("Range"), ",") { // each would be an Open; nobody asks for several
		r.Header.Del("Range")
	}
	file := &file{app: a, film: f, name: name, ctx: r.Context()}
	defer file.close()
	// A read that fails leaves the response shorter than announced, which the client sees.
	http.ServeContent(a.paced(w, MP4), r, "", time.Time{}, file)
	return nil
}

// A file is the MP4 of a film, as an io.ReadSeeker.
type file struct {
	app  *app
	film *film
	name string
	ctx  context.Context

	at   int64
	reel *projector
	unit int64    // where the unit in rest began, in the file
	end  int64    // where it ends
	data [][]byte // its samples
}

func (f *file) size() int64 { return int64(len(f.film.head)) + f.film.size }

func (f *file) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.size()
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	f.at = offset
	return offset, nil
}

func (f *file) Read(p []byte) (int, error) {
	head := int64(len(f.film.head))
	switch {
	case f.at >= f.size():
		return 0, io.EOF
	case f.at < head:
		n := copy(p, f.film.head[f.at:])
		f.at += int64(n)
		return n, nil
	case f.at < f.unit || f.at >= f.end:
		if err := f.load(f.at - head); err != nil {
			return 0, f.app.changed(err, f.name)
		}
	}
	n := 0
	at := f.unit
	for _, b := range f.data {
		if from := f.at + int64(n) - at; from < int64(len(b)) && n < len(p) {
			n += copy(p[n:], b[from:])
		}
		at += int64(len(b))
	}
	f.at += int64(n)
	return n, nil
}

// load reads the unit with the byte at of the media data.
func (f *file) load(at int64) error {
	units := f.film.units
	i := sort.Search(len(units), func(i int) bool { return units[i].at > at }) - 1
	if f.reel == nil || f.reel.next != i {
		f.close()
		reel, err := f.app.project(f.ctx, f.film, f.name, i)
		if err != nil {
			return err
		}
		f.reel = reel
	}
	runs, err := f.reel.unit(f.ctx)
	if err != nil {
		return err
	}
	f.data = f.data[:0]
	f.unit = int64(len(f.film.head)) + units[i].at
	f.end = f.unit
	for _, r := range runs {
		for _, s := range r.samples {
			f.data = append(f.data, s.data)
			f.end += int64(len(s.data))
		}
	}
	return nil
}

func (f *file) close() {
	if f.reel != nil {
		f.reel.close()
		f.reel = nil
	}
}
