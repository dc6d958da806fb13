// Writing of MP4 (ISO/IEC 14496-12, whose sections are named; -14 and -15 for the
// codecs): the tables of a film, and fragments. Times are in milliseconds, as those of
// the frames are.

package web

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/mediad/mediad/core/media"
)

func box(kind string, parts ...[]byte) []byte {
	size := 8
	for _, p := range parts {
		size += len(p)
	}
	b := make([]byte, 0, size)
	b = append(binary.BigEndian.AppendUint32(b, uint32(size)), kind...)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func fullBox(kind string, version uint8, flags uint32, parts ...[]byte) []byte {
	return box(kind, append([][]byte{u32(uint32(version)<<24 | flags)}, parts...)...)
}

func u16(values ...int) []byte {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint16(b, uint16(v))
	}
	return b
}

func u32(values ...uint32) []byte {
	b := make([]byte, 0, 4*len(values))
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

var (
	timescale = u32(1000)
	matrix    = u32(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
)

// A table is the samples of one track; empty for media in fragments.
type table struct {
	track
	times   []int64 // DTS, from the start of the film
	end     int64   // of the last sample
	offsets []int32 // PTS - DTS
	sizes   []uint32
	keys    []uint32 // which samples are, from 1; video only
	chunks  []chunk
}

// A chunk is samples of one track that lie one behind the other.
type chunk struct {
	at      int64 // from the start of the media data
	samples uint32
}

// movie returns ftyp and moov. The media data follow at data, whose box has a head of
// its own before that. Without samples it is what goes before fragments.
func movie(tables []*table, data int64) []byte {
	fragmented := len(tables[0].sizes) == 0
	ftyp := box("ftyp", []byte("isom"), u32(0x200), []byte("isomiso5iso6mp41"))
	var length int64
	var traks, trexs [][]byte
	for i, t := range tables {
		length = max(length, t.end)
		traks = append(traks, t.trak(uint32(i+1), data))
		trexs = append(trexs, fullBox("trex", 0, 0, u32(uint32(i+1), 1, 0, 0, 0))) // 8.8.3
	}
	mvhd := fullBox("mvhd", 1, 0, u64(0), u64(0), timescale, u64(uint64(length)), // 8.2.2
		u32(0x10000), u16(0x100), make([]byte, 10), matrix, make([]byte, 24), u32(uint32(len(tables)+1)))
	parts := append([][]byte{mvhd}, traks...)
	if fragmented {
		parts = append(parts, box("mvex", trexs...))
	}
	return append(ftyp, box("moov", parts...)...)
}

// trak returns the box of a track (8.3 to 8.7).
func (t *table) trak(id uint32, data int64) []byte {
	volume, handler, name, header := 0, "vide", "video", fullBox("vmhd", 0, 1, make([]byte, 8))
	if t.kind == media.Audio {
		volume, handler, name, header = 0x100, "soun", "audio", fullBox("smhd", 0, 0, make([]byte, 4))
	}
	const enabledInMovie = 3
	tkhd := fullBox("tkhd", 1, enabledInMovie, u64(0), u64(0), u32(id, 0), u64(uint64(t.end)), make([]byte, 8),
		u16(0, 0, volume, 0), matrix, u32(uint32(t.width)<<16, uint32(t.height)<<16))
	mdhd := fullBox("mdhd", 1, 0, u64(0), u64(0), timescale, u64(uint64(t.end-t.begin())), u16(undetermined, 0))
	hdlr := fullBox("hdlr", 0, 0, u32(0), []byte(handler), make([]byte, 12), []byte(name+"\x00"))
	const sameFile = 1
	dinf := box("dinf", fullBox("dref", 0, 0, u32(1), fullBox("url ", 0, sameFile)))
	stbl := [][]byte{
		fullBox("stsd", 0, 0, u32(1), t.entry()),
		t.stts(),
		t.stsc(),
		fullBox("stsz", 0, 0, u32(0, uint32(len(t.sizes))), u32(t.sizes...)),
		t.stco(data),
	}
	if slices.ContainsFunc(t.offsets, func(o int32) bool { return o != 0 }) {
		stbl = append(stbl, t.ctts())
	}
	if t.kind == media.Video && len(t.sizes) > 0 {
		stbl = append(stbl, fullBox("stss", 0, 0, u32(uint32(len(t.keys))), u32(t.keys...)))
	}
	return box("trak", tkhd, t.edts(), box("mdia", mdhd, hdlr, box("minf", header, dinf, box("stbl", stbl...))))
}

// begin is when the first sample is. The table of times has none before that.
func (t *table) begin() int64 {
	if len(t.times) == 0 {
		return 0
	}
	return t.times[0]
}

// edts puts a track that begins later than the film where it belongs (8.6.6): an edit
// of nothing, and one of all.
func (t *table) edts() []byte {
	begin := t.begin()
	if begin == 0 {
		return nil
	}
	const nothing, normal = math.MaxUint64, 0x10000 // media time -1, media rate 1
	return box("edts", fullBox("elst", 1, 0, u32(2), u64(uint64(begin)), u64(nothing), u32(normal),
		u64(uint64(t.end-begin)), u64(0), u32(normal)))
}

const undetermined = 0x55c4 // "und", 8.4.2

// runs folds values into pairs of a count and a value.
func runs(n int, value func(i int) uint32) []byte {
	var pairs []uint32
	for i := range n {
		v := value(i)
		if last := len(pairs) - 1; last > 0 && pairs[last] == v {
			pairs[last-1]++
			continue
		}
		pairs = append(pairs, 1, v)
	}
	return append(u32(uint32(len(pairs)/2)), u32(pairs...)...)
}

// stts are the times between samples (8.6.1.2).
func (t *table) stts() []byte {
	return fullBox("stts", 0, 0, runs(len(t.times), func(i int) uint32 {
		if i+1 == len(t.times) {
			return uint32(t.end - t.times[i])
		}
		return uint32(t.times[i+1] - t.times[i])
	}))
}

// ctts are the composition times (8.6.1.3).
func (t *table) ctts() []byte {
	return fullBox("ctts", 1, 0, runs(len(t.offsets), func(i int) uint32 { return uint32(t.offsets[i]) }))
}

// stsc are the numbers of samples in the chunks (8.7.4).
func (t *table) stsc() []byte {
	var entries []uint32
	for i, c := range t.chunks {
		if i == 0 || c.samples != t.chunks[i-1].samples {
			entries = append(entries, uint32(i+1), c.samples, 1)
		}
	}
	return fullBox("stsc", 0, 0, u32(uint32(len(entries)/3)), u32(entries...))
}

// stco are the places of the chunks (8.7.5), in 64 bits where they need it.
func (t *table) stco(data int64) []byte {
	count := u32(uint32(len(t.chunks)))
	if n := len(t.chunks); n > 0 && t.chunks[n-1].at > math.MaxUint32-1<<30 { // tables are smaller than that
		places := make([]byte, 0, 8*n)
		for _, c := range t.chunks {
			places = binary.BigEndian.AppendUint64(places, uint64(data+c.at))
		}
		return fullBox("co64", 0, 0, count, places)
	}
	places := make([]uint32, 0, len(t.chunks))
	for _, c := range t.chunks {
		places = append(places, uint32(data+c.at))
	}
	return fullBox("stco", 0, 0, count, u32(places...))
}

// entry returns the sample entry.
func (t *track) entry() []byte {
	switch t.codec {
	case "h264":
		return t.visual("avc1", "avcC")
	case "hevc":
		return t.visual("hvc1", "hvcC")
	case "av1":
		return t.visual("av01", "av1C")
	case "opus":
		return t.sound("Opus", box("dOps", t.dOps()))
	}
	return t.sound("mp4a", fullBox("esds", 0, 0, t.esds()))
}

// visual is a visual sample entry (12.1.3).
func (t *track) visual(kind, config string) []byte {
	const dpi72 = 72 << 16
	return box(kind, make([]byte, 6), u16(1), make([]byte, 16), u16(t.width, t.height), u32(dpi72, dpi72, 0), u16(1),
		make([]byte, 32), u16(24, -1), box(config, t.config))
}

// sound is an audio sample entry (12.2.3).
func (t *track) sound(kind string, config []byte) []byte {
	return box(kind, make([]byte, 6), u16(1), make([]byte, 8), u16(t.channels, 16, 0, 0), u32(uint32(t.rate)<<16), config)
}

// esds are the descriptors of AAC (14496-1, 7.2.6).
func (t *track) esds() []byte {
	descriptor := func(tag byte, parts ...[]byte) []byte {
		body := bytes.Join(parts, nil)
		return append([]byte{tag, byte(len(body))}, body...)
	}
	const aac, audio = 0x40, 5<<2 | 1
	decoder := descriptor(4, []byte{aac, audio, 0, 0, 0}, u32(0, 0), descriptor(5, t.config))
	return descriptor(3, u16(0), []byte{0}, decoder, descriptor(6, []byte{2}))
}

// dOps is an OpusHead in big endian (Opus in ISOBMFF, 4.3.2).
func (t *track) dOps() []byte {
	p := bytes.Clone(t.config[8:]) // without "OpusHead"
	p[0] = 0
	slices.Reverse(p[2:4])
	slices.Reverse(p[4:8])
	slices.Reverse(p[8:10])
	return p
}

// A sample is one of a fragment.
type sample struct {
	dts, pts time.Duration
	key      bool
	data     []byte
}

// A run is the samples of one track in a fragment.
type run struct {
	samples []sample
	end     time.Duration // of the last
}

// Sample flags (8.8.3.1): a keyframe depends on no other, and the rest do.
const (
	syncSample    = 0x02000000
	nonSyncSample = 0x01010000
)

// fragment appends moof and mdat to queue, with the samples as they are. Runs are those
// of the tracks in their order, which may be empty. Times start at zero, and
// sequence is a number that grows from one fragment to the next.
func fragment(queue [][]byte, sequence uint32, zero time.Duration, runs []run) [][]byte {
	const (
		baseIsMoof   = 0x20000 // tfhd, 8.8.7
		withOffset   = 0x1     // trun, 8.8.8
		withSettings = 0xf00   // duration, size, flags, composition time
		trunHead     = 20
	)
	at := len(queue)
	queue = append(queue, nil)
	trafs := [][]byte{fullBox("mfhd", 0, 0, u32(sequence))}
	var offsets []int // of the data offsets, from the end of the moof
	data, size := []int{}, 0
	for i, r := range runs {
		if len(r.samples) == 0 {
			continue
		}
		entries := make([]uint32, 0, 4*len(r.samples))
		data = append(data, size)
		for j, s := range r.samples {
			end := r.end
			if j+1 < len(r.samples) {
				end = r.samples[j+1].dts
			}
			flags := uint32(nonSyncSample)
			if s.key {
				flags = syncSample
			}
			length := max(end-s.dts, 0).Milliseconds()
			entries = append(entries, uint32(length), uint32(len(s.data)), flags, uint32((s.pts - s.dts).Milliseconds()))
			queue = append(queue, s.data)
			size += len(s.data)
		}
		trun := fullBox("trun", 1, withOffset|withSettings, u32(uint32(len(r.samples)), 0), u32(entries...))
		first := max(r.samples[0].dts-zero, 0).Milliseconds()
		trafs = append(trafs, box("traf", fullBox("tfhd", 0, baseIsMoof, u32(uint32(i+1))),
			fullBox("tfdt", 1, 0, u64(uint64(first))), trun))
		offsets = append(offsets, trunHead-4-len(trun))
	}
	head := box("moof", trafs...)
	end := len(head)
	for i := len(trafs) - 1; i > 0; i-- { // the data offsets, now that the size is known
		binary.BigEndian.PutUint32(head[end+offsets[i-1]:], uint32(len(head)+8+data[i-1]))
		end -= len(trafs[i])
	}
	queue[at] = append(head, mdatHead(int64(size))...)
	return queue
}

// mdatHead is the head of a box with n bytes of media data (8.1.1).
func mdatHead(n int64) []byte {
	if n+8 > math.MaxUint32 {
		return append(append(u32(1), "mdat"...), u64(uint64(n+16))...)
	}
	return append(u32(uint32(n+8)), "mdat"...)
}
