// The client's side of one message stream that plays.

package rtmp

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// A viewer is a stream.Viewer: it writes to the session's connection.
type viewer struct {
	s   *session
	out *output // of s
	id  uint32  // of the message stream

	off     [tracks]bool
	needKey bool  // the video was turned on again
	zero    int64 // the client's time 0, in milliseconds on the timeline of the media

	// header is in force for the client. sent is what it has been sent of it:
	// the metadata and the configuration of each track.
	header *media.Header
	sent   struct{ meta, video, audio []byte }

	late []*media.Batch // of a Try that found the output taken
}

func (s *session) newViewer(id uint32) *viewer { return &viewer{s: s, out: &s.out, id: id} }

func (v *viewer) Context() context.Context { return v.s.ctx }

func (v *viewer) Status(st stream.Status) error {
	return v.fail(v.out.send(csidStatus, rtmpmsg.TypeIDCommandMessageAMF0, v.id, onStatus(st)))
}

func (v *viewer) Event(e stream.Event) error {
	return v.fail(v.out.send(csidControl, rtmpmsg.TypeIDUserCtrl, 0, event(uint16(e), v.id)))
}

func (v *viewer) Access() error {
	return v.data("|RtmpSampleAccess", true, true)
}

func (v *viewer) Complete(duration time.Duration, bytes int64) error {
	return v.data("onPlayStatus", amf.Object{
		{Key: "level", Value: "status"},
		{Key: "code", Value: "NetStream.Play.Complete"},
		{Key: "duration", Value: duration.Seconds()},
		{Key: "bytes", Value: float64(bytes)},
	})
}

func (v *viewer) data(values ...any) error {
	return v.fail(v.out.send(csidStatus, rtmpmsg.TypeIDDataMessageAMF0, v.id, amf.Append(nil, values...)))
}

func (v *viewer) Timeline(zero time.Duration) {
	o := v.out
	o.Lock()
	defer o.Unlock()
	v.zero = zero.Milliseconds()
	v.header = nil
	v.sent.meta, v.sent.video, v.sent.audio = nil, nil, nil
	for t := range o.clocks {
		if o.clocks[t].viewer == v {
			o.clocks[t].viewer = nil
		}
	}
}

func (v *viewer) Receive(t media.Track, on bool) {
	i := index(t)
	if on && v.off[i] {
		v.header = nil // it may have changed while the track was off
		v.needKey = v.needKey || t == media.Video
	}
	v.off[i] = !on
}

func (v *viewer) Write(batches []*media.Batch) error {
	o := v.out
	o.Lock()
	v.put(o, v.late)
	v.late = nil
	v.put(o, batches)
	err := o.Flush()
	o.Unlock()
	return v.fail(err)
}

func (v *viewer) put(o *output, batches []*media.Batch) {
	o.Queue = slices.Grow(o.Queue, len(batches))
	for _, b := range batches {
		if b.Header() != v.header {
			v.putHeader(o, b)
		}
		v.putBatch(o, formOf(b))
	}
}

// A promptViewer is a viewer whose connection can be written to without waiting.
type promptViewer struct{ *viewer }

// Try implements stream.Prompt. The chunks of the last batch, which mostly is the
// only one, are not put into the queue: they are the same for all viewers.
func (v promptViewer) Try(batches []*media.Batch) (done bool, err error) {
	o := v.out
	if !o.TryLock() { // somebody writes, and may be waiting for the client
		v.late = append(v.late, batches...)
		return false, nil
	}
	last := len(batches) - 1
	v.put(o, batches[:last])
	done, err = o.Try(v.shared(o, batches[last]))
	o.Unlock()
	return done, v.fail(err)
}

// shared returns the chunks of b, or puts b and returns none.
func (v *viewer) shared(o *output, b *media.Batch) [][]byte {
	if f := formOf(b); b.Header() == v.header && v.follow(o, f) {
		return f.chunks
	}
	v.put(o, []*media.Batch{b})
	return nil
}

// putHeader puts what the client does not have of the header of b.
func (v *viewer) putHeader(o *output, b *media.Batch) {
	h := b.Header()
	v.header = h
	if len(h.Meta) > 0 && !bytes.Equal(h.Meta, v.sent.meta) {
		v.sent.meta = h.Meta
		o.put(csidStatus, rtmpmsg.TypeIDDataMessageAMF0, v.id, v.time(b.DTS().Milliseconds()), h.Meta)
	}
	if len(h.Video.Config) > 0 && !v.off[index(media.Video)] && !bytes.Equal(h.Video.Config, v.sent.video) {
		v.sent.video = h.Video.Config
		o.put(csidStatus, rtmpmsg.TypeIDVideoMessage, v.id, v.firstTime(b, media.Video), h.Video.Config)
	}
	if len(h.Audio.Config) > 0 && !v.off[index(media.Audio)] && !bytes.Equal(h.Audio.Config, v.sent.audio) {
		v.sent.audio = h.Audio.Config
		o.put(csidStatus, rtmpmsg.TypeIDAudioMessage, v.id, v.firstTime(b, media.Audio), h.Audio.Config)
	}
}

// firstTime is the client's time of the first frame of a track in b, or of the
// first frame at all.
func (v *viewer) firstTime(b *media.Batch, t media.Track) uint32 {
	for _, f := range b.Frames() {
		if f.Track == t {
			return v.time(f.DTS.Milliseconds())
		}
	}
	return v.time(b.DTS().Milliseconds())
}

// time is the client's time, modulo 2^32. What lies before its time 0 is at 0.
func (v *viewer) time(ms int64) uint32 { return uint32(max(ms-v.zero, 0)) }

// putBatch puts the frames.
func (v *viewer) putBatch(o *output, f *form) {
	if v.follow(o, f) {
		o.Queue = append(o.Queue, f.chunks...)
		return
	}
	for i := range f.messages {
		v.putMessage(o, &f.messages[i])
	}
}

// follow moves the clocks to the end of f, if the client stands where f begins on
// every track: it is sent the shared chunks as they are.
func (v *viewer) follow(o *output, f *form) bool {
	if !f.whole || !v.stands(o, f) {
		return false
	}
	for t, has := range f.has {
		if has {
			o.clocks[t].time = f.end[t]
		}
	}
	return true
}

func (v *viewer) stands(o *output, f *form) bool {
	for t, has := range f.has {
		if has && (v.off[t] || o.clocks[t] != trackClock{v, f.start[t]}) {
			return false
		}
	}
	return !v.needKey
}

func (v *viewer) putMessage(o *output, m *shared) {
	t := index(m.Track)
	if v.off[t] {
		return
	}
	if v.needKey && m.Track == media.Video {
		if !m.Key {
			return
		}
		v.needKey = false
	}
	clock := &o.clocks[t]
	if m.from != noTime && *clock == (trackClock{v, m.from}) {
		o.Queue = divide(o.Queue, m.bytes, media.Headroom+chunkSize, type3[csidOf[t]])
	} else {
		o.put(csidOf[t], rtmpmsg.TypeID(m.Track), v.id, v.time(m.time), m.Body)
	}
	*clock = trackClock{v, m.time}
	if m.time < v.zero { // the client does not stand there, but at 0
		clock.viewer = nil
	}
}

// Leave implements stream.Leaver.
func (v *viewer) Leave(why error) {
	v.s.end(&ending{cause: causeKicked, err: why, polite: true})
}

// fail ends the session when a write has failed.
func (v *viewer) fail(err error) error {
	if err != nil {
		v.s.end(err)
	}
	return err
}
