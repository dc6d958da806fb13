// Live media as MP4 without an end: a moov, and fragments as the frames come. A bare
// <video src> plays it.

package web

import (
	"fmt"
	"net/http"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
)

// fragmentSpan is how much goes into a fragment: the head of one for each frame would
// be a tenth of a stream of 1 Mbit/s.
const fragmentSpan = 200 * time.Millisecond

// serveMP4 plays live media, and serves recorded ones as a file.
// Files are written to a writer of their own, which counts them for the visit.
func (a *app) serveMP4(w http.ResponseWriter, files *counted, r *http.Request, name string) error {
	w.Header().Set("Content-Type", "video/mp4")
	if a.Reader != nil {
		source, err := a.look(r, name, true)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		if !source.Info().Live {
			return a.serveFile(files, r, name, source)
		}
		_ = source.Close()
	}
	if r.Method == http.MethodHead {
		return a.exists(w, r, name)
	}
	req := a.request(r, name)
	req.Start, req.Protocol = stream.StartLive, string(MP4)
	if pass := files.visit.handOver(); pass != nil {
		req.Pass = pass
	}
	return a.watch(w, r, req, MP4, &mp4Encoder{})
}

// An mp4Encoder makes the fragments for one client, whose time 0 is where it joined:
// the bytes cannot be shared anyway, since the frames of a fragment are those that
// came while the client was written to.
type mp4Encoder struct {
	formats  [2]media.Format // of the moov
	tracks   []*table
	zero     time.Duration
	runs     []run // of frames that have come and are not sent
	sequence uint32
}

// encode implements encoder. With the end of the media, when there are no batches, it
// sends what it has held back: the last frame of each track, whose duration is not
// known before the next.
func (e *mp4Encoder) encode(queue [][]byte, batches []*media.Batch) ([][]byte, error) {
	for _, b := range batches {
		h := b.Header()
		switch {
		case e.tracks == nil:
			if !b.Join() {
				continue
			}
			if err := e.begin(b); err != nil {
				return nil, err
			}
			queue = append(queue, movie(e.tracks, 0))
		case !sameFormat(h.Video, e.formats[0]) || !sameFormat(h.Audio, e.formats[1]):
			return nil, fmt.Errorf("%w: the codec configuration has changed, which MP4 without an end cannot tell", media.ErrChanged)
		}
		e.add(b)
	}
	if len(batches) > 0 && e.span() < fragmentSpan {
		return queue, nil
	}
	return e.send(queue, len(batches) == 0), nil
}

func (e *mp4Encoder) begin(b *media.Batch) error {
	h := b.Header()
	tracks, _, err := tracksOf(h)
	if err != nil {
		return err
	}
	for _, t := range tracks {
		e.tracks = append(e.tracks, &table{track: t})
	}
	e.formats = [2]media.Format{h.Video, h.Audio}
	e.zero = b.DTS()
	e.runs = make([]run, len(tracks))
	return nil
}

func sameFormat(a, b media.Format) bool {
	return a.Codec == b.Codec && string(a.Config) == string(b.Config)
}

func (e *mp4Encoder) add(b *media.Batch) {
	for _, f := range b.Frames() {
		for i, t := range e.tracks {
			if t.kind != f.Track {
				continue
			}
			if data, ok := t.sample(f); ok {
				e.runs[i].samples = append(e.runs[i].samples, sample{f.DTS, f.PTS, f.Key || f.Track == media.Audio, data})
			}
		}
	}
}

// span is how much is held back.
func (e *mp4Encoder) span() (longest time.Duration) {
	for _, r := range e.runs {
		if n := len(r.samples); n > 0 {
			longest = max(longest, r.samples[n-1].dts-r.samples[0].dts)
		}
	}
	return longest
}

// send appends a fragment of all but the last sample of each track, or of all.
func (e *mp4Encoder) send(queue [][]byte, all bool) [][]byte {
	runs, any := make([]run, len(e.runs)), false
	for i, r := range e.runs {
		n := len(r.samples)
		if n == 0 {
			continue
		}
		last := r.samples[n-1]
		if !all {
			n--
			runs[i].end = last.dts
		} else if runs[i].end = last.dts; n > 1 {
			runs[i].end += last.dts - r.samples[n-2].dts
		}
		runs[i].samples = r.samples[:n]
		e.runs[i].samples = append([]sample(nil), r.samples[n:]...)
		any = any || n > 0
	}
	if !any {
		return queue
	}
	e.sequence++
	return fragment(queue, e.sequence, e.zero, runs)
}
