// One gohlslib muxer, and what stands between it and the clients.
//
// gohlslib answers a blocking request (RFC 8216bis, 6.2.5.2) by waiting for as long as it
// takes, whether the client is there or not, and after Close its lock may stay taken. So
// no request is passed to it before its answer is there: one goroutine follows the
// playlist as a player would, and clients wait for what that has seen.

package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bluenviron/gohlslib/v2"
	hlscodecs "github.com/bluenviron/gohlslib/v2/pkg/codecs"
	"github.com/bluenviron/gohlslib/v2/pkg/playlist"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
	"github.com/mediad/mediad/core/media"
)

const (
	// segmentTime is the least of a segment, which ends with a GOP. It is less than a
	// second since the decoding times that gohlslib works out for B-frames begin late.
	segmentTime = 900 * time.Millisecond
	partTime    = 200 * time.Millisecond
	minSegments = 7   // what gohlslib takes for Low-Latency HLS
	maxFailures = 250 // frames in a row that gohlslib refuses
)

// A muxer is the HLS of a channel under one codec configuration.
type muxer struct {
	id      string // in front of the names of its playlists
	hls     *gohlslib.Muxer
	leading string // name of the playlist that the others follow
	tracks  []muxTrack
	formats [2]media.Format
	left    string    // codec of a track that is left out
	zero    time.Time // the wall clock at DTS 0, for EXT-X-PROGRAM-DATE-TIME
	limits  Limits
	metrics *metrics
	begun   chan struct{} // closed when there is a segment, and prefix is set
	prefix  string        // of the names of segments and parts

	feed     sync.Mutex // held while something is written to hls, or it is closed
	failures int        // in a row
	last     time.Duration
	closed   bool

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when edge changes
	edge    edge
}

// An edge is how far the playlist goes.
type edge struct {
	segment int  // media sequence number of the one that is being made
	parts   int  // of it
	before  int  // parts of the segment before it
	part    int  // number of the next part, which counts on through all segments
	ended   bool // there will be no more
}

// A muxTrack is a track of a muxer.
type muxTrack struct {
	track
	*gohlslib.Track
	configured bool // the parameter sets have been sent
	key        media.Frame
}

// newMuxer makes a muxer for media that begin with batches, the last of which are of
// this moment.
func newMuxer(batches []*media.Batch, count int, limits Limits, metrics *metrics) (*muxer, error) {
	header := batches[0].Header()
	tracks, left, err := tracksOf(header)
	if err != nil {
		return nil, err
	}
	newest := batches[len(batches)-1].Frames()
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails
	m := &muxer{
		id:      hex.EncodeToString(id[:]),
		formats: [2]media.Format{header.Video, header.Audio},
		left:    left,
		zero:    time.Now().Add(-newest[len(newest)-1].DTS),
		limits:  limits,
		metrics: metrics,
		begun:   make(chan struct{}),
		changed: make(chan struct{}),
	}
	m.hls = &gohlslib.Muxer{
		Variant:            gohlslib.MuxerVariantLowLatency,
		SegmentCount:       count,
		SegmentMinDuration: segmentTime,
		PartMinDuration:    partTime,
		SegmentMaxSize:     uint64(limits.Memory / count),
		OnEncodeError:      func(error) {}, // of part durations that vary, as they do where frames' durations do
	}
	for _, t := range tracks {
		mt := muxTrack{track: t, Track: &gohlslib.Track{Codec: t.hlsCodec(), ClockRate: t.clock()}}
		m.tracks = append(m.tracks, mt)
		m.hls.Tracks = append(m.hls.Tracks, mt.Track)
	}
	m.leading = tracks[0].kind.String() + "1" + streamSuffix
	if err := m.hls.Start(); err != nil {
		return nil, fmt.Errorf("gohlslib: %w", err)
	}
	return m, nil
}

const streamSuffix = "_stream.m3u8"

// clock is what gohlslib counts the times of a track in.
func (t *track) clock() int {
	if t.kind == media.Audio {
		return t.rate
	}
	return 90000
}

func (t *track) hlsCodec() hlscodecs.Codec {
	switch t.codec {
	case "h264":
		return &hlscodecs.H264{SPS: t.params[0], PPS: t.params[len(t.params)-1]}
	case "hevc":
		c := &hlscodecs.H265{}
		for _, p := range t.params {
			switch h265.NALUType(p[0] >> 1 & 63) {
			case h265.NALUType_VPS_NUT:
				c.VPS = p
			case h265.NALUType_SPS_NUT:
				c.SPS = p
			case h265.NALUType_PPS_NUT:
				c.PPS = p
			}
		}
		return c
	case "av1":
		return &hlscodecs.AV1{SequenceHeader: t.params[0]}
	case "opus":
		return &hlscodecs.Opus{ChannelCount: t.channels}
	}
	var c mpeg4audio.AudioSpecificConfig
	_ = c.Unmarshal(t.config) // it was read before
	return &hlscodecs.MPEG4Audio{Config: c}
}

// fits reports whether media under h can go on in m.
func (m *muxer) fits(h *media.Header) bool {
	return sameFormat(h.Video, m.formats[0]) && sameFormat(h.Audio, m.formats[1])
}

// write gives a batch to gohlslib. What that refuses is left out and counted, until it
// is too much in a row.
func (m *muxer) write(b *media.Batch) error {
	m.feed.Lock()
	defer m.feed.Unlock()
	for _, f := range b.Frames() {
		i := slices.IndexFunc(m.tracks, func(t muxTrack) bool { return t.kind == f.Track })
		if i < 0 || m.closed {
			continue
		}
		t := &m.tracks[i]
		if f.Key || f.Track == media.Audio {
			t.key = f
		}
		m.last = max(m.last, f.PTS)
		err := m.writeFrame(t, f)
		switch {
		case err == nil:
			m.failures = 0
			continue
		case err.Error() == "reached maximum segment size": // gohlslib has no value for it
			return errFull
		}
		m.metrics.dropped.WithLabelValues("unfit for HLS").Inc()
		if m.failures++; m.failures > maxFailures {
			return fmt.Errorf("%d %s frames in a row do not fit into HLS: %w", m.failures, t.codec, err)
		}
	}
	return nil
}

func (m *muxer) writeFrame(t *muxTrack, f media.Frame) error {
	data, ok := t.sample(f)
	if !ok {
		return errors.New("it is no frame of the track")
	}
	at := m.zero.Add(f.PTS)
	pts := (f.PTS.Milliseconds()*int64(t.ClockRate) + 500) / 1000
	switch t.codec {
	case "aac":
		return m.hls.WriteMPEG4Audio(t.Track, at, pts, [][]byte{data})
	case "opus":
		return m.hls.WriteOpus(t.Track, at, pts, [][]byte{data})
	case "av1":
		var unit av1.Bitstream
		if err := unit.Unmarshal(data); err != nil {
			return err
		}
		return m.hls.WriteAV1(t.Track, at, pts, t.configure(f, unit))
	}
	unit, err := t.units(data)
	if err != nil || len(unit) == 0 {
		return errShort
	}
	unit = t.configure(f, unit)
	if t.codec == "hevc" {
		return m.hls.WriteH265(t.Track, at, pts, unit)
	}
	return m.hls.WriteH264(t.Track, at, pts, unit)
}

// configure puts the parameter sets in front of the first keyframe, from which gohlslib
// learns them for the decoding times that it works out by itself.
func (t *muxTrack) configure(f media.Frame, unit [][]byte) [][]byte {
	if !f.Key || t.configured {
		return unit
	}
	t.configured = true
	return append(slices.Clone(t.params), unit...)
}

// finish ends the playlist: those who watch see all of it, and then the end. The last
// segment is only ended by a keyframe that follows it, which itself is not shown.
func (m *muxer) finish() {
	m.feed.Lock()
	defer m.feed.Unlock()
	m.update(func() { // nobody is served what is between the two
		if t := &m.tracks[0]; t.key.Body != nil && !m.closed {
			f := t.key
			f.PTS = m.last + segmentTime
			_ = m.writeFrame(t, f)
		}
		m.edge.ended = true
	})
}

// close gives the memory back, and ends those who wait.
func (m *muxer) close() {
	m.feed.Lock()
	if !m.closed {
		m.closed = true
		m.hls.Close()
	}
	m.feed.Unlock()
	m.update(func() { m.edge.ended = true })
}

func (m *muxer) update(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.changed)
	m.changed = make(chan struct{})
}

// follow reads the leading playlist as it grows, until the muxer is closed.
func (m *muxer) follow() {
	for query := ""; ; {
		text, code := m.ask(m.leading, query)
		if code != http.StatusOK {
			return
		}
		var list playlist.Media
		if err := list.Unmarshal(text); err != nil || list.PreloadHint == nil {
			return
		}
		prefix, part, _ := partName(list.PreloadHint.URI)
		e := edge{segment: list.MediaSequence + len(list.Segments), parts: len(list.Parts), part: part}
		if n := len(list.Segments); n > 0 {
			e.before = len(list.Segments[n-1].Parts)
		}
		m.update(func() {
			e.ended = m.edge.ended
			m.edge = e
		})
		if m.prefix == "" {
			m.prefix = prefix
			close(m.begun)
		}
		query = fmt.Sprintf("?_HLS_msn=%d&_HLS_part=%d", e.segment, e.parts)
	}
}

// ask returns what gohlslib answers, and its status.
func (m *muxer) ask(file, query string) ([]byte, int) {
	rec := &recorder{header: http.Header{}}
	u := &url.URL{Path: "/" + file, RawQuery: strings.TrimPrefix(query, "?")}
	m.hls.Handle(rec, &http.Request{Method: http.MethodGet, URL: u})
	return rec.body.Bytes(), rec.code
}

// wait waits until there is what ready tells of.
func (m *muxer) wait(ctx context.Context, ready func(edge) bool) error {
	ctx, cancel := context.WithTimeout(ctx, m.limits.Wait)
	defer cancel()
	for {
		m.mu.Lock()
		changed, e := m.changed, m.edge
		m.mu.Unlock()
		if e.ended || ready(e) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: the channel sends nothing", media.ErrUnavailable)
		}
	}
}

func (m *muxer) ended() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.edge.ended
}

// serveMaster serves the playlist of the tracks.
func (m *muxer) serveMaster(w http.ResponseWriter, r *http.Request) error {
	text, code := m.ask(indexFile, query(r))
	if code != http.StatusOK {
		return media.ErrUnavailable
	}
	for _, kind := range []string{"video", "audio"} {
		for i := range m.tracks {
			name := kind + strconv.Itoa(i+1) + streamSuffix
			text = []byte(strings.ReplaceAll(string(text), name, m.id+"_"+name))
		}
	}
	m.sendPlaylist(w, text)
	return nil
}

func (m *muxer) sendPlaylist(w http.ResponseWriter, text []byte) {
	h := w.Header()
	h.Set("Content-Type", playlistType)
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = newPaced(w, m.limits.Write, m.metrics.bytes.WithLabelValues(string(HLS))).Write(text) // the client has left
}

const playlistType = "application/vnd.apple.mpegurl"

// serve serves a file, or reports false when it is not one of m's. An error means that
// nothing has been written.
func (m *muxer) serve(w http.ResponseWriter, r *http.Request, file string) (bool, error) {
	if name, ok := strings.CutPrefix(file, m.id+"_"); ok {
		return true, m.servePlaylist(w, r, name)
	}
	select {
	case <-m.begun:
	default:
		return false, nil
	}
	if !strings.HasPrefix(file, m.prefix+"_") {
		return false, nil
	}
	if _, n, ok := partName(file); ok {
		if err := m.wait(r.Context(), func(e edge) bool { return n != e.part }); err != nil {
			return false, err
		}
		m.mu.Lock()
		next := m.edge.part
		m.mu.Unlock()
		if n >= next {
			return false, nil
		}
	}
	p := newPaced(w, m.limits.Write, m.metrics.bytes.WithLabelValues(string(HLS)))
	m.hls.Handle(p, r)
	return p.wrote, nil
}

// partName divides the name of a part, if file is one.
func partName(file string) (prefix string, number int, ok bool) {
	prefix, rest, _ := strings.Cut(file, "_")
	_, digits, ok := strings.Cut(strings.TrimSuffix(rest, ".mp4"), "_part")
	number, err := strconv.Atoi(digits)
	return prefix, number, ok && err == nil
}

// servePlaylist serves a media playlist, when it goes as far as is asked for.
func (m *muxer) servePlaylist(w http.ResponseWriter, r *http.Request, name string) error {
	q := r.URL.Query()
	segment, err1 := strconv.Atoi(orZero(q.Get("_HLS_msn")))
	part, err2 := strconv.Atoi(orZero(q.Get("_HLS_part")))
	if err1 != nil || err2 != nil || segment < 0 || part < 0 {
		return &httpError{http.StatusBadRequest, "_HLS_msn and _HLS_part are numbers"}
	}
	select {
	case <-m.begun:
	default:
		return media.ErrUnavailable
	}
	err := m.wait(r.Context(), func(e edge) bool {
		switch {
		case q.Get("_HLS_msn") == "" || segment < e.segment-1 || segment > e.segment+1: // the last is an error
			return true
		case segment == e.segment-1:
			return part < e.before || e.parts > 0
		}
		return segment == e.segment && part < e.parts
	})
	if err != nil {
		return err
	}
	text, code := m.playlist(name, r)
	switch code {
	case http.StatusOK:
		m.sendPlaylist(w, text)
		return nil
	case http.StatusBadRequest:
		return &httpError{code, "there is no such place in the playlist"}
	case 0: // gohlslib has no such file
		return media.ErrNotFound
	}
	return media.ErrUnavailable
}

// playlist returns what gohlslib answers r at once, or all there is, with its end.
func (m *muxer) playlist(name string, r *http.Request) ([]byte, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.edge.ended {
		return m.ask(name, "?"+r.URL.RawQuery)
	}
	text, code := m.ask(name, query(r))
	return ended(text), code
}

func orZero(s string) string {
	if s == "" {
		return "0"
	}
	return s
}

// ended makes of a playlist that would go on one that does not: without parts, which
// all are in segments by then.
func ended(text []byte) []byte {
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "#EXT-X-PRELOAD-HINT", "#EXT-X-SERVER-CONTROL", "#EXT-X-PART-INF", "#EXT-X-PART":
		default:
			out.WriteString(line)
		}
	}
	return []byte(out.String() + "#EXT-X-ENDLIST\n")
}
