// How the samples of a track are coded, and what that is in FLV.

package mp4

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mediad/mediad/core/media"
)

// A coding is the sample entry of a track, in the terms of FLV.
type coding struct {
	format        media.Format
	id            float64 // videocodecid or audiocodecid in onMetaData
	width, height int
	rate          int // audio samples a second
	channels      int
	head          []byte // of the tag body of a frame, of an inter frame for video
	cts           bool   // three bytes of composition time end the head
}

// unsupported names a codec that cannot be played.
type unsupported string

func (u unsupported) Error() string { return string(u) + " is not supported" }

// The heads of FLV tag bodies (FLV 10.1, E.4; Enhanced RTMP v2 for the FourCCs):
// frame type 2 is an inter frame, and packet type 0 a configuration, 1 a frame.
const (
	interFrame = 2 << 4
	keyFrame   = 1 << 4
	frameTypes = 7 << 4
	enhanced   = 0x80     // video: the low bits are the packet type
	soundExt   = 0x9 << 4 // audio: the same
)

// parseCoding reads an stsd (8.5.2). Only its first entry is used.
func parseCoding(kind media.Track, stsd []byte) (coding, error) {
	f := fields{p: stsd}
	version, _ := f.full()
	f.skip(4) // entries
	for b, err := range boxes(f.p) {
		if err != nil {
			return coding{}, err
		}
		if kind == media.Video {
			return parseVisual(b)
		}
		return parseSound(b, version)
	}
	return coding{}, errors.New("it has no entry")
}

// parseVisual reads a visual sample entry (12.1.3).
func parseVisual(b box) (coding, error) {
	f := fields{p: b.body}
	f.skip(24)
	c := coding{width: int(f.uint16()), height: int(f.uint16())}
	f.skip(50) // resolution, name of the compressor, depth
	switch b.kind {
	case "avc1", "avc3":
		c.format.Codec, c.id, c.cts = "h264", 7, true
		c.head = []byte{interFrame | 7, 1}
		return c, c.configure(f.p, "avcC", []byte{keyFrame | 7, 0, 0, 0, 0})
	case "hvc1", "hev1":
		c.format.Codec, c.cts = "hevc", true
		return c, c.enhance(f.p, "hvc1", "hvcC")
	case "av01":
		c.format.Codec = "av1"
		return c, c.enhance(f.p, "av01", "av1C")
	}
	return c, unsupported(fmt.Sprintf("%q", b.kind))
}

// enhance sets the heads of an enhanced video packet.
func (c *coding) enhance(entry []byte, fourCC, config string) error {
	c.id = float64(binary.BigEndian.Uint32([]byte(fourCC)))
	c.head = append([]byte{enhanced | interFrame | 1}, fourCC...)
	return c.configure(entry, config, append([]byte{enhanced | keyFrame}, fourCC...))
}

// configure makes the tag body of the configuration from the box kind in the
// sample entry.
func (c *coding) configure(entry []byte, kind string, head []byte) error {
	config, err := find(entry, kind)
	if err == nil && len(config) == 0 {
		err = fmt.Errorf("there is no %s", kind)
	}
	c.format.Config = append(head, config...)
	return err
}

// parseSound reads an audio sample entry (12.2.3, and QuickTime's versions of it,
// which are only in an stsd of version 0).
func parseSound(b box, stsdVersion uint8) (coding, error) {
	f := fields{p: b.body}
	f.skip(8)
	version := f.uint16()
	f.skip(6)
	c := coding{channels: int(f.uint16())}
	f.skip(6)
	c.rate = int(f.uint32() >> 16)
	switch {
	case version == 1 && stsdVersion == 0:
		f.skip(16)
	case version == 2 && stsdVersion == 0:
		f.skip(36)
	}
	switch b.kind {
	case "mp4a":
		return c, c.parseMP4A(f.p)
	case ".mp3":
		c.mp3()
		return c, nil
	case "Opus":
		return c, c.parseOpus(f.p)
	}
	return c, unsupported(fmt.Sprintf("%q", b.kind))
}

// parseMP4A reads the esds of a sample entry, which QuickTime puts into a wave.
func (c *coding) parseMP4A(entry []byte) error {
	esds, err := find(entry, "esds")
	if esds == nil && err == nil {
		esds, err = find(entry, "wave", "esds")
	}
	if err != nil {
		return err
	}
	object, config, err := parseESDS(esds)
	if err != nil {
		return fmt.Errorf("esds: %w", err)
	}
	switch object {
	case 0x69, 0x6b: // MPEG-2 and MPEG-1 audio
		c.mp3()
		return nil
	case 0x40, 0x66, 0x67, 0x68: // MPEG-4 and MPEG-2 AAC
	default:
		return unsupported(fmt.Sprintf("mp4a of object type %#x", object))
	}
	if len(config) == 0 {
		return errors.New("esds: there is no AAC configuration")
	}
	c.format = media.Format{Codec: "aac", Config: append([]byte{0xaf, 0}, config...)}
	c.id, c.head = 10, []byte{0xaf, 1}
	return nil
}

// mp3 sets the head of MP3. Decoders take the rate from the frames; the bits for
// it in the head have none above 44.1 kHz.
func (c *coding) mp3() {
	rate := byte(3)
	switch {
	case c.rate != 0 && c.rate <= 11025:
		rate = 1
	case c.rate != 0 && c.rate <= 22050:
		rate = 2
	}
	c.format.Codec, c.id = "mp3", 2
	c.head = []byte{2<<4 | rate<<2 | 1<<1 | byte(min(c.channels-1, 1))&1}
}

// parseOpus makes the identification header of Ogg (RFC 7845, 5.1), which is little
// endian, from a dOps box (Opus in ISOBMFF, 4.3.2), which is not.
func (c *coding) parseOpus(entry []byte) error {
	dops, err := find(entry, "dOps")
	if err != nil {
		return err
	}
	f := fields{p: dops}
	f.skip(1) // version
	config := append([]byte{soundExt}, "OpusOpusHead\x01"...)
	config = append(config, f.uint8())
	config = binary.LittleEndian.AppendUint16(config, f.uint16())
	config = binary.LittleEndian.AppendUint32(config, f.uint32())
	config = binary.LittleEndian.AppendUint16(config, f.uint16())
	if f.short || len(f.p) == 0 {
		return errors.New("there is no whole dOps")
	}
	config = append(config, f.p...)
	c.format = media.Format{Codec: "opus", Config: config}
	c.id = float64(binary.BigEndian.Uint32([]byte("Opus")))
	c.head = append([]byte{soundExt | 1}, "Opus"...)
	return nil
}

// parseESDS returns the object type and the decoder's configuration of an esds
// (14496-1, 7.2.6).
func parseESDS(p []byte) (object uint8, config []byte, err error) {
	f := fields{p: p}
	f.full()
	if err := f.descriptor(3); err != nil {
		return 0, nil, err
	}
	f.skip(2)
	flags := f.uint8()
	if flags&0x80 != 0 {
		f.skip(2)
	}
	if flags&0x40 != 0 {
		f.skip(int(f.uint8()))
	}
	if flags&0x20 != 0 {
		f.skip(2)
	}
	if err := f.descriptor(4); err != nil {
		return 0, nil, err
	}
	object = f.uint8()
	f.skip(12)
	if len(f.p) == 0 {
		return object, nil, nil
	}
	if err := f.descriptor(5); err != nil {
		return 0, nil, err
	}
	return object, f.p, nil
}

// descriptor enters a descriptor: f is then what it contains.
func (f *fields) descriptor(tag uint8) error {
	got, size := f.uint8(), 0
	for range 4 {
		b := f.uint8()
		size = size<<7 | int(b&0x7f)
		if b&0x80 == 0 {
			break
		}
	}
	if f.short || got != tag || size > len(f.p) {
		return fmt.Errorf("there is no whole descriptor %d", tag)
	}
	f.p = f.p[:size]
	return nil
}

// headSize is the number of bytes before the sample in a tag body.
func (c *coding) headSize() int {
	if c.cts {
		return len(c.head) + 3
	}
	return len(c.head)
}

// putHead writes the head of the tag body of a frame.
func (c *coding) putHead(body []byte, key bool, cts int64) {
	n := copy(body, c.head)
	if c.cts {
		body[n], body[n+1], body[n+2] = byte(cts>>16), byte(cts>>8), byte(cts)
	}
	if key {
		body[0] = body[0]&^frameTypes | keyFrame
	}
}
