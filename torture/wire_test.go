// Numbers 1 to 18: RTMP on the wire.

package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/e2e/lab"
)

const keyed = `
  keyed:
    - use: ingest
      with: {app: keyed, key: secret, linger: 0s}
    - use: broadcast
    - use: stream
      with: {app: keyed}
`

func TestTorments_Wire(t *testing.T) {
	t.Parallel()
	open(t, keyed).suffer(t, []ordeal{
		{1, "SilentHandshake", silentHandshake, "handshake", `mediad_rtmp_closed_total{cause="handshake"}`, true},
		{2, "HTTP", hello("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "not_rtmp", `mediad_rtmp_closed_total{cause="not_rtmp"}`, false},
		{2, "TLS", hello("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "not_rtmp", `mediad_rtmp_closed_total{cause="not_rtmp"}`, false},
		{3, "RandomC2", randomC2, "", "", false},
		{4, "MessageOverLimit", messageOverLimit, "too_large", `mediad_rtmp_closed_total{cause="too_large"}`, false},
		{5, "ChunkStreams", chunks(streams(33, 1)...), "protocol", `mediad_rtmp_closed_total{cause="protocol"}`, false},
		{6, "HalfMessages", chunks(streams(32, 64<<10)...), "too_large", `mediad_rtmp_closed_total{cause="too_large"}`, false},
		{7, "LengthChanges", byHand(half(256), frame(1)), "cause=length_changed", `mediad_rtmp_dropped_total{cause="length_changed"}`, false},
		{8, "ZeroLength", byHand(lab.Chunk{CSID: 6, Kind: 9, Stream: 1}, frame(1)), "cause=empty", `mediad_rtmp_dropped_total{cause="empty"}`, false},
		{9, "ExtendedTimestamp", extendedTimestamp, "", "", false},
		{10, "Abort", byHand(half(256), lab.Chunk{CSID: 2, Length: 4, Kind: 2, Data: []byte{0, 0, 0, 6}}, frame(1)), "cause=aborted", `mediad_rtmp_dropped_total{cause="aborted"}`, false},
		{11, "ChunkSize0", chunks(chunkSize(0)), "protocol", `mediad_rtmp_closed_total{cause="protocol"}`, false},
		{11, "ChunkSizeHuge", byHand(chunkSize(1<<31), frame(1)), "", "", false},
		{11, "ChunkSize1", chunkSize1, "", "", false},
		{12, "AMFNesting", command(bytes.Repeat([]byte("\x03\x00\x01a"), 10000)), "protocol", `mediad_rtmp_closed_total{cause="protocol"}`, false},
		{13, "AMFStrictArray", command([]byte{0x0a, 0x7f, 0xff, 0xff, 0xff}), "protocol", `mediad_rtmp_closed_total{cause="protocol"}`, false},
		{13, "ShortStrictArray", shortStrictArray, "", "", false},
		{14, "OddMessages", oddMessages, "cause=unknown_type", `mediad_rtmp_dropped_total{cause="unknown_type"}`, false},
		{15, "CreateStreamFlood", createStreamFlood, "cause=too_many_streams", `mediad_rtmp_dropped_total{cause="too_many_streams"}`, false},
		{16, "Refusals", refusals, "refused", `mediad_rtmp_closed_total{cause="refused"}`, false},
		{16, "Backoff", backoff, "refused", `mediad_rtmp_closed_total{cause="refused"}`, true},
		{17, "NamesToPlay", namesToPlay, "cause=play_refused", `mediad_rtmp_dropped_total{cause="play_refused"}`, false},
		{17, "NamesToPublish", namesToPublish, "refused", `mediad_rtmp_closed_total{cause="refused"}`, false},
		{18, "Descriptors", descriptors, cannotAccept + "|" + fromMemory, "mediad_rtmp_accept_errors_total", false},
	})
}

// host is the loopback address of those who are refused for what they do.
const host = 7

func silentHandshake(t *testing.T, h *house) {
	began := time.Now()
	silent, err := h.Raw(host)
	must(t, err)
	slow, err := h.Raw(host)
	must(t, err)
	slowly := make(chan struct{})
	go func() {
		defer close(slowly)
		for _, err := slow.Write([]byte{3}); err == nil; _, err = slow.Write([]byte{0}) {
			time.Sleep(time.Second)
		}
	}()
	for _, r := range []*lab.Raw{silent, slow} {
		must(t, r.Closed(15*time.Second))
		if took := time.Since(began); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("closed after %v, not at 10 s", took)
		}
	}
	<-slowly
}

// hello begins with something else than RTMP.
func hello(text string) func(*testing.T, *house) {
	return func(t *testing.T, h *house) {
		r, err := h.Raw(host)
		must(t, err)
		_, err = io.WriteString(r, text)
		must(t, err)
		must(t, r.Closed(8*time.Second)) // at once, and not when the handshake is over its time
	}
}

func randomC2(t *testing.T, h *house) {
	r, err := h.Raw(host)
	must(t, err)
	defer r.Close()
	first := make([]byte, 1+2*1536) // C0, C1 and C2
	_, _ = rand.Read(first)
	first[0] = 3
	_, err = r.Write(slices.Concat(first, lab.Message(20, 0, amf.Append(nil, "connect", 1, amf.Object{{Key: "app", Value: "live"}}))))
	must(t, err)
	_, err = io.ReadFull(r, make([]byte, 1+2*1536+1)) // and the first byte of the answer
	must(t, err)
}

// messageOverLimit announces 640 MB on 40 connections: they are closed, and nothing is
// allocated for them.
func messageOverLimit(t *testing.T, h *house) {
	h.allocates(t, 64<<20, func() {
		for range 40 {
			chunks(lab.Chunk{CSID: 3, Length: 1<<24 - 1, Kind: 9})(t, h)
		}
	})
}

// allocates checks that the daemon allocates no more than so many bytes while something
// is done, and what the healthy ones need meanwhile, some MB a second.
func (h *house) allocates(t *testing.T, most float64, do func()) {
	t.Helper()
	const allocated = "go_memstats_alloc_bytes_total"
	before, began := h.count(t, allocated), time.Now()
	do()
	took := time.Since(began)
	if n := h.count(t, allocated) - before; n > most+4e6*took.Seconds() {
		t.Errorf("%.0f MB were allocated in %v", n/1e6, took)
	}
}

// chunks sends what the connection is closed for.
func chunks(list ...lab.Chunk) func(*testing.T, *house) {
	return func(t *testing.T, h *house) {
		r, err := h.Raw(host)
		must(t, err)
		must(t, r.Handshake())
		_ = r.Send(list...) // it may be closed before all is sent
		must(t, r.Closed(5*time.Second))
	}
}

// streams begins a message of a length on each of n chunk streams.
func streams(n, length int) (list []lab.Chunk) {
	for i := range n {
		list = append(list, lab.Chunk{CSID: byte(3 + i), Length: length, Kind: 8, Data: make([]byte, min(length, 128))})
	}
	return list
}

func chunkSize(n uint32) lab.Chunk {
	return lab.Chunk{CSID: 2, Length: 4, Kind: 1, Data: binary.BigEndian.AppendUint32(nil, n)}
}

// half is the first chunk of a video message that does not go on.
func half(length int) lab.Chunk {
	return lab.Chunk{CSID: 6, Time: 40, Length: length, Kind: 9, Stream: 1, Data: lab.Video(99, 128)}
}

// frame is the nth frame of a publication, in one chunk.
func frame(n int) lab.Chunk {
	body := lab.Video(n, 100)
	return lab.Chunk{CSID: 6, Time: uint32(n) * 40, Length: len(body), Kind: 9, Stream: 1, Data: body}
}

// byHand publishes frame 0 and then some chunks, of which a viewer must get frame 1.
func byHand(list ...lab.Chunk) func(*testing.T, *house) {
	return func(t *testing.T, h *house) {
		h.publishByHand(t, 0, func(r *lab.Raw) { must(t, r.Send(list...)) })
	}
}

// publishByHand publishes frame 0 at a time, and waits for frame 1 with a viewer.
func (h *house) publishByHand(t *testing.T, at uint32, rest func(*lab.Raw)) {
	t.Helper()
	name := h.fresh("byhand")
	r, err := h.RawPublisher(host, "live", name)
	must(t, err)
	defer r.Close()
	first := frame(0)
	config := lab.Chunk{CSID: 6, Time: at, Long: at >= 0xffffff, Length: len(lab.VideoConfig), Kind: 9, Stream: 1, Data: lab.VideoConfig}
	first.Time, first.Long = at, config.Long
	must(t, r.Send(config, first))
	v, err := h.Watch("live/" + name)
	must(t, err)
	must(t, v.Until(0, 20*time.Second))
	rest(r)
	must(t, v.Until(1, 20*time.Second))
	must(t, v.Close())
}

// extendedTimestamp has a frame of two chunks after 4 h 39 min, of which the second
// repeats the timestamp or does not.
func extendedTimestamp(t *testing.T, h *house) {
	for _, repeats := range []bool{true, false} {
		h.publishByHand(t, 20_000_000, func(r *lab.Raw) {
			body := lab.Video(1, 200)
			must(t, r.Send(lab.Chunk{CSID: 6, Time: 20_000_040, Long: true, Length: 200, Kind: 9, Stream: 1, Data: body[:128]},
				lab.Chunk{Format: 3, CSID: 6, Time: 20_000_040, Long: repeats, Data: body[128:]}))
		})
	}
}

func chunkSize1(t *testing.T, h *house) {
	h.publishByHand(t, 0, func(r *lab.Raw) {
		whole := frame(1)
		list := []lab.Chunk{chunkSize(1), whole}
		list[1].Data = whole.Data[:1]
		for _, b := range whole.Data[1:] {
			list = append(list, lab.Chunk{Format: 3, CSID: 6, Data: []byte{b}})
		}
		must(t, r.Send(list...))
	})
}

// command sends a connect that cannot be read.
func command(rest []byte) func(*testing.T, *house) {
	return func(t *testing.T, h *house) {
		r, err := h.Raw(host)
		must(t, err)
		must(t, r.Handshake())
		_, _ = r.Write(lab.Message(20, 0, append(amf.Append(nil, "connect", 1), rest...)))
		must(t, r.Closed(5*time.Second))
	}
}

// shortStrictArray connects as Enhanced RTMP does, with a list of codecs.
func shortStrictArray(t *testing.T, h *house) {
	r, err := h.Raw(host)
	must(t, err)
	defer r.Close()
	must(t, r.Handshake())
	_, err = r.Write(lab.Message(20, 0, amf.Append(nil, "connect", 1, amf.Object{
		{Key: "app", Value: "live"}, {Key: "fourCcList", Value: amf.Array{"av01", "vp09", "hvc1"}},
	})))
	must(t, err)
	must(t, r.Hear("NetConnection.Connect.Success"))
}

func oddMessages(t *testing.T, h *house) {
	h.publishByHand(t, 0, func(r *lab.Raw) {
		var p []byte
		for kind := range byte(255) {
			switch kind {
			case 1, 2, 5, 8, 9, 15, 17, 18, 20, 22: // those that mean something
			default:
				p = append(p, lab.Message(kind, 1, make([]byte, 300))...)
			}
		}
		for event := range byte(40) {
			p = append(p, lab.Message(4, 0, []byte{0, event})...)
		}
		for _, name := range []string{"nothing", "play", "seek", "connect", "publish", ""} {
			p = append(p, lab.Message(20, 1, amf.Append(nil, name, 9, amf.Undefined{}, strings.Repeat("long", 9999)))...)
			p = append(p, lab.Message(17, 77, append([]byte{0}, amf.Append(nil, name, 9, nil)...))...)
		}
		p = append(p, lab.Message(15, 1, []byte{0})...)
		body := lab.Video(1, 100) // the frame comes in an aggregate message
		tag := append([]byte{9, 0, 0, byte(len(body)), 0, 0, 40, 0, 0, 0, 0}, body...)
		p = append(p, lab.Message(22, 1, append(tag, 0, 0, 0, byte(len(body)+11)))...)
		_, err := r.Write(p)
		must(t, err)
	})
}

func createStreamFlood(t *testing.T, h *house) {
	r, err := h.Raw(host)
	must(t, err)
	defer r.Close()
	must(t, r.SetDeadline(time.Now().Add(5*time.Minute)))
	must(t, r.Handshake())
	_, err = r.Write(lab.Message(20, 0, amf.Append(nil, "connect", 1, amf.Object{{Key: "app", Value: "live"}})))
	must(t, err)
	must(t, r.Hear("NetConnection.Connect.Success"))
	heard := make(chan error, 1)
	go func() { // the answers, which would fill the connection
		_, err := io.Copy(io.Discard, r)
		heard <- err
	}()
	const refused = `mediad_rtmp_dropped_total{cause="too_many_streams"}`
	before := h.count(t, refused)
	flood := func(n int, all float64) (cpu float64) {
		cpu = h.count(t, "process_cpu_seconds_total")
		for i := range n {
			_, err = r.Write(lab.Message(20, 0, amf.Append(nil, "createStream", 2+i, nil)))
			must(t, err)
		}
		must(t, lab.Eventually(time.Minute, func() error {
			if n := h.count(t, refused) - before; n != all {
				return fmt.Errorf("%v are refused, want %v", n, all)
			}
			return nil
		}))
		return h.count(t, "process_cpu_seconds_total") - cpu
	}
	const some = 4000
	first := flood(some, some-4) // there may be four
	flood(4*some, 5*some-4)
	last := flood(some, 6*some-4)
	for n := 7.0; last > 3*first+0.2 && n < 10; n++ { // what the healthy ones took is in it, too
		last = min(last, flood(some, n*some-4))
	}
	t.Logf("saw: %d take %.2f s of CPU at first, and %.2f s when there were %d before; ", some, first, last, 5*some)
	if last > 3*first+0.2 {
		t.Error("the more there were, the more it costs")
	}
	must(t, r.Close())
	<-heard
}

func refusals(t *testing.T, h *house) {
	for _, c := range []struct{ path, code string }{
		{"nowhere/x", "NetConnection.Connect.InvalidApp"},
		{"keyed/x?key=wrong", "NetStream.Publish.Denied"},
	} {
		_, err := h.Connect(t.Context(), c.path)
		var refused *rtmp.StatusError
		if !errors.As(err, &refused) || refused.Code != c.code {
			t.Errorf("publish %s: %v, want %s", c.path, err, c.code)
		}
	}
	c, err := h.Connect(t.Context(), "keyed/x?key=secret")
	must(t, err)
	must(t, c.Close())
}

// backoff tries wrong keys, one after another.
func backoff(t *testing.T, h *house) {
	var took []time.Duration
	for range 5 {
		began := time.Now()
		if r, err := h.RawPublisher(99, "keyed", "x?key=guess"); err == nil {
			_ = r.Close()
			t.Fatal("a wrong key may publish")
		}
		took = append(took, time.Since(began))
	}
	if took[3] < 250*time.Millisecond || took[4] < 500*time.Millisecond {
		t.Errorf("refusals are told after %v", took)
	}
	began := time.Now()
	_, err := h.RawPublisher(98, "keyed", "x?key=guess")
	if other := time.Since(began); err == nil || other > took[4] {
		t.Errorf("another address is held back for %v: %v", other, err)
	}
}

var badNames = []string{"../x", "a/../b", "a\x00b", strings.Repeat("x", 4096), "a\r\nb", "<script>alert(1)</script>"}

func namesToPlay(t *testing.T, h *house) {
	c, err := rtmp.Dial(t.Context(), h.URL("live"))
	must(t, err)
	defer c.Close()
	for _, name := range badNames {
		must(t, c.Play(t.Context(), name, stream.StartAny, -1, true))
		must(t, hear(t, c, "NetStream.Play.StreamNotFound"))
	}
	h.clean(t)
}

func namesToPublish(t *testing.T, h *house) {
	for i, name := range badNames {
		if _, err := h.RawPublisher(byte(20+i), "live", name); err == nil { // each from another address
			t.Errorf("%q may be published", name)
		}
	}
	h.clean(t)
}

// clean checks that nothing that comes from a name stands unescaped where it may be
// taken for something else.
func (h *house) clean(t *testing.T) {
	t.Helper()
	for _, path := range []string{"/metrics", "/api/channels", "/api/pipelines"} {
		page, err := h.Get(path)
		must(t, err)
		if bytes.Contains(page, []byte("<script>")) || bytes.Contains(page, []byte("../x")) {
			t.Errorf("%s has a name that was refused", path)
		}
	}
	resp, err := http.Get("http://" + h.HTTP + "/%3Cscript%3E") //nolint:noctx // of this machine
	must(t, err)
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); strings.Contains(kind, "html") {
		t.Errorf("the error page is %s", kind)
	}
	for _, line := range h.Log.From(0) {
		if strings.ContainsAny(line, "\r\x00") || len(line) > 2000 || strings.HasPrefix(line, "b\"") {
			t.Errorf("a name stands in the log as it came: %.100q", line)
		}
	}
}

// hear reads until the client is told a code.
func hear(t *testing.T, c *rtmp.Client, code string) error {
	t.Helper()
	for {
		m, err := c.Next(t.Context())
		if err != nil {
			return fmt.Errorf("%s is not told: %w", code, err)
		}
		if m.Kind == rtmp.KindStatus && m.Status.Code == code {
			return nil
		}
	}
}

// What is logged when there are no descriptors: by the listener, and by the cache of a film
// that begins meanwhile and is served nevertheless.
const (
	cannotAccept = "cannot accept"
	fromMemory   = "what is in memory is served: name=healthy.flv .*too many open files"
)

// descriptors leaves the daemon a few descriptors and takes them. Who is connected is served
// even then: a film begins, from memory.
func descriptors(t *testing.T, h *house) {
	lines := h.Log.Len()
	c, err := rtmp.Dial(t.Context(), h.URL("vod"))
	must(t, err)
	defer c.Close()
	held, err := h.Held()
	must(t, err)
	limit := func(n string) {
		out, err := exec.Command("prlimit", fmt.Sprintf("--pid=%d", h.PID()), "--nofile="+n).CombinedOutput()
		if err != nil {
			t.Fatalf("prlimit: %v: %s", err, out)
		}
	}
	limit(fmt.Sprintf("%d:", held.Descriptors+10))
	var conns []*lab.Raw
	for range 80 { // which take their turns of ten seconds
		r, err := h.Raw(host)
		must(t, err) // the kernel accepts it
		conns = append(conns, r)
	}
	h.says(t, lines, regexp.MustCompile(cannotAccept), 20*time.Second)
	must(t, c.Play(t.Context(), "healthy.flv", 0, -1, true))
	for frame := false; !frame; {
		m, err := c.Next(t.Context())
		must(t, err)
		_, frame = lab.Number(m.Track, m.Body)
	}
	h.says(t, lines, regexp.MustCompile(fromMemory), 20*time.Second)
	for _, r := range conns {
		must(t, r.Close())
	}
	limit("1024:")
	v, err := h.Watch("live/healthy")
	must(t, err)
	must(t, v.Until(h.publisher.Sent(), 20*time.Second))
	must(t, v.Close())
}
