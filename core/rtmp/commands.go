// The commands: which there are, when they may come, and those about the
// connection itself.

package rtmp

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/stream"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// A call is a command that a client has sent.
type call struct {
	name   string
	id     float64    // what an answer refers to; 0 when none is wanted
	object amf.Object // the command object
	args   []any
	stream *messageStream // the one it came on, nil when it is about the connection
}

// commands is the table of the machine: what is done on which command, in which
// state of the session, and of the message stream that it comes on where it is
// about one. A command that comes at another time is counted and left at that,
// as is one that is not known: no client is lost for it.
var commands = map[string]struct {
	in state
	on streamState // 0: about the connection
	do func(*session, call) error
}{
	"connect":         {connecting, 0, (*session).connect},
	"createStream":    {connected, 0, (*session).createStream},
	"deleteStream":    {connected, 0, (*session).deleteStream},
	"releaseStream":   {connected, 0, (*session).acknowledgeCall},
	"FCPublish":       {connected, 0, (*session).acknowledgeCall},
	"FCUnpublish":     {connected, 0, (*session).fcUnpublish},
	"FCSubscribe":     {connected, 0, (*session).fcSubscribe},
	"getStreamLength": {connected, 0, (*session).getStreamLength},
	"_checkbw":        {connected, 0, (*session).acknowledgeCall},

	"publish":      {connected, idle, (*session).publish},
	"play":         {connected, idle | playing, (*session).play},
	"play2":        {connected, idle | playing, (*session).play2},
	"pause":        {connected, playing, (*session).pause},
	"pauseRaw":     {connected, playing, (*session).pause},
	"seek":         {connected, playing, (*session).seek},
	"receiveAudio": {connected, playing, (*session).receiveAudio},
	"receiveVideo": {connected, playing, (*session).receiveVideo},
	"closeStream":  {connected, idle | publishing | playing, (*session).closeStream},
}

// command decodes a command and does what the table says.
func (s *session) command(id uint32, p []byte) error {
	values, err := amf.Decode(p)
	if err != nil {
		return end(causeProtocol, "a command cannot be read: %w", err)
	}
	var c call
	if len(values) > 0 {
		c.name, _ = values[0].(string)
	}
	if len(values) > 1 {
		c.id = number(values[1], 0)
	}
	if len(values) > 2 {
		c.object, c.args = object(values[2]), values[3:]
	}
	row, ok := commands[c.name]
	switch {
	case !ok:
		s.drop("unknown_command", "command", fmt.Sprintf("%.64q", c.name))
		return nil
	case s.state != row.in:
		if s.state == connecting {
			return end(causeProtocol, "the command %s comes before connect", c.name)
		}
		s.drop("command_state", "command", c.name)
		return nil
	case row.on == 0:
		return row.do(s, c)
	}
	c.stream = s.streams[id]
	if c.stream == nil || c.stream.state&row.on == 0 {
		s.drop("command_state", "command", c.name, "stream", id)
		return nil
	}
	return row.do(s, c)
}

// arg returns argument i, nil when there is none.
func (c call) arg(i int) any {
	if i >= len(c.args) {
		return nil
	}
	return c.args[i]
}

// object returns v if it is an object, of either sort.
func object(v any) amf.Object {
	switch v := v.(type) {
	case amf.Object:
		return v
	case amf.ECMAArray:
		return amf.Object(v)
	}
	return nil
}

// number returns v if it is one that can be used, or else other.
func number(v any, other float64) float64 {
	f, ok := v.(float64)
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		return other
	}
	return f
}

// flag returns v if it is a boolean, or a number as some clients send, or else true.
func flag(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case float64:
		return v != 0
	}
	return true
}

// milliseconds returns a time that a client has given, within 10 years of 0.
func milliseconds(f float64) time.Duration {
	const limit = 10 * 365 * 24 * 3600e3
	return time.Duration(min(max(f, -limit), limit)) * time.Millisecond
}

// What an enhanced client is told of this server (Enhanced RTMP v2, Enhancing
// NetConnection connect Command): any codec is forwarded, and so are multitrack, ModEx and
// the nanosecond offsets in it.
const (
	canForward   = 4
	capabilities = 2 | 4 | 8
	// canReconnect is what a client says in capsEx that can be sent away.
	canReconnect = 1
)

var fourCCs = amf.Array{"vp08", "vp09", "av01", "avc1", "hvc1", "vvc1", "ac-3", "ec-3", "Opus", ".mp3", "fLaC", "mp4a"}

func (s *session) connect(c call) error {
	app, _ := c.object.Get("app").(string)
	tcURL, _ := c.object.Get("tcUrl").(string)
	if s.serving.Err() != nil {
		return s.refuseConnect(c, "NetConnection.Connect.Rejected", errShutdown)
	}
	address, ok := resolve(app, tcURL, s.server.serves)
	if !ok {
		return s.refuseConnect(c, "NetConnection.Connect.InvalidApp", fmt.Errorf("there is no app %.64q here", address.app))
	}
	s.address, s.tcURL = address, tcURL
	s.state = connected
	s.follows.Store(int(number(c.object.Get("capsEx"), 0))&canReconnect != 0)

	info := amf.Object{
		{Key: "level", Value: "status"},
		{Key: "code", Value: "NetConnection.Connect.Success"},
		{Key: "description", Value: "Connection succeeded."},
		{Key: "objectEncoding", Value: 0},
	}
	if isEnhanced(c.object) {
		forward := amf.Object{{Key: "*", Value: canForward}}
		info = append(info,
			amf.Field{Key: "fourCcList", Value: fourCCs},
			amf.Field{Key: "videoFourCcInfoMap", Value: forward},
			amf.Field{Key: "audioFourCcInfoMap", Value: forward},
			amf.Field{Key: "capsEx", Value: capabilities})
	}
	properties := amf.Object{
		{Key: "fmsVer", Value: "FMS/3,5,7,7009"}, // some clients want to see this server
		{Key: "capabilities", Value: 31},
	}
	s.out.Lock()
	defer s.out.Unlock()
	for _, m := range []rtmpmsg.Message{
		&rtmpmsg.WinAckSize{Size: window},
		&rtmpmsg.SetPeerBandwidth{Size: window, Limit: rtmpmsg.LimitTypeDynamic},
		&rtmpmsg.SetChunkSize{ChunkSize: chunkSize},
	} {
		s.out.put(csidControl, m.TypeID(), 0, 0, encode(m))
	}
	s.out.put(csidCommand, rtmpmsg.TypeIDCommandMessageAMF0, 0, 0, amf.Append(nil, "_result", c.id, properties, info))
	return s.out.Flush()
}

// refuseConnect tells a client that it cannot be served, and why.
func (s *session) refuseConnect(c call, code string, err error) error {
	s.holdBack()
	fail := s.reply("_error", c.id, nil, amf.Object{
		{Key: "level", Value: "error"},
		{Key: "code", Value: code},
		{Key: "description", Value: err.Error()},
	})
	if fail != nil {
		return fail
	}
	return &ending{cause: causeRefused, err: err, polite: true}
}

// isEnhanced reports whether a client speaks Enhanced RTMP.
func isEnhanced(connect amf.Object) bool {
	return slices.ContainsFunc(connect, func(f amf.Field) bool {
		switch f.Key {
		case "capsEx", "fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap":
			return true
		}
		return false
	})
}

// acknowledgeCall answers a call that has nothing to do here.
func (s *session) acknowledgeCall(c call) error {
	if c.id == 0 {
		return nil
	}
	return s.reply("_result", c.id, nil, amf.Undefined{})
}

// createStream gives the lowest id that is free.
func (s *session) createStream(c call) error {
	for id := uint32(1); id <= maxStreams; id++ {
		if s.streams[id] == nil {
			s.streams[id] = &messageStream{id: id, state: idle}
			return s.reply("_result", c.id, nil, float64(id))
		}
	}
	s.drop("too_many_streams")
	return s.reply("_error", c.id, nil, amf.Object{
		{Key: "level", Value: "error"},
		{Key: "code", Value: "NetConnection.Call.Failed"},
		{Key: "description", Value: fmt.Sprintf("the connection has %d streams, no more are allowed", maxStreams)},
	})
}

// deleteStream names the stream in its argument, and not in its header.
func (s *session) deleteStream(c call) error {
	id := number(c.arg(0), 0)
	for _, st := range s.streams {
		if float64(st.id) == id {
			s.release(st)
			delete(s.streams, st.id)
		}
	}
	s.pace()
	return nil
}

func (s *session) fcUnpublish(c call) error {
	name, _ := c.arg(0).(string)
	for _, st := range s.streams {
		if st.state == publishing && st.given == name {
			if err := s.closeStream(call{stream: st}); err != nil {
				return err
			}
		}
	}
	return s.acknowledgeCall(c)
}

func (s *session) fcSubscribe(c call) error {
	name, _ := c.arg(0).(string)
	return s.reply("onFCSubscribe", 0, nil, amf.Object{
		{Key: "level", Value: "status"},
		{Key: "code", Value: "NetStream.Play.Start"},
		{Key: "description", Value: "subscribed to " + name},
	})
}

// getStreamLength cannot be answered before the media is open: the metadata
// tells. 0 is what servers answer for live media.
func (s *session) getStreamLength(c call) error {
	return s.reply("_result", c.id, nil, 0)
}

// request makes a stream.Request of the arguments of play.
func (s *session) request(name string, start, length any, reset bool) (stream.Request, error) {
	name, params, err := s.address.name(name)
	return stream.Request{
		App:      s.address.app,
		Name:     name,
		Protocol: "rtmp",
		Params:   params,
		Remote:   addrOf(s.conn),
		Start:    startOf(number(start, -2)),
		Length:   lengthOf(number(length, -1)),
		Append:   !reset,

		Redirects: s.follows.Load(),
	}, err
}

// startOf reads the start of play: seconds in the specification, milliseconds in
// librtmp, and in ffmpeg, even where it stands for live or any.
func startOf(f float64) time.Duration {
	switch {
	case f >= 0:
		return milliseconds(f)
	case f == -1, f == -1000:
		return stream.StartLive
	}
	return stream.StartAny
}

func lengthOf(f float64) time.Duration {
	if f < 0 {
		return -1
	}
	return milliseconds(f)
}
