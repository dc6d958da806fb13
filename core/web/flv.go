// HTTP-FLV. The tags of a batch are made once and written to all viewers.
//
// FLV has absolute timestamps, so the bytes can only be the same for all if all have
// the same time 0. That is the channel's own, and not where a viewer joined:
// players take the first timestamp that they get as their start. For the same reason a
// skip or a seek needs nothing but the frames.

package web

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/yutopp/go-flv"
)

// serveFLV plays to a client.
func (a *app) serveFLV(w http.ResponseWriter, r *http.Request, name string) error {
	req := a.request(r, name)
	if text := req.Params.Get("start"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || !(seconds >= 0 && seconds < 1e9) {
			return &httpError{http.StatusBadRequest, "start is a number of seconds, as in ?start=30"}
		}
		req.Start = time.Duration(seconds * float64(time.Second))
	}
	w.Header().Set("Content-Type", "video/x-flv")
	if r.Method == http.MethodHead {
		pass, err := a.admit(r.Context(), req, FLV)
		if err != nil {
			return err
		}
		pass.Done(0)
		return a.exists(w, r, name)
	}
	return a.watch(w, r, req, FLV, &flvEncoder{})
}

const (
	tagHead = 11 // FLV 10.1, E.4.1
	tagTail = 4  // PreviousTagSize
	maxBody = 1<<24 - 1
)

// A tagged batch is the tags of its frames: of each a head, which has the tail of the one
// before it in front, and the body, which is the batch's own. They are there once for each framing.
type tagged [framings][][]byte

func tagsOf(b *media.Batch) *tagged { return b.Form(media.FormFLV, makeTags).(*tagged) }

func makeTags(b *media.Batch) any {
	frames := b.Frames()
	scratch := make([]byte, 0, len(frames)*(tagHead+tagTail))
	pieces := make([][]byte, 1, 2*len(frames)+3)
	from, size := 0, 0
	for _, f := range frames {
		if len(f.Body) > maxBody { // no tag can hold it
			continue
		}
		scratch = appendTagHead(scratch, f.Track, f.DTS, len(f.Body))
		pieces = append(pieces, scratch[from:len(scratch):len(scratch)], f.Body)
		from = len(scratch)
		scratch = binary.BigEndian.AppendUint32(scratch, uint32(tagHead+len(f.Body)))
		size += tagHead + len(f.Body) + tagTail
	}
	if size == 0 {
		return new(tagged)
	}
	pieces = append(pieces, scratch[from:len(scratch):len(scratch)], lineEnd)
	all := pieces[1 : len(pieces)-1]
	pieces[0] = chunks.appendHead(nil, size)
	return &tagged{
		plain:    all,
		chunks:   pieces,
		messages: append([][]byte{messages.appendHead(nil, size)}, all...),
	}
}

// appendTagHead appends the head of a tag. Times are modulo 2^32 ms.
func appendTagHead(dst []byte, track media.Track, at time.Duration, n int) []byte {
	ms := uint32(at.Milliseconds())
	return append(dst, byte(track), byte(n>>16), byte(n>>8), byte(n), byte(ms>>16), byte(ms>>8), byte(ms), byte(ms>>24), 0, 0, 0)
}

// A flvEncoder is what one client has been sent besides frames.
type flvEncoder struct{ header *media.Header }

// encode implements encoder.
func (e *flvEncoder) encode(queue [][]byte, batches []*media.Batch) ([][]byte, error) {
	for _, b := range batches {
		if head := e.follow(b); head != nil {
			queue = append(queue, head)
		}
		queue = append(queue, tagsOf(b)[plain]...)
	}
	return queue, nil
}

// follow returns what the client is to have before b.
func (e *flvEncoder) follow(b *media.Batch) (head []byte) {
	if h := b.Header(); h != e.header {
		head = e.appendHeader(nil, h, b.DTS())
		e.header = h
	}
	return head
}

// try writes batches to s without waiting for it. The tags of the last batch, which mostly is
// the only one, are not put into the queue: they are the same for all viewers.
func (e *flvEncoder) try(s *socket, batches []*media.Batch) (done bool, err error) {
	var shared [][]byte
	for _, b := range batches {
		s.Queue = append(s.Queue, shared...)
		if head := e.follow(b); head != nil {
			s.put([][]byte{head})
		}
		shared = tagsOf(b)[s.framing]
	}
	return s.Try(shared)
}

// appendHeader appends what of h the client does not have, and at the start the
// header of the file.
func (e *flvEncoder) appendHeader(dst []byte, h *media.Header, at time.Duration) []byte {
	last := e.header
	if last == nil {
		last = new(media.Header)
		dst = appendFileHeader(dst, h)
	}
	for _, tag := range []struct {
		track      media.Track
		at         time.Duration
		body, last []byte
	}{
		{media.Data, 0, h.Meta, last.Meta}, // at another time, ffmpeg takes it for subtitles
		{media.Video, at, h.Video.Config, last.Video.Config},
		{media.Audio, at, h.Audio.Config, last.Audio.Config},
	} {
		if len(tag.body) == 0 || len(tag.body) > maxBody || bytes.Equal(tag.body, tag.last) {
			continue
		}
		dst = append(appendTagHead(dst, tag.track, tag.at, len(tag.body)), tag.body...)
		dst = binary.BigEndian.AppendUint32(dst, uint32(tagHead+len(tag.body)))
	}
	return dst
}

func appendFileHeader(dst []byte, h *media.Header) []byte {
	var tracks byte
	if h.Audio.Codec != "" {
		tracks |= 4
	}
	if h.Video.Codec != "" {
		tracks |= 1
	}
	dst = append(append(dst, flv.HeaderSignature...), 1, tracks)
	dst = binary.BigEndian.AppendUint32(dst, flv.HeaderLength)
	return append(dst, 0, 0, 0, 0) // PreviousTagSize0
}

// exists answers a HEAD request for what is played as it comes.
func (a *app) exists(w http.ResponseWriter, r *http.Request, name string) error {
	if a.Reader != nil {
		source, err := a.look(r, name, false)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		_ = source.Close()
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return nil
}
