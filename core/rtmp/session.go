// One client's connection: the session machine, and what it does with each message.

package rtmp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	"github.com/mediad/mediad/core/stream"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// maxStreams is how many message streams a connection may have.
const maxStreams = 4

// state is where a session is. The states of its message streams are in streams.go.
type state uint8

const (
	handshaking state = iota
	connecting        // waits for the connect command
	connected
)

// A session is one connection. Its methods are called by the goroutine that
// reads, unless they say otherwise.
type session struct {
	*link
	server *Server
	log    hclog.Logger

	// ctx ends with the session, its cause is why; end ends it. Both may be used
	// by any goroutine.
	ctx context.Context
	end context.CancelCauseFunc
	// serving ends when the server is asked to stop or to drain: what runs may go
	// on, nothing new begins.
	serving context.Context
	late    bool          // it came after that, to be refused
	gone    chan struct{} // closed by the server after the end of run

	state   state
	address address
	tcURL   string // as the client gave it
	// follows says that the client connects elsewhere when it is asked to. It may be
	// read by any goroutine.
	follows atomic.Bool
	streams map[uint32]*messageStream
	active  atomic.Bool // some stream publishes or plays
}

func newSession(s *Server, serving, ctx context.Context, conn net.Conn) *session {
	ses := &session{
		server:  s,
		log:     s.log.With("remote", conn.RemoteAddr().String()),
		serving: serving,
		late:    serving.Err() != nil,
		gone:    make(chan struct{}),
		streams: make(map[uint32]*messageStream),
	}
	ses.ctx, ses.end = context.WithCancelCause(ctx)
	ses.link = newLink(ses.ctx, conn, s.metrics, s.limits.Write, func(cause string) { ses.drop(cause) })
	return ses
}

// run serves the client until the connection ends, and releases everything.
func (s *session) run() {
	defer s.conn.Close()
	// Whoever calls end wakes the goroutine that reads.
	woken := make(chan struct{})
	stopWaking := context.AfterFunc(s.ctx, func() {
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
		close(woken)
	})
	stopIdle := context.AfterFunc(s.serving, s.endIfIdle)
	defer stopIdle()

	why := s.serve()
	if !stopWaking() {
		<-woken
	}
	s.end(why)
	s.out.Shut()
	if !why.polite {
		_ = s.conn.Close()
	}
	for _, st := range s.streams {
		s.release(st)
	}
	if why.polite {
		linger(s.conn)
	}
	s.server.ended(s, why)
}

// serve does the handshake and handles messages until something ends the
// session, and returns what.
func (s *session) serve() *ending {
	err := s.messages()
	if cause := context.Cause(s.ctx); cause != nil {
		err = cause // what has made the read fail
	}
	return s.explain(err)
}

func (s *session) messages() error {
	deadline := time.Now().Add(s.server.limits.Handshake)
	_ = s.conn.SetWriteDeadline(deadline)
	s.wire.until(deadline)
	if err := s.accept(); err != nil {
		return err
	}
	s.state = connecting
	s.pace()
	for {
		// A viewer's goroutine spends its life in this line, and the runtime gives it a
		// stack by its depth: further down it would be twice as large.
		if _, err := s.in.r.Peek(1); err != nil {
			return err
		}
		m, err := s.next()
		if err != nil {
			return err
		}
		s.server.metrics.messages.Inc()
		if err := s.message(m); err != nil {
			return err
		}
	}
}

// explain turns an error of the connection into an ending.
func (s *session) explain(err error) *ending {
	var e *ending
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, nowait.ErrSlow):
		return &ending{cause: causeSlow, err: err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		switch {
		case s.state == handshaking:
			return end(causeHandshake, "the handshake was not done within %v", s.server.limits.Handshake)
		case s.wire.idle > 0:
			return end(causeSilent, "the publisher has sent nothing for %v", s.server.limits.Silence)
		}
		return end(causeIdle, "the client has not published or played anything for %v", s.server.limits.Idle)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &ending{cause: causeClient, err: err}
	}
	return &ending{cause: causeNetwork, err: err}
}

// linger closes conn so that what was written last arrives: a connection that
// is closed while there is something to read is reset, and the client may then
// not see what it was told.
func linger(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		if c.CloseWrite() == nil {
			_, _ = io.CopyN(io.Discard, conn, 64<<20)
		}
	}
}

// pace sets how long the client may be silent: a publisher always has something
// to send, a player nothing (TCP's keepalive finds the dead ones), and a client
// that does neither is not kept for long. What a publisher may send is larger.
func (s *session) pace() {
	var states streamState
	for _, st := range s.streams {
		states |= st.state
	}
	limits := s.server.limits
	s.active.Store(states&(publishing|playing) != 0)
	s.endIfIdle()
	s.in.media, s.in.data, s.in.maxHeld = maxCommand, maxCommand, maxHeld
	switch {
	case states&publishing != 0:
		s.in.expectMedia()
		s.wire.idle = limits.Silence
		s.in.media, s.in.data, s.in.maxHeld = limits.Message, maxData, limits.Message+limits.Message/2
	case states&playing != 0:
		s.wire.until(time.Time{})
	default:
		s.wire.until(time.Now().Add(limits.Idle))
	}
}

// endIfIdle ends a session that has nothing to finish, once the server is asked
// to stop. One that comes after that is told so when it asks for something. It may be
// called by any goroutine.
func (s *session) endIfIdle() {
	if !s.late && !s.active.Load() && s.serving.Err() != nil {
		s.end(errShutdown)
	}
}

var errShutdown = end(causeShutdown, "the server is shutting down")

// message handles a message by its type.
func (s *session) message(m message) error {
	p := m.payload()
	switch m.kind {
	case rtmpmsg.TypeIDAudioMessage, rtmpmsg.TypeIDVideoMessage:
		return s.media(media.Track(m.kind), m.stream, m.time, m.slab)
	case rtmpmsg.TypeIDAggregateMessage:
		return s.aggregate(m)
	case rtmpmsg.TypeIDDataMessageAMF3: // a zero byte, then AMF0
		m.slab = m.slab[1:]
		return s.data(m)
	case rtmpmsg.TypeIDDataMessageAMF0:
		return s.data(m)
	case rtmpmsg.TypeIDCommandMessageAMF3:
		return s.command(m.stream, p[1:])
	case rtmpmsg.TypeIDCommandMessageAMF0:
		return s.command(m.stream, p)
	case rtmpmsg.TypeIDUserCtrl:
		s.event(p)
		return nil
	}
	s.drop("unknown_type")
	return nil
}

// drop counts something that is not used of what the client sends, and logs it.
func (s *session) drop(cause string, args ...any) {
	s.server.metrics.dropped.WithLabelValues(cause).Inc()
	s.server.note(hclog.Info, cause, "not used of what a client sends", append(args, "cause", cause, "app", s.address.app, "remote", s.conn.RemoteAddr())...)
}

// media hands a media message to the publication on its stream.
func (s *session) media(t media.Track, id, time uint32, slab []byte) error {
	st := s.streams[id]
	if st == nil || st.state != publishing {
		s.drop("not_published")
		return nil
	}
	if err := st.publication.Write(s.ctx, t, time, slab); err != nil {
		return s.over(st, err)
	}
	return nil
}

// Data messages that are about the metadata: the first sets what follows it.
var (
	setDataFrame   = amf.Append(nil, "@setDataFrame")
	clearDataFrame = amf.Append(nil, "@clearDataFrame")
)

func (s *session) data(m message) error {
	p := m.payload()
	if bytes.HasPrefix(p, clearDataFrame) {
		s.drop("clear_data_frame")
		return nil
	}
	if bytes.HasPrefix(p, setDataFrame) {
		m.slab = m.slab[len(setDataFrame):]
	}
	if len(m.payload()) == 0 {
		s.drop("empty")
		return nil
	}
	return s.media(media.Data, m.stream, m.time, m.slab)
}

// aggregate takes apart a message of messages: FLV tags whose times count from
// that of the first (RTMP 1.0, 7.1.6).
func (s *session) aggregate(m message) error {
	const tagHeader, backPointer = 11, 4
	p := m.payload()
	var offset uint32
	for first := true; len(p) >= tagHeader; first = false {
		kind, length := rtmpmsg.TypeID(p[0]), int(uint24(p[1:]))
		at := uint24(p[4:]) | uint32(p[7])<<24
		if len(p) < tagHeader+length {
			break
		}
		if first {
			offset = m.time - at
		}
		sub := message{kind: kind, stream: m.stream, time: at + offset, slab: make([]byte, media.Headroom+length)}
		copy(sub.payload(), p[tagHeader:])
		p = p[min(tagHeader+length+backPointer, len(p)):]
		if length == 0 || kind == rtmpmsg.TypeIDAggregateMessage {
			s.drop("empty")
			continue
		}
		if err := s.message(sub); err != nil {
			return err
		}
	}
	if len(p) > 0 {
		s.drop("cut_aggregate")
	}
	return nil
}

// event handles a user control event. The only one that clients send, beside
// pings, is SetBufferLength.
func (s *session) event(p []byte) {
	if len(p) < 10 || binary.BigEndian.Uint16(p) != eventBuffer {
		s.drop("unknown_event")
		return
	}
	if st := s.streams[binary.BigEndian.Uint32(p[2:])]; st != nil {
		st.setBuffer(time.Duration(binary.BigEndian.Uint32(p[6:])) * time.Millisecond)
	}
}

// holdBack waits as long as an answer that refuses something is to take.
func (s *session) holdBack() {
	wait(s.ctx, s.server.backoff.refused(addrOf(s.conn), time.Now()))
}

// status sends an onStatus on a message stream.
func (s *session) status(id uint32, st stream.Status) error {
	return s.out.send(csidStatus, rtmpmsg.TypeIDCommandMessageAMF0, id, onStatus(st))
}

// reply sends a command about the connection.
func (s *session) reply(values ...any) error {
	return s.out.send(csidCommand, rtmpmsg.TypeIDCommandMessageAMF0, 0, amf.Append(nil, values...))
}
