// A connection whose every byte is the test's own.

package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/mediad/mediad/core/amf"
)

// A Raw connection speaks as much RTMP as it is told to.
type Raw struct{ net.Conn }

// Raw connects and says nothing. host is the last byte of the loopback address
// that it comes from, so that what is held against it is held against no other.
func (d *Daemon) Raw(host byte) (*Raw, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, host)}}
	conn, err := dialer.Dial("tcp", d.RTMP)
	if err != nil {
		return nil, err
	}
	return &Raw{conn}, conn.SetDeadline(time.Now().Add(time.Minute))
}

// Handshake does the plain one (RTMP 1.0, 5.2).
func (r *Raw) Handshake() error {
	if _, err := r.Write(append([]byte{3}, make([]byte, 1536)...)); err != nil {
		return err
	}
	reply := make([]byte, 1+2*1536)
	if _, err := io.ReadFull(r, reply); err != nil {
		return err
	}
	_, err := r.Write(reply[1 : 1+1536])
	return err
}

// RawPublisher publishes APP/NAME on message stream 1, in chunks of 128 bytes.
// What the server answers is read and dropped until it says that it has begun.
func (d *Daemon) RawPublisher(host byte, app, name string) (*Raw, error) {
	r, err := d.Raw(host)
	if err != nil {
		return nil, err
	}
	err = r.Handshake()
	for _, m := range [][]byte{
		Message(20, 0, amf.Append(nil, "connect", 1, amf.Object{{Key: "app", Value: app}})),
		Message(20, 0, amf.Append(nil, "createStream", 2, nil)),
		Message(20, 1, amf.Append(nil, "publish", 0, nil, name, "live")),
	} {
		if err == nil {
			_, err = r.Write(m)
		}
	}
	if err == nil {
		err = r.Hear("NetStream.Publish.Start")
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Hear reads until the server has said something.
func (r *Raw) Hear(what string) error {
	var heard []byte
	p := make([]byte, 4096)
	for !bytes.Contains(heard, []byte(what)) {
		n, err := r.Read(p)
		if heard = append(heard, p[:n]...); err != nil {
			return fmt.Errorf("%s is not answered: %w", what, err)
		}
	}
	return nil
}

// Send writes chunks.
func (r *Raw) Send(chunks ...Chunk) error {
	var p []byte
	for _, c := range chunks {
		p = append(p, c.Bytes()...)
	}
	_, err := r.Write(p)
	return err
}

// Closed waits until the server has closed the connection.
func (r *Raw) Closed(limit time.Duration) error {
	if err := r.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the connection was not closed within %v", limit)
	}
	return r.Close()
}

// A Chunk is written as its fields say, right or wrong (RTMP 1.0, 5.3.1).
type Chunk struct {
	Format byte // of the header
	CSID   byte
	Time   uint32
	Long   bool // Time goes behind the header, in 32 bits
	Length int  // of the message
	Kind   byte
	Stream uint32
	Data   []byte
}

// Bytes is the chunk on the wire.
func (c Chunk) Bytes() []byte {
	b := []byte{c.Format<<6 | c.CSID}
	field := c.Time
	if c.Long {
		field = 0xffffff
	}
	if c.Format < 3 {
		b = append(b, byte(field>>16), byte(field>>8), byte(field))
	}
	if c.Format < 2 {
		b = append(b, byte(c.Length>>16), byte(c.Length>>8), byte(c.Length), c.Kind)
	}
	if c.Format < 1 {
		b = binary.LittleEndian.AppendUint32(b, c.Stream)
	}
	if c.Long {
		b = binary.BigEndian.AppendUint32(b, c.Time)
	}
	return append(b, c.Data...)
}

// Message is a whole message on chunk stream 3, in chunks of 128 bytes.
func Message(kind byte, stream uint32, payload []byte) []byte {
	const size = 128
	c := Chunk{CSID: 3, Length: len(payload), Kind: kind, Stream: stream}
	b := append(c.Bytes(), payload[:min(size, len(payload))]...)
	for at := size; at < len(payload); at += size {
		b = append(append(b, 0xc3), payload[at:min(at+size, len(payload))]...)
	}
	return b
}
