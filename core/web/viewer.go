// A viewer whose media come as they are sent: HTTP-FLV and live MP4.

package web

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	"github.com/mediad/mediad/core/stream"
)

// An encoder makes the bytes of a form.
type encoder interface {
	// encode appends the pieces of batches to queue. Without batches it appends what it
	// has held back, at the end.
	encode(queue [][]byte, batches []*media.Batch) ([][]byte, error)
}

// ahead is how much of recorded media a client of HTTP gets in advance. It has no
// way to tell its buffer, and holds back what it has no room for by not reading.
const ahead = 30 * time.Second

// maxQueue is how many pieces a viewer at rest keeps room for.
const maxQueue = 64

// A viewer is a stream.Viewer that writes the response to one request. The response
// begins with the first frames: before them, it can still be an error.
type viewer struct {
	encoder
	ctx     context.Context
	cancel  context.CancelFunc
	open    func() (wire, error)
	begun   chan struct{} // closed when the response has begun, and wire is set
	refused chan error    // holds one: why it will not begin

	// The player's goroutine's, but for wire once begun is closed.
	wire  wire
	err   error // final
	queue [][]byte
	late  []*media.Batch // of a Try that found the socket taken
}

// watch plays to the client until one of them ends it. An error means that nothing
// has been written yet. A connection that was taken over is waited for by a goroutine of its own:
// what the HTTP server keeps for a request takes more memory than all else of a viewer.
func (a *app) watch(w http.ResponseWriter, r *http.Request, req stream.Request, form Form, e encoder) error {
	s := a.server
	select {
	case s.viewers <- struct{}{}:
	default:
		return &httpError{http.StatusServiceUnavailable, "there are too many viewers"}
	}
	count := s.metrics.viewers.WithLabelValues(string(form))
	count.Inc()

	v := &viewer{encoder: e, begun: make(chan struct{}), refused: make(chan error, 1)}
	v.ctx, v.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	unfollow := context.AfterFunc(r.Context(), v.cancel)
	v.open = func() (wire, error) {
		bytes := s.metrics.bytes.WithLabelValues(string(form))
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case isWebSocket(r):
			return upgrade(w, r, s.origin, s.limits.Write, bytes)
		case r.ProtoMajor == 1:
			return takeOver(w, r, s.limits.Write, bytes)
		}
		return newResponse(w, r, s.limits.Write, bytes), nil
	}
	player := a.NewPlayer(v.of(r))
	player.Buffer(ahead)
	player.Play(req)
	end := func() {
		v.cancel()
		player.Close()
		count.Dec()
		<-s.viewers
	}
	err := v.begin(s.limits.Wait)
	if err == nil && socketOf(v.wire) != nil {
		unfollow() // the request ends now
		a.work.Go(func() {
			defer context.AfterFunc(a.ctx, v.cancel)()
			v.wait()
			end()
			v.wire.shut()
		})
		return nil
	}
	if err == nil {
		v.wait()
	}
	end()
	if v.wire == nil {
		return err
	}
	if p, ok := v.wire.(*response); ok && !p.whole.Load() {
		panic(http.ErrAbortHandler) // or net/http would end it as if it were whole
	}
	v.wire.shut()
	return nil
}

// wait waits until the client has left, or v is to end.
func (v *viewer) wait() {
	defer context.AfterFunc(v.ctx, v.wire.shut)()
	v.wire.wait()
}

// of is v as its player is to see it, for the client of r.
func (v *viewer) of(r *http.Request) stream.Viewer {
	if flv, ok := v.encoder.(*flvEncoder); ok && nowait.Possible && r.ProtoMajor == 1 && r.TLS == nil {
		return promptViewer{v, flv}
	}
	return v
}

// begin waits until the response has begun, or will not.
func (v *viewer) begin(wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-v.begun:
		return nil
	case err := <-v.refused:
		return err
	case <-v.ctx.Done():
		return v.ctx.Err()
	case <-timer.C:
		return fmt.Errorf("%w: no frame has come within %v", media.ErrUnavailable, wait)
	}
}

// The methods of stream.Viewer.

func (v *viewer) Context() context.Context { return v.ctx }

// Status tells the end of what is played. HTTP has no words for the rest.
func (v *viewer) Status(st stream.Status) error {
	switch {
	case v.err != nil:
	case st.Level == "error" && v.wire == nil:
		err := st.Err
		if err == nil {
			err = media.ErrUnavailable
		}
		v.fail(fmt.Errorf("%s: %w", st.Description, err))
	case st.Level == "error": // it broke off: without the last chunk, the client sees that
		v.fail(fmt.Errorf("%w: %s", media.ErrUnavailable, st.Description))
	case st.Code == "NetStream.Play.Stop" || st.Code == "NetStream.Play.UnpublishNotify":
		if v.Write(nil) == nil && v.wire != nil {
			_ = v.wire.end()
		}
		if v.err != nil {
			return v.err
		}
		v.fail(fmt.Errorf("%w: %s", media.ErrClosed, st.Description))
	}
	return v.err
}

// fail ends the viewer.
func (v *viewer) fail(err error) {
	v.err = err
	if v.wire == nil {
		v.refused <- err
		return
	}
	v.cancel()
}

// Write writes batches. The first call begins the response.
func (v *viewer) Write(batches []*media.Batch) error {
	if v.err != nil {
		return v.err
	}
	if len(v.late) > 0 {
		batches = append(v.late, batches...)
		v.late = nil
	}
	var err error
	if v.queue, err = v.encode(v.queue[:0], batches); err != nil {
		v.fail(err)
		return err
	}
	if len(v.queue) > 0 || v.wire != nil { // something may be left of a Try
		err = v.put()
	}
	clear(v.queue) // a viewer at rest keeps no batch
	if cap(v.queue) > maxQueue {
		v.queue = nil
	}
	if err != nil {
		v.fail(err)
	}
	return err
}

func (v *viewer) put() error {
	if v.wire == nil {
		wire, err := v.open()
		if err != nil {
			return err
		}
		v.wire, v.open = wire, nil // which has the request
		close(v.begun)
	}
	return v.wire.write(v.queue)
}

// A promptViewer is a viewer whose connection can be written to without waiting.
type promptViewer struct {
	*viewer
	flv *flvEncoder
}

// Try implements stream.Prompt.
func (v promptViewer) Try(batches []*media.Batch) (done bool, err error) {
	if v.err != nil {
		return false, v.err
	}
	s := socketOf(v.wire)
	if s == nil || !s.TryLock() { // a WebSocket answers a ping, and may be waiting for the client
		v.late = append(v.late, batches...)
		return false, nil
	}
	done, err = v.flv.try(s, batches)
	s.Unlock()
	if err != nil {
		v.fail(err)
	}
	return done, err
}

// socketOf returns the socket of a wire that has one.
func socketOf(w wire) *socket {
	switch w := w.(type) {
	case *socket:
		return w
	case *webSocket:
		return w.socket
	}
	return nil
}

// Timeline is nothing here: what is sent keeps the timeline of the media, and a
// client has the codec configuration whatever was skipped.
func (v *viewer) Timeline(time.Duration) {}

// What only RTMP has.

func (v *viewer) Event(stream.Event) error            { return v.err }
func (v *viewer) Access() error                       { return v.err }
func (v *viewer) Complete(time.Duration, int64) error { return v.err }
func (v *viewer) Receive(media.Track, bool)           {}
