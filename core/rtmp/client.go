// A small client: to publish to and to play from a server, in tests and from
// other programs.

package rtmp

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
	"github.com/yutopp/go-rtmp/handshake"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// A Client is one connection to a server. One goroutine may call Next while
// another sends; Dial, Publish and the first Play read as Next does.
type Client struct {
	*link
	cancel context.CancelCauseFunc
	calls  float64 // id of the last call
	stream uint32  // the message stream that is published or played, 0 before
}

// A Message is what a client receives.
type Message struct {
	Kind   MessageKind
	Status stream.Status // of KindStatus
	// Elsewhere is the tcUrl in a request to reconnect, "" for the one that there is.
	Elsewhere string
	Event     stream.Event // of KindEvent

	// Of KindMedia: configuration and metadata come as the messages that they are.
	Track media.Track
	Time  uint32 // milliseconds, modulo 2^32
	Body  []byte
}

// MessageKind says which fields of a Message are set.
type MessageKind uint8

// The kinds of messages. Data messages with their own meaning in RTMP, such as onPlayStatus, are media
// of the track Data.
const (
	KindMedia MessageKind = iota
	KindStatus
	KindEvent
)

// A StatusError is a status of level error that a server has answered with.
type StatusError struct{ stream.Status }

func (e *StatusError) Error() string { return e.Code + ": " + e.Description }

// clientTimeout bounds each write, and how long Dial and Publish take.
const clientTimeout = 10 * time.Second

// Dial connects to the app of a URL such as rtmp://host:1935/live?key=value.
func Dial(ctx context.Context, rawURL string) (*Client, error) {
	return dialAs(ctx, rawURL, capabilities)
}

// DialMovable is Dial of a client that can be asked to connect elsewhere.
func DialMovable(ctx context.Context, rawURL string) (*Client, error) {
	return dialAs(ctx, rawURL, capabilities|canReconnect)
}

// dialAs is Dial of a client that has capabilities.
func dialAs(ctx context.Context, rawURL string, capabilities int) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "rtmp" || u.Host == "" {
		return nil, fmt.Errorf("%q is not rtmp://host/app", rawURL)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "1935")
	}
	ctx, cancelDial := context.WithTimeout(ctx, clientTimeout)
	defer cancelDial()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	c := &Client{}
	life, cancel := context.WithCancelCause(context.Background())
	c.cancel = cancel
	c.link = newLink(life, conn, newMetrics(nil), clientTimeout, func(string) {})
	// A client believes the server that it has chosen.
	c.in.media, c.in.data, c.in.maxHeld = maxPayload, maxPayload, 2*maxPayload
	app := strings.TrimPrefix(u.RequestURI(), "/")
	if err := c.connect(ctx, app, rawURL, capabilities); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", rawURL, err)
	}
	return c, nil
}

func (c *Client) connect(ctx context.Context, app, tcURL string, capabilities int) error {
	err := c.within(ctx, func() error {
		return handshake.HandshakeWithServer(c.in.r, c.conn, &handshake.Config{SkipHandshakeVerification: true})
	})
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if err := c.control(&rtmpmsg.SetChunkSize{ChunkSize: chunkSize}); err != nil {
		return err
	}
	_, err = c.call(ctx, "connect", amf.Object{
		{Key: "app", Value: app},
		{Key: "type", Value: "nonprivate"},
		{Key: "flashVer", Value: "FMLE/3.0 (compatible; mediad)"},
		{Key: "tcUrl", Value: tcURL},
		{Key: "fourCcList", Value: fourCCs},
		{Key: "capsEx", Value: capabilities},
	})
	return err
}

// Publish publishes under a name; kind is live, record or append. It waits for
// the server's leave, a *StatusError when that is refused.
func (c *Client) Publish(ctx context.Context, name, kind string) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	if err := c.createStream(ctx); err != nil {
		return err
	}
	if err := c.Command("publish", name, kind); err != nil {
		return err
	}
	for {
		m, err := c.Next(ctx)
		if err != nil {
			return err
		}
		if m.Kind != KindStatus {
			continue
		}
		if m.Status.Level == "error" {
			return &StatusError{m.Status}
		}
		if m.Status.Code == "NetStream.Publish.Start" {
			return nil
		}
	}
}

// WriteMessage sends a media message. Metadata is sent as it is, without
// "@setDataFrame".
func (c *Client) WriteMessage(t media.Track, timestamp uint32, body []byte) error {
	c.out.Lock()
	defer c.out.Unlock()
	c.out.put(csidOf[index(t)], rtmpmsg.TypeID(t), c.stream, timestamp, body)
	return c.out.Flush()
}

// Play asks for a stream, the first time on a new message stream and then on
// the same. The answers come from Next. start is a position, stream.StartAny or stream.StartLive;
// length is negative for all. reset false appends to what is played.
func (c *Client) Play(ctx context.Context, name string, start, length time.Duration, reset bool) error {
	if c.stream == 0 {
		if err := c.createStream(ctx); err != nil {
			return err
		}
	}
	return c.Command("play", name, argument(start), argument(length), reset)
}

// argument is how a time is sent: in milliseconds, but for the special values.
func argument(d time.Duration) float64 {
	if d < 0 {
		return float64(d)
	}
	return float64(d.Milliseconds())
}

// Pause pauses at a position, or goes on from there.
func (c *Client) Pause(on bool, at time.Duration) error {
	return c.Command("pause", on, argument(at))
}

// Seek asks to go on from another position.
func (c *Client) Seek(to time.Duration) error { return c.Command("seek", argument(to)) }

// SetBuffer tells the server how much media this client keeps.
func (c *Client) SetBuffer(d time.Duration) error {
	p := binary.BigEndian.AppendUint32(event(eventBuffer, c.stream), uint32(d.Milliseconds()))
	return c.out.send(csidControl, rtmpmsg.TypeIDUserCtrl, 0, p)
}

// Command sends a command on the client's message stream and wants no answer.
func (c *Client) Command(name string, args ...any) error {
	p := amf.Append(nil, name, 0, nil)
	return c.out.send(csidStatus, rtmpmsg.TypeIDCommandMessageAMF0, c.stream, amf.Append(p, args...))
}

// Next returns the next message, leaving out answers to calls. It waits until
// ctx ends, which ends the client too.
func (c *Client) Next(ctx context.Context) (Message, error) {
	for {
		m, err := c.receive(ctx)
		if err != nil {
			return Message{}, err
		}
		switch p := m.payload(); m.kind {
		case rtmpmsg.TypeIDAudioMessage, rtmpmsg.TypeIDVideoMessage, rtmpmsg.TypeIDDataMessageAMF0:
			return Message{Kind: KindMedia, Track: media.Track(m.kind), Time: m.time, Body: p}, nil
		case rtmpmsg.TypeIDUserCtrl:
			if len(p) < 2 {
				continue
			}
			return Message{Kind: KindEvent, Event: stream.Event(binary.BigEndian.Uint16(p))}, nil
		case rtmpmsg.TypeIDCommandMessageAMF0:
			if a, err := parseAnswer(p); err == nil && a.name == "onStatus" {
				return Message{Kind: KindStatus, Status: a.status, Elsewhere: a.elsewhere}, nil
			}
		}
	}
}

// Close closes the connection.
func (c *Client) Close() error {
	c.cancel(net.ErrClosed)
	c.out.Shut()
	return c.conn.Close()
}

func (c *Client) createStream(ctx context.Context) error {
	a, err := c.call(ctx, "createStream", nil)
	if err != nil {
		return err
	}
	c.stream = uint32(number(a.value, 0))
	return nil
}

// An answer is a command that came from the server.
type answer struct {
	name   string
	id     float64
	value  any           // the first argument
	status stream.Status // if that is one

	elsewhere string // its tcUrl
}

func parseAnswer(p []byte) (answer, error) {
	values, err := amf.Decode(p)
	if err != nil {
		return answer{}, fmt.Errorf("a command cannot be read: %w", err)
	}
	if len(values) < 3 {
		return answer{}, fmt.Errorf("a command has %d values, at least 3 are wanted", len(values))
	}
	var a answer
	a.name, _ = values[0].(string)
	a.id = number(values[1], 0)
	if len(values) > 3 {
		a.value = values[3]
		o := object(a.value)
		a.status.Level, _ = o.Get("level").(string)
		a.status.Code, _ = o.Get("code").(string)
		a.status.Description, _ = o.Get("description").(string)
		a.elsewhere, _ = o.Get("tcUrl").(string)
	}
	return a, nil
}

// call sends a command on the connection and waits for the answer to it. What
// else comes until then is dropped.
func (c *Client) call(ctx context.Context, name string, object any) (answer, error) {
	c.calls++
	err := c.out.send(csidCommand, rtmpmsg.TypeIDCommandMessageAMF0, 0, amf.Append(nil, name, c.calls, object))
	for err == nil {
		var m message
		if m, err = c.receive(ctx); err != nil || m.kind != rtmpmsg.TypeIDCommandMessageAMF0 {
			continue
		}
		var a answer
		if a, err = parseAnswer(m.payload()); err != nil || a.id != c.calls {
			continue
		}
		switch a.name {
		case "_result":
			return a, nil
		case "_error":
			return a, &StatusError{a.status}
		}
	}
	return answer{}, fmt.Errorf("%s: %w", name, err)
}

// receive reads the next message, until ctx ends.
func (c *Client) receive(ctx context.Context) (m message, err error) {
	err = c.within(ctx, func() error {
		m, err = c.next()
		return err
	})
	return m, err
}

// within runs f, whose reads fail when ctx ends. The connection cannot be used
// after that.
func (c *Client) within(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)); _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := f()
	if ctx.Err() != nil && err != nil {
		return context.Cause(ctx)
	}
	return err
}
