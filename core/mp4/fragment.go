// Movie fragments: samples that are told of where they lie.

package mp4

import (
	"errors"
	"fmt"
)

// defaults are what holds for the samples of a fragment that say nothing else.
type defaults struct{ duration, size, flags uint32 }

// notSync is the bit of a sample's flags that says it is no keyframe (8.8.3.1).
const notSync = 0x10000

// errCut ends the walk over fragments at one whose samples are not there yet.
var errCut = errors.New("the file ends within a fragment")

// track returns the track of an id, nil when it is not played.
func (m *movie) track(id uint32) *track {
	for _, t := range []*track{m.video, m.audio} {
		if t != nil && t.id == id {
			return t
		}
	}
	return nil
}

// parseDefaults reads the trex boxes of an mvex (8.8.3).
func (m *movie) parseDefaults(mvex []byte) error {
	for b, err := range boxes(mvex) {
		if err != nil {
			return fmt.Errorf("mvex: %w", err)
		}
		if b.kind != "trex" {
			continue
		}
		f := fields{p: b.body}
		f.full()
		t := m.track(f.uint32())
		f.skip(4) // sample description
		d := defaults{f.uint32(), f.uint32(), f.uint32()}
		if f.short {
			return errors.New("trex: it ends too early")
		}
		if t != nil {
			t.trex = d
		}
	}
	return nil
}

// parseFragment adds the samples of a moof at a byte of the file.
func (m *movie) parseFragment(moof []byte, at int64) error {
	base := at // of the data of the next track
	for b, err := range boxes(moof) {
		if err != nil {
			return err
		}
		if b.kind != "traf" {
			continue
		}
		if base, err = m.parseTrackFragment(b.body, at, base); err != nil {
			return fmt.Errorf("traf: %w", err)
		}
	}
	m.fragments++
	return nil
}

// parseTrackFragment reads a traf (8.8.6 to 8.8.12) and returns where its data end.
func (m *movie) parseTrackFragment(traf []byte, moof, base int64) (int64, error) {
	tfhd, err := find(traf, "tfhd")
	if err != nil {
		return 0, err
	}
	f := fields{p: tfhd}
	_, flags := f.full()
	t := m.track(f.uint32())
	if f.short {
		return 0, errors.New("there is no tfhd")
	}
	if t == nil {
		t = &track{scale: maxScale} // not played, but its data may lie before those of one that is
	}
	d := t.trex
	if flags&0x1 != 0 {
		base = int64(f.uint64())
	} else if flags&0x20000 != 0 {
		base = moof
	}
	if flags&0x2 != 0 && f.uint32() != 1 {
		return 0, errors.New("the codec configuration changes midway, which is not supported")
	}
	for _, o := range []struct {
		flag  uint32
		value *uint32
	}{{0x8, &d.duration}, {0x10, &d.size}, {0x20, &d.flags}} {
		if flags&o.flag != 0 {
			*o.value = f.uint32()
		}
	}
	if f.short || base < 0 {
		return 0, errors.New("tfhd: it makes no sense")
	}
	tfdt, err := find(traf, "tfdt")
	if err != nil {
		return 0, err
	}
	if tfdt != nil {
		f := fields{p: tfdt}
		version, _ := f.full()
		if t.end = int64(f.word(version == 1)); f.short || t.end < 0 || t.end > maxSeconds*t.scale {
			return 0, errors.New("tfdt: it makes no sense")
		}
	}
	pos := base
	for b, err := range boxes(traf) {
		if err != nil {
			return 0, err
		}
		if b.kind != "trun" {
			continue
		}
		if pos, err = t.parseRun(b.body, base, pos, d, m.size); err != nil {
			return 0, fmt.Errorf("trun: %w", err)
		}
	}
	return pos, nil
}

// parseRun reads a trun (8.8.8). Its data are at pos, unless it says where behind
// base. It returns where they end.
func (t *track) parseRun(trun []byte, base, pos int64, d defaults, size int64) (int64, error) {
	f := fields{p: trun}
	_, flags := f.full()
	n := f.uint32()
	if flags&0x1 != 0 {
		pos = base + int64(int32(f.uint32()))
	}
	first := d.flags
	if flags&0x4 != 0 {
		first = f.uint32()
	}
	entry := 0
	for _, flag := range []uint32{0x100, 0x200, 0x400, 0x800} {
		if flags&flag != 0 {
			entry += 4
		}
	}
	if f.short || pos < 0 || uint64(n)*uint64(entry) > uint64(len(f.p)) {
		return 0, fmt.Errorf("%d samples do not fit into it", n)
	}
	if entry == 0 && d.size == 0 && n > 0 { // else the file's size bounds them
		return 0, fmt.Errorf("%d samples have no size", n)
	}
	for i := range n {
		v := d
		if i == 0 {
			v.flags = first
		}
		cts := uint32(0)
		for _, o := range []struct {
			flag  uint32
			value *uint32
		}{{0x100, &v.duration}, {0x200, &v.size}, {0x400, &v.flags}, {0x800, &cts}} {
			if flags&o.flag != 0 {
				*o.value = f.uint32()
			}
		}
		if int64(v.size) > size-pos {
			return 0, errCut
		}
		s := sample{pos: pos, dts: t.end, cts: int32(cts), size: v.size, key: v.flags&notSync == 0}
		if err := t.add(s, int64(v.duration)); err != nil {
			return 0, err
		}
		pos += int64(v.size)
	}
	return pos, nil
}
