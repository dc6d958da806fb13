// The message streams of a connection: what is published and played on them.

package rtmp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mediad/mediad/core/ingest"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// streamState is where a message stream is; a set of them in the table of commands.
type streamState uint8

const (
	idle streamState = 1 << iota
	publishing
	playing
)

// A messageStream is one stream of a connection.
type messageStream struct {
	id     uint32
	state  streamState
	buffer time.Duration // the last SetBufferLength, 0 when there was none

	// While it publishes.
	given       string // the name as the client gave it, which may hold a secret
	path        string // app and name, for the log
	publication ingest.Publication
	overOnce    sync.Once     // the client is told once that the publication is over
	closed      chan struct{} // ends watch
	watching    sync.WaitGroup

	player stream.Player // while it plays
}

// closeTimeout is how long the end of a publication may take.
const closeTimeout = 10 * time.Second

// release ends what the stream does. The stream is idle then.
func (s *session) release(st *messageStream) {
	switch st.state {
	case publishing:
		close(st.closed)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), closeTimeout)
		if err := st.publication.Close(ctx); err != nil {
			s.log.Warn("the end of a publication has failed", "name", st.path, "error", err)
		}
		cancel()
		st.watching.Wait()
	case playing:
		st.player.Close()
	}
	st.state, st.publication, st.player = idle, nil, nil
}

// closeStream ends what the stream does, at the client's wish.
func (s *session) closeStream(c call) error {
	published := c.stream.state == publishing
	s.release(c.stream)
	s.pace()
	if !published {
		return nil
	}
	return s.status(c.stream.id, stream.Status{
		Level: "status", Code: "NetStream.Unpublish.Success", Description: "the publication has ended",
	})
}

func (s *session) publish(c call) error {
	st := c.stream
	given, _ := c.arg(0).(string)
	kind, _ := c.arg(1).(string)
	name, params, err := s.address.name(given)
	if err != nil {
		return s.refusePublish(st, name, err)
	}
	publisher := s.server.app(s.address.app).publisher
	switch {
	case s.serving.Err() != nil:
		return s.refusePublish(st, name, errShutdown)
	case publisher == nil:
		return s.refusePublish(st, name, fmt.Errorf("nothing can be published to the app %q", s.address.app))
	}
	p, err := publisher.Publish(s.ctx, ingest.Request{
		App:    s.address.app,
		Name:   name,
		Params: params,
		Remote: addrOf(s.conn),
		Append: kind == "append",
	})
	if err != nil {
		return s.refusePublish(st, name, err)
	}
	st.state, st.publication = publishing, p
	st.given, st.path = given, s.address.app+"/"+name
	st.overOnce, st.closed = sync.Once{}, make(chan struct{})
	s.pace()
	st.watching.Go(func() { s.watch(st, p, st.closed) })
	if err := s.out.send(csidControl, rtmpmsg.TypeIDUserCtrl, 0, event(uint16(stream.Begin), st.id)); err != nil {
		return err
	}
	return s.status(st.id, stream.Status{
		Level: "status", Code: "NetStream.Publish.Start", Description: "publishing " + name,
	})
}

// refusePublish tells the client why it may not publish, and ends the session:
// encoders do not try another name on the same connection.
func (s *session) refusePublish(st *messageStream, name string, err error) error {
	code := "NetStream.Publish.Denied"
	if errors.Is(err, media.ErrBusy) || media.CheckName(name) != nil {
		code = "NetStream.Publish.BadName"
	}
	s.holdBack()
	if err := s.status(st.id, stream.Status{Level: "error", Code: code, Description: err.Error()}); err != nil {
		return err
	}
	return &ending{cause: causeRefused, err: fmt.Errorf("refused to publish %q: %w", s.address.app+"/"+name, err), polite: true}
}

// watch ends the session when the publication is over without the client's doing.
func (s *session) watch(st *messageStream, p ingest.Publication, closed <-chan struct{}) {
	select {
	case <-closed:
	case <-p.Done():
		s.end(s.over(st, p.Err()))
	}
}

// over tells the client that its publication is over, and returns the ending of
// the session. It may be called by any goroutine.
func (s *session) over(st *messageStream, err error) error {
	if err == nil {
		err = media.ErrClosed
	}
	why := &ending{cause: causeOver, err: fmt.Errorf("the publication of %q is over: %w", st.path, err), polite: true}
	st.overOnce.Do(func() {
		code := "NetStream.Unpublish.Success"
		if errors.Is(err, media.ErrTakenOver) || errors.Is(err, media.ErrBusy) {
			code = "NetStream.Publish.BadName"
		}
		if err := s.status(st.id, stream.Status{Level: "error", Code: code, Description: err.Error()}); err != nil {
			why.polite = false
		}
	})
	return why
}

func (s *session) play(c call) error {
	switch name := c.arg(0).(type) {
	case string:
		return s.playName(c.stream, name, c.arg(1), c.arg(2), flag(c.arg(3)))
	case bool: // play(false) is the old form of closeStream
		return s.closeStream(c)
	}
	return s.refusePlay(c.stream, errors.New("play names no stream"))
}

// viewer makes the viewer of a message stream.
func (s *session) viewer(id uint32) stream.Viewer {
	v := s.newViewer(id)
	if !s.out.Prompt() {
		return v
	}
	return promptViewer{v}
}

// play2 has its arguments in an object. It switches to another stream.
func (s *session) play2(c call) error {
	o := object(c.arg(0))
	name, _ := o.Get("streamName").(string)
	return s.playName(c.stream, name, o.Get("start"), o.Get("len"), true)
}

func (s *session) playName(st *messageStream, name string, start, length any, reset bool) error {
	req, err := s.request(name, start, length, reset)
	if err != nil {
		return s.refusePlay(st, err)
	}
	if s.serving.Err() != nil {
		return s.refusePlay(st, errShutdown)
	}
	if st.state == idle {
		newPlayer := s.server.app(s.address.app).newPlayer
		if newPlayer == nil {
			return s.refusePlay(st, fmt.Errorf("nothing can be played from the app %q", s.address.app))
		}
		st.player = newPlayer(s.viewer(st.id))
		st.state = playing
		s.pace()
		if st.buffer > 0 {
			st.player.Buffer(st.buffer)
		}
	}
	st.player.Play(req)
	return nil
}

// refusePlay tells the client why it cannot play. It may try again.
func (s *session) refusePlay(st *messageStream, err error) error {
	s.drop("play_refused", "error", err)
	return s.status(st.id, stream.Status{Level: "error", Code: "NetStream.Play.StreamNotFound", Description: err.Error()})
}

func (s *session) pause(c call) error {
	c.stream.player.Pause(flag(c.arg(0)), milliseconds(number(c.arg(1), 0)))
	return nil
}

func (s *session) seek(c call) error {
	c.stream.player.Seek(milliseconds(number(c.arg(0), 0)))
	return nil
}

func (s *session) receiveAudio(c call) error {
	c.stream.player.Receive(media.Audio, flag(c.arg(0)))
	return nil
}

func (s *session) receiveVideo(c call) error {
	c.stream.player.Receive(media.Video, flag(c.arg(0)))
	return nil
}

// setBuffer keeps the client's buffer length for the player to come, and tells
// the one that is there.
func (st *messageStream) setBuffer(d time.Duration) {
	st.buffer = d
	if st.state == playing {
		st.player.Buffer(d)
	}
}
