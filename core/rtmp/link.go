// What both ends of a connection do: the handshake, acknowledgements, pings.

package rtmp

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/nowait"
	"github.com/mediad/mediad/core/stream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/yutopp/go-rtmp/handshake"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// window is the acknowledgement window of both directions, until the peer asks
// for another (5.4.4).
const window = 2_500_000

// A link is one end of an RTMP connection. One goroutine reads from it; out may
// be used by any.
type link struct {
	conn net.Conn
	out  output
	in   *chunkReader
	wire *wire

	window, acked uint32
}

func newLink(ctx context.Context, conn net.Conn, m *metrics, timeout time.Duration, dropped func(cause string)) *link {
	l := &link{conn: conn, window: window}
	l.wire = &wire{ctx: ctx, conn: conn, from: nowait.Reader(conn), bytes: m.bytes.WithLabelValues("in")}
	l.in = newChunkReader(l.wire, dropped)
	l.out.Writer = nowait.ToViewer(conn, timeout, m.bytes.WithLabelValues("out"))
	return l
}

// accept is the server's side of the handshake (RTMP 1.0, 5.2).
func (l *link) accept() error {
	var c0 handshake.S0C0
	var c1 handshake.S1C1
	var c2 handshake.S2C2
	in := handshake.NewDecoder(l.in.r)
	if err := in.DecodeS0C0(&c0); err != nil {
		return err
	}
	if int(c0) != handshake.RTMPVersion {
		return end(causeNotRTMP, "the client begins with %#02x and not with RTMP version %d: it speaks TLS, HTTP or an encrypted RTMP",
			byte(c0), handshake.RTMPVersion)
	}
	if err := in.DecodeS1C1(&c1); err != nil {
		return err
	}
	if err := l.answer(c1); err != nil {
		return err
	}
	return in.DecodeS2C2(&c2) // what it echoes is not looked at: some clients send anything
}

// answer writes S0, S1 and S2. S2 is C1 as it came and not with a time
// of its own, as librtmp compares the whole.
func (l *link) answer(c1 handshake.S1C1) error {
	s0 := handshake.S0C0(handshake.RTMPVersion)
	s1 := handshake.S1C1{Time: uint32(time.Now().UnixMilli())}
	_, _ = rand.Read(s1.Random[:]) // does not fail
	s2 := handshake.S2C2{Time: c1.Time, Time2: binary.BigEndian.Uint32(c1.Version[:]), Random: c1.Random}

	var b bytes.Buffer
	b.Grow(1 + 1536 + 1536)
	out := handshake.NewEncoder(&b)
	if err := errors.Join(out.EncodeS0C0(&s0), out.EncodeS1C1(&s1), out.EncodeS2C2(&s2)); err != nil {
		return err
	}
	_, err := l.conn.Write(b.Bytes())
	return err
}

// next returns the next message that is not about the connection itself. Its
// kind is one that carries media, data or a command, or a user control event.
func (l *link) next() (message, error) {
	for {
		m, err := l.in.next()
		if err != nil {
			return m, err
		}
		if err := l.acknowledge(); err != nil {
			return m, err
		}
		switch p := m.payload(); m.kind {
		case rtmpmsg.TypeIDAck, rtmpmsg.TypeIDSetPeerBandwidth:
		case rtmpmsg.TypeIDWinAckSize:
			if len(p) >= 4 {
				l.window = max(binary.BigEndian.Uint32(p), 1<<16) // an answer to each byte is not wanted
			}
		case rtmpmsg.TypeIDUserCtrl:
			if len(p) < 6 || binary.BigEndian.Uint16(p) != eventPing {
				return m, nil
			}
			if err := l.out.send(csidControl, rtmpmsg.TypeIDUserCtrl, 0, event(eventPong, binary.BigEndian.Uint32(p[2:]))); err != nil {
				return m, err
			}
		default:
			return m, nil
		}
	}
}

// acknowledge tells the peer what has come, once per window. It is early by
// half a window, as clients stop sending at the end of it.
func (l *link) acknowledge() error {
	total := uint32(l.wire.total)
	if total-l.acked < l.window/2 {
		return nil
	}
	l.acked = total
	return l.control(&rtmpmsg.Ack{SequenceNumber: total})
}

// control sends a protocol control message.
func (l *link) control(m rtmpmsg.Message) error {
	return l.out.send(csidControl, m.TypeID(), 0, encode(m))
}

// encode returns the payload of a control message.
func encode(m rtmpmsg.Message) []byte {
	var b bytes.Buffer
	if err := rtmpmsg.NewEncoder(&b).Encode(m); err != nil {
		panic(fmt.Sprintf("rtmp: %T: %v", m, err)) // a bytes.Buffer does not fail
	}
	return b.Bytes()
}

// The user control events beside stream.Event (7.1.7).
const (
	eventBuffer = 3
	eventPing   = 6
	eventPong   = 7
)

// event returns the payload of a user control message.
func event(e uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, e), value)
}

// onStatus returns the payload of an onStatus command.
func onStatus(st stream.Status) []byte {
	return amf.Append(nil, "onStatus", 0, nil, amf.Object{
		{Key: "level", Value: st.Level},
		{Key: "code", Value: st.Code},
		{Key: "description", Value: st.Description},
	})
}

// A wire reads from the connection under a deadline and counts. It is used by
// the goroutine that reads.
type wire struct {
	ctx   context.Context // reads fail once it has ended
	conn  net.Conn
	from  io.Reader     // reads from conn
	idle  time.Duration // how long each read may take; 0: the deadline set with until holds
	bytes prometheus.Counter
	total uint64
}

// until sets one deadline for all that is read from now on, none when t is zero.
func (w *wire) until(t time.Time) {
	w.idle = 0
	_ = w.conn.SetReadDeadline(t)
}

func (w *wire) Read(p []byte) (int, error) {
	if w.idle > 0 {
		_ = w.conn.SetReadDeadline(time.Now().Add(w.idle))
	}
	// Whoever ends ctx sets a deadline in the past afterwards. Looking at ctx
	// last makes sure that it is not undone by the one above.
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	n, err := w.from.Read(p)
	w.total += uint64(n)
	w.bytes.Add(float64(n))
	return n, err
}

// addrOf is the address of the peer, the zero Addr where it has none.
func addrOf(conn net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}
