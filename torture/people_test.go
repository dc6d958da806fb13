// Numbers 43 to 54: viewers and publishers.

package main

import (
	"bytes"
	"cmp"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/e2e/lab"
)

const people = `
  brief:
    - use: ingest
      with: {app: brief, linger: 0s}
    - use: broadcast
      with: {window: 2s, wait: 1s}
    - use: stream
      with: {app: brief}
  back:
    - use: ingest
      with: {app: back, linger: 5s}
    - use: broadcast
    - use: stream
      with: {app: back}
  taken:
    - use: ingest
      with: {app: taken, linger: 0s, takeover: true}
    - use: broadcast
    - use: stream
      with: {app: taken}
`

func TestTorments_People(t *testing.T) {
	t.Parallel()
	open(t, people).suffer(t, []ordeal{
		{43, "StopsReading", stopsReading, "too slow and is moved", `mediad_broadcast_skips_total{pipeline="brief"}`, true},
		{44, "DeadTCP", deadTCP, "slow", `mediad_rtmp_closed_total{cause="slow"}`, true},
		{45, "ManyJoin", manyJoin, "", "", false},
		{46, "WaitsForThePublisher", waits, "", "", false},
		{46, "NobodyPublishes", nobodyPublishes, "did not begin.*reason=not_found", `mediad_stream_ends_total{cause="not_found"}`, false},
		{47, "TimestampsJump", timestampsJump, "timestamps jumped", `mediad_ingest_timestamp_jumps_total`, false},
		{48, "Pass0xFFFFFF", lateTimestamps(0xffffff - 500), "", "", false},
		{48, "Wrap", lateTimestamps(1<<32 - 500), "", "", false},
		{49, "NoConfiguration", noConfiguration, "frame dropped", `mediad_ingest_dropped_frames_total{reason="no_codec_configuration"}`, false},
		{50, "CodecChanges", codecChanges, "", "", false},
		{51, "AudioOnly", only(media.Audio), "", "", false},
		{51, "VideoOnly", only(media.Video), "", "", false},
		{52, "ComesBack", comesBack, "", "", false},
		{53, "SecondIsRefused", secondIsRefused, "refused", `mediad_ingest_refused_total{reason="busy"}`, false},
		{53, "SecondTakesOver", secondTakesOver, "over", `mediad_rtmp_closed_total{cause="over"}`, false},
		{54, "HugeKeyframe", hugeKeyframe, "", "", false},
	})
}

// large is a publication that fills the buffers of who does not read in a second.
func (h *house) large(t *testing.T) (p *lab.Publisher, name string) {
	t.Helper()
	name = h.fresh("large")
	p, err := h.Publish(lab.Publication{Path: "brief/" + name, Size: 100_000})
	must(t, err)
	return p, name
}

// ask plays APP/NAME and reads nothing of the answers.
func (h *house) ask(t *testing.T, app, name string) *rtmp.Client {
	t.Helper()
	c, err := rtmp.Dial(t.Context(), h.URL(app))
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.Play(t.Context(), name, stream.StartAny, -1, true))
	return c
}

// stopsReading reads on after a while: then it is at a keyframe, and all comes again.
func stopsReading(t *testing.T, h *house) {
	p, name := h.large(t)
	c := h.ask(t, "brief", name)
	must(t, lab.Eventually(20*time.Second, func() error {
		if p.Sent() < 150 { // 6 s
			return errors.New("the publisher is not as far")
		}
		return nil
	}))
	last, jumps, since := -1, 0, 0
	for since < 2*lab.GOP {
		m, err := c.Next(t.Context())
		must(t, err)
		n, ok := lab.Number(m.Track, m.Body)
		if m.Kind != rtmp.KindMedia || m.Track != media.Video || !ok {
			continue
		}
		if last >= 0 && n != last+1 {
			if jumps++; n%lab.GOP != 0 {
				t.Errorf("after frame %d comes frame %d, which is no keyframe", last, n)
			}
		}
		if last = n; jumps > 0 {
			since++
		}
	}
	if jumps != 1 {
		t.Errorf("%d jumps", jumps)
	}
	must(t, c.Close())
	must(t, p.Close())
}

func deadTCP(t *testing.T, h *house) {
	p, name := h.large(t)
	h.ask(t, "brief", name)
	slow := `mediad_rtmp_closed_total{cause="slow"}`
	before := h.count(t, slow)
	must(t, lab.Eventually(20*time.Second, func() error {
		if h.count(t, slow) == before {
			return errors.New("it was not closed")
		}
		return nil
	}))
	must(t, p.Close())
}

func manyJoin(t *testing.T, h *house) {
	viewers := 100
	if all {
		viewers = 1000
	}
	const frames = 50
	must(t, lab.WriteFilm(h.Path("media", "many.flv"), frames, 2000))
	read := h.count(t, "mediad_reader_disk_read_bytes_total")
	var everybody sync.WaitGroup
	for range viewers {
		everybody.Go(func() {
			if got, err := h.play(t.Context(), "vod/many.flv"); err != nil || got.unbroken() != frames {
				t.Errorf("a viewer got %d frames of %d, %v", got.unbroken(), frames, err)
			}
		})
	}
	everybody.Wait()
	read = h.count(t, "mediad_reader_disk_read_bytes_total") - read
	t.Logf("saw: %d viewers, %v bytes read of a film of %d; ", viewers, read, frames*2100)
	if read > 3*frames*2100 { // once for the index, and once for the frames
		t.Error("the film was read more than once")
	}
}

func waits(t *testing.T, h *house) {
	v, err := h.Watch("live/later")
	must(t, err)
	p, err := h.Publish(lab.Publication{Path: "live/later"})
	must(t, err)
	must(t, v.Until(3, 20*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
}

func nobodyPublishes(t *testing.T, h *house) {
	c := h.ask(t, "brief", "nobody")
	must(t, hear(t, c, "NetStream.Play.StreamNotFound"))
	must(t, c.Close())
}

// timestampsJump goes an hour forward and two back. What is recorded of it is looked
// at once it is finished.
func timestampsJump(t *testing.T, h *house) {
	p, err := h.Publish(lab.Publication{Path: "live/kept-jump"})
	must(t, err)
	v, err := h.Watch("live/kept-jump")
	must(t, err)
	for i, by := range []time.Duration{time.Hour, -2 * time.Hour} {
		must(t, v.Until(10*(i+1), 20*time.Second))
		p.Jump(by)
	}
	must(t, v.Until(30, 20*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
	if n := recorded(t, h.recordings(t, "recordings", "kept-jump", 1)[0], 0); n < 30 {
		t.Errorf("%d frames are recorded", n)
	}
}

// recordings waits until a channel has n files in a folder, all finished.
func (h *house) recordings(t *testing.T, folder, channel string, n int) (files []string) {
	t.Helper()
	must(t, lab.Eventually(20*time.Second, func() (err error) {
		if files, err = filepath.Glob(h.Path(folder, channel, "*", "*.flv")); err != nil {
			return err
		}
		finished := 0
		for _, file := range files {
			if ok, err := lab.Finished(file); ok && err == nil {
				finished++
			}
		}
		if finished != n || len(files) != n {
			return errors.New("the recordings are " + strings.Join(files, ", "))
		}
		return nil
	}))
	slices.SortFunc(files, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) }) // x.flv, x-2.flv
	return files
}

// lateTimestamps passes a limit of timestamps after half a second.
func lateTimestamps(start uint32) func(*testing.T, *house) {
	return func(t *testing.T, h *house) {
		path := h.fresh("live/late")
		p, err := h.Publish(lab.Publication{Path: path, Start: start})
		must(t, err)
		v, err := h.Watch(path)
		must(t, err)
		must(t, v.Until(25, 20*time.Second))
		must(t, errors.Join(v.Close(), p.Close()))
	}
}

// noConfiguration sends frames that nobody can decode, and then makes up for it.
func noConfiguration(t *testing.T, h *house) {
	p, err := h.Connect(t.Context(), "live/bare")
	must(t, err)
	v, err := h.Watch("live/bare")
	must(t, err)
	for n := range 50 {
		must(t, p.WriteMessage(media.Video, uint32(n*40), lab.Video(n, 500)))
	}
	must(t, p.WriteMessage(media.Video, 2000, lab.VideoConfig))
	for n := range 3 {
		must(t, p.WriteMessage(media.Video, uint32(2000+n*40), lab.Video(n+lab.Epoch, 500)))
	}
	must(t, v.Until(lab.Epoch+2, 20*time.Second))
	if v.Frames() != 3 {
		t.Errorf("the viewer got %d frames, 3 can be decoded", v.Frames())
	}
	must(t, errors.Join(v.Close(), p.Close()))
}

func codecChanges(t *testing.T, h *house) {
	p, err := h.Connect(t.Context(), "live/kept-codec")
	must(t, err)
	other := bytes.Clone(lab.VideoConfig)
	other[8] = 0x28 // another level
	c := h.ask(t, "live", "kept-codec")
	see := func(want []byte) {
		t.Helper()
		m, err := c.Next(t.Context())
		for err == nil && (m.Kind != rtmp.KindMedia || m.Track != media.Video) {
			m, err = c.Next(t.Context())
		}
		must(t, err)
		if !bytes.Equal(m.Body, want) {
			t.Fatalf("the viewer got %.20q, want %.20q", m.Body, want)
		}
	}
	n := 0
	for _, config := range [][]byte{lab.VideoConfig, other} {
		must(t, p.WriteMessage(media.Video, uint32(n*40), config))
		for i := range lab.GOP {
			body := lab.Video(n, 100)
			must(t, p.WriteMessage(media.Video, uint32(n*40), body))
			if i == 0 {
				see(config)
			}
			see(body)
			n++
		}
	}
	must(t, errors.Join(p.Close(), c.Close()))
	next := 0
	for _, file := range h.recordings(t, "recordings", "kept-codec", 2) {
		next = recorded(t, file, next)
	}
	if next != n {
		t.Errorf("%d frames are recorded of %d", next, n)
	}
}

func only(track media.Track) func(*testing.T, *house) {
	return func(t *testing.T, h *house) {
		path := h.fresh("live/only")
		p, err := h.Publish(lab.Publication{Path: path, Only: track})
		must(t, err)
		v, err := h.Watch(path)
		must(t, err)
		must(t, v.Until(5, 20*time.Second))
		must(t, errors.Join(v.Close(), p.Close()))
	}
}

// comesBack has a publisher whose connection breaks, and one who goes on.
func comesBack(t *testing.T, h *house) {
	p, err := h.Publish(lab.Publication{Path: "back/show"})
	must(t, err)
	v, err := h.Watch("back/show")
	must(t, err)
	must(t, v.Until(10, 20*time.Second))
	p.Drop()
	must(t, lab.Eventually(10*time.Second, func() (err error) {
		p, err = h.Publish(lab.Publication{Path: "back/show", First: lab.Epoch})
		return err
	}))
	must(t, v.Until(lab.Epoch+10, 20*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
	must(t, lab.Eventually(20*time.Second, func() error { // 5 s later
		if h.count(t, `mediad_broadcast_channels{pipeline="back"}`) > 0 {
			return errors.New("the channel is still on air")
		}
		return nil
	}))
}

func secondIsRefused(t *testing.T, h *house) {
	_, err := h.Connect(t.Context(), "live/healthy")
	var refused *rtmp.StatusError
	if !errors.As(err, &refused) || refused.Code != "NetStream.Publish.BadName" {
		t.Errorf("the second publisher gets %v", err)
	}
}

func secondTakesOver(t *testing.T, h *house) {
	first, err := h.Connect(t.Context(), "taken/show")
	must(t, err)
	must(t, first.WriteMessage(media.Video, 0, lab.VideoConfig))
	must(t, first.WriteMessage(media.Video, 0, lab.Video(0, 100)))
	v, err := h.Watch("taken/show")
	must(t, err)
	must(t, v.Until(0, 20*time.Second))
	second, err := h.Publish(lab.Publication{Path: "taken/show", First: lab.Epoch})
	must(t, err)
	must(t, v.Until(lab.Epoch+5, 20*time.Second))
	must(t, hear(t, first, "NetStream.Publish.BadName"))
	must(t, errors.Join(v.Close(), second.Close(), first.Close()))
}

func hugeKeyframe(t *testing.T, h *house) {
	p, err := h.Connect(t.Context(), "live/huge")
	must(t, err)
	must(t, p.WriteMessage(media.Video, 0, lab.VideoConfig))
	must(t, p.WriteMessage(media.Video, 0, lab.Video(0, 100)))
	v, err := h.Watch("live/huge")
	must(t, err)
	must(t, v.Until(0, 20*time.Second))
	must(t, p.WriteMessage(media.Video, 40, lab.Video(1, 8<<20)))
	must(t, v.Until(1, 20*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
}
