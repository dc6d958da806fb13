// The write side of a connection: messages are gathered and written together.

package rtmp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	"github.com/prometheus/client_golang/prometheus"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// chunkSize is the size of all chunks that are sent, so that the chunks of a
// batch are the same for every viewer. More than this Flash did not take.
const chunkSize = 65536

// maxWrite is how much is written under one deadline: a viewer that takes
// this much within it is slow, but alive.
const maxWrite = 256 << 10

// maxQueue is how many pieces a connection at rest keeps room for. What a
// joiner is sent at first has more, and what follows has a few.
const maxQueue = 32

// The chunk streams that are written on. Messages on the chunk stream of a track are written
// with deltas; all others have headers of type 0.
const (
	csidControl = 2 // fixed by the specification (5.4)
	csidCommand = 3
	csidAudio   = 4
	csidStatus  = 5 // whatever is about one message stream and is no frame
	csidVideo   = 6
	csidData    = 7
)

// tracks is the number of tracks, index where one stands in an array of them.
const tracks = 3

func index(t media.Track) int {
	switch t {
	case media.Audio:
		return 0
	case media.Video:
		return 1
	}
	return 2
}

// csidOf are the chunk streams of the tracks, by index.
var csidOf = [tracks]byte{csidAudio, csidVideo, csidData}

// An output writes messages to a connection. Its methods are called with mu
// held: lock, put what there is, flush, unlock.
//
// What a round looks at for each viewer comes first, so that it is in few cache lines.
type output struct {
	mu      sync.Mutex
	closed  atomic.Bool
	limited bool               // the connection has a write deadline
	socket  nowait.Socket      // writes without waiting; none when the connection cannot
	err     error              // the first failure; nothing is written after it
	clocks  [tracks]trackClock // what the chunk streams of the tracks count from
	queue   [][]byte           // what flush will write, in order

	scratch []byte   // the headers in queue
	iov     [][]byte // what one write takes of the queue
	bytes   prometheus.Counter
	conn    net.Conn
	timeout time.Duration // of each write
}

// A trackClock is where the chunk stream of a track stands: the viewer that it
// was written for last, and the time of the frame, in milliseconds on the
// timeline of the media.
type trackClock struct {
	viewer *viewer
	time   int64
}

// type3 are the headers between the chunks of a message, by chunk stream.
var type3 = [...][]byte{{0xc0}, {0xc1}, {0xc2}, {0xc3}, {0xc4}, {0xc5}, {0xc6}, {0xc7}}

// put adds a message with a header of type 0. The payload is kept until flush
// has returned.
func (o *output) put(csid byte, kind rtmpmsg.TypeID, stream, time uint32, payload []byte) {
	o.queue = append(o.queue, o.header(csid, kind, stream, time, len(payload)))
	separator := type3[csid]
	if time >= extended {
		at := len(o.scratch)
		o.scratch = binary.BigEndian.AppendUint32(append(o.scratch, separator[0]), time)
		separator = o.scratch[at:]
	}
	o.queue = divide(o.queue, payload, chunkSize, separator)
}

// divide appends p to queue with a separator after the first bytes of it, and
// then after each whole chunk.
func divide(queue [][]byte, p []byte, first int, separator []byte) [][]byte {
	for n := first; len(p) > n; n = chunkSize {
		queue = append(queue, p[:n], separator)
		p = p[n:]
	}
	return append(queue, p)
}

// header makes a message header of type 0 (RTMP 1.0, 5.3.1.2.1).
func (o *output) header(csid byte, kind rtmpmsg.TypeID, stream, time uint32, length int) []byte {
	at := len(o.scratch)
	field := min(time, extended)
	h := append(o.scratch, csid,
		byte(field>>16), byte(field>>8), byte(field),
		byte(length>>16), byte(length>>8), byte(length), byte(kind))
	h = binary.LittleEndian.AppendUint32(h, stream)
	if field == extended {
		h = binary.BigEndian.AppendUint32(h, time)
	}
	o.scratch = h
	return h[at:]
}

// flush writes what was put. It is one system call up to maxWrite bytes.
func (o *output) flush() error {
	rest := o.queue
	for len(rest) > 0 && o.err == nil {
		rest = o.take(rest)
		o.err = o.write()
	}
	clear(o.queue)
	o.queue, o.scratch = o.queue[:0], o.scratch[:0]
	if cap(o.queue) > maxQueue {
		o.queue, o.scratch, o.iov = nil, nil, nil
	}
	return o.err
}

// take moves up to maxWrite bytes of queue to iov and returns what is left.
func (o *output) take(queue [][]byte) [][]byte {
	o.iov = o.iov[:0]
	for room := maxWrite; len(queue) > 0 && room > 0; {
		if len(queue[0]) > room {
			o.iov = append(o.iov, queue[0][:room])
			queue[0] = queue[0][room:]
			break
		}
		room -= len(queue[0])
		o.iov = append(o.iov, queue[0])
		queue = queue[1:]
	}
	return queue
}

// write writes iov.
func (o *output) write() error {
	_ = o.conn.SetWriteDeadline(time.Now().Add(o.timeout))
	o.limited = true
	if o.closed.Load() { // in this order, or the deadline would undo shut's
		return media.ErrClosed
	}
	var n int
	var err error
	if conn, ok := o.conn.(*net.TCPConn); ok {
		n, err = o.socket.WriteAll(conn, o.iov)
	} else {
		n, err = o.writeJoined()
	}
	clear(o.iov) // a connection at rest keeps no batch
	o.bytes.Add(float64(n))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return end(causeSlow, "the client has not taken %d bytes within %v: %w", maxWrite, o.timeout, err)
	}
	if err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}

// try writes what was put, and then shared, as far as the socket takes it at once,
// and reports whether that was all. The rest is written by the next flush. Shared
// is not changed.
func (o *output) try(shared [][]byte) (done bool, err error) {
	if o.limited { // it may have passed long ago
		o.limited = false
		_ = o.conn.SetWriteDeadline(time.Time{})
	}
	if o.closed.Load() && o.err == nil {
		o.err = media.ErrClosed
	}
	if o.err != nil {
		return false, o.err
	}
	queue := shared
	if len(o.queue) > 0 {
		o.queue = append(o.queue, shared...)
		queue = o.queue
	}
	n, err := o.socket.Write(queue)
	o.bytes.Add(float64(n))
	if err != nil {
		o.err = fmt.Errorf("write to the client: %w", err)
	}
	rest, n := nowait.After(queue, n)
	o.keep(rest, n)
	return len(rest) == 0, o.err
}

// keep makes rest the queue, without its first n bytes. It may be a part of the queue.
func (o *output) keep(rest [][]byte, n int) {
	before := o.queue
	o.queue = append(o.queue[:0], rest...)
	if len(rest) > 0 {
		o.queue[0] = o.queue[0][n:]
	} else {
		o.scratch = o.scratch[:0]
	}
	if len(before) > len(rest) {
		clear(before[len(rest):])
	}
}

// writeJoined is write for a connection, such as TLS, that would make a record
// or a packet of each piece.
func (o *output) writeJoined() (int, error) {
	p := joins.Get().(*[]byte)
	defer joins.Put(p)
	*p = (*p)[:0]
	for _, b := range o.iov {
		*p = append(*p, b...)
	}
	return o.conn.Write(*p)
}

// joins are the buffers of writeJoined: connections at rest have none.
var joins = sync.Pool{New: func() any { return new([]byte) }}

// shut fails all writes from now on, and what is being written at once. When it
// has returned nobody writes any more, so that the connection may be closed.
func (o *output) shut() {
	o.closed.Store(true)
	_ = o.conn.SetWriteDeadline(time.Unix(1, 0))
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = media.ErrClosed
	}
}

// send writes one message.
func (o *output) send(csid byte, kind rtmpmsg.TypeID, stream uint32, payload []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.put(csid, kind, stream, 0, payload)
	return o.flush()
}
