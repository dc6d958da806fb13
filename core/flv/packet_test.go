package flv

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

const (
	hvc1, av01, vp09, avc1 = "68766331", "61763031", "76703039", "61766331"
	opus, mp4a, ac3        = "4f707573", "6d703461", "61632d33"
	ms                     = time.Millisecond
)

var packets = []struct {
	name  string
	track media.Track
	bytes string
	want  Packet
}{
	{"AVC configuration", media.Video, "17 00 000000 01", Packet{"h264", Config, false, 0}},
	{"AVC key frame", media.Video, "17 01 000050 00", Packet{"h264", Coded, true, 80 * ms}},
	{"AVC frame, negative CTS", media.Video, "27 01 ffffd8 00", Packet{"h264", Coded, false, -40 * ms}},
	{"AVC end", media.Video, "17 02 000000", Packet{"h264", End, false, 0}},
	{"AVC end, short", media.Video, "17 02", Packet{"h264", End, false, 0}},
	{"HEVC by codec id", media.Video, "1c 01 000001", Packet{"hevc", Coded, true, ms}},
	{"HEVC by codec id, configuration", media.Video, "1c 00 000000 01", Packet{"hevc", Config, false, 0}},
	{"Sorenson", media.Video, "12", Packet{"flv1", Coded, true, 0}},
	{"VP6", media.Video, "24 00", Packet{"vp6f", Coded, false, 0}},
	{"command", media.Video, "57 00", Packet{"", Other, false, 0}},
	{"HEVC start", media.Video, "90" + hvc1 + "01", Packet{"hevc", Config, false, 0}},
	{"HEVC key frame", media.Video, "91" + hvc1 + "000028 01", Packet{"hevc", Coded, true, 40 * ms}},
	{"HEVC frame without CTS", media.Video, "a3" + hvc1 + "01", Packet{"hevc", Coded, false, 0}},
	{"HEVC end", media.Video, "92" + hvc1, Packet{"hevc", End, false, 0}},
	{"AV1 start", media.Video, "90" + av01 + "81", Packet{"av1", Config, false, 0}},
	{"AV1 key frame has no CTS", media.Video, "91" + av01, Packet{"av1", Coded, true, 0}},
	{"AV1 in MPEG-2 TS", media.Video, "95" + av01, Packet{"av1", Other, false, 0}},
	{"VP9 frame", media.Video, "a1" + vp09, Packet{"vp9", Coded, false, 0}},
	{"enhanced AVC", media.Video, "91" + avc1 + "ffffff", Packet{"h264", Coded, true, -ms}},
	{"metadata", media.Video, "94" + hvc1, Packet{"", Other, false, 0}},
	{"enhanced command", media.Video, "d1 00", Packet{"", Other, false, 0}},
	{"ModEx", media.Video, "97 02 010203 01" + hvc1 + "000000", Packet{"hevc", Coded, true, 0}},
	{"ModEx twice", media.Video, "97 00 01 07 00 02 03" + hvc1, Packet{"hevc", Coded, true, 0}},
	{"ModEx of 257 bytes", media.Video, "97 ff 0100" + strings.Repeat("00", 257) + "03" + hvc1, Packet{"hevc", Coded, true, 0}},
	{"one track", media.Video, "96 01" + hvc1 + "00 000010", Packet{"hevc", Coded, true, 16 * ms}},
	{"another track", media.Video, "96 01" + hvc1 + "01 000010", Packet{"hevc", Other, false, 16 * ms}},
	{"another track's configuration", media.Video, "96 00" + hvc1 + "01 0102", Packet{"hevc", Other, false, 0}},
	{"many tracks", media.Video, "96 11" + hvc1 + "00 000005 000010 0102", Packet{"hevc", Coded, true, 16 * ms}},
	{"many tracks, many codecs", media.Video, "96 20" + hvc1 + "00 000002 0102", Packet{"hevc", Config, false, 0}},
	{"AAC configuration", media.Audio, "af 00 1210", Packet{"aac", Config, false, 0}},
	{"AAC", media.Audio, "af 01 21", Packet{"aac", Coded, false, 0}},
	{"MP3", media.Audio, "2f", Packet{"mp3", Coded, false, 0}},
	{"A-law", media.Audio, "72", Packet{"pcm_alaw", Coded, false, 0}},
	{"µ-law", media.Audio, "82", Packet{"pcm_mulaw", Coded, false, 0}},
	{"PCM of 16 bits", media.Audio, "3e", Packet{"pcm_s16le", Coded, false, 0}},
	{"PCM of 8 bits", media.Audio, "3c", Packet{"pcm_u8", Coded, false, 0}},
	{"Speex", media.Audio, "b2", Packet{"speex", Coded, false, 0}},
	{"Nellymoser", media.Audio, "52", Packet{"nellymoser", Coded, false, 0}},
	{"Opus start", media.Audio, "90" + opus, Packet{"opus", Config, false, 0}},
	{"Opus", media.Audio, "91" + opus, Packet{"opus", Coded, false, 0}},
	{"enhanced AAC end", media.Audio, "92" + mp4a, Packet{"aac", End, false, 0}},
	{"AC-3", media.Audio, "91" + ac3, Packet{"ac3", Coded, false, 0}},
	{"channels", media.Audio, "94" + opus, Packet{"opus", Other, false, 0}},
	{"audio ModEx", media.Audio, "97 02 010203 01" + opus, Packet{"opus", Coded, false, 0}},
	{"audio of many tracks", media.Audio, "95 11" + opus + "00 000001 00", Packet{"opus", Coded, false, 0}},
	{"audio of another track", media.Audio, "95 01" + opus + "02", Packet{"opus", Other, false, 0}},
}

func TestParsePacket(t *testing.T) {
	for _, c := range packets {
		if got, err := ParsePacket(c.track, unhex(c.bytes)); got != c.want || err != nil {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestParsePacketRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		track media.Track
		bytes string
	}{
		"empty video":            {media.Video, ""},
		"empty audio":            {media.Audio, ""},
		"short AVC":              {media.Video, "17"},
		"AVC without CTS":        {media.Video, "17 01 0000"},
		"AVC type 4":             {media.Video, "17 04 000000"},
		"codec 15":               {media.Video, "1f 00"},
		"short AAC":              {media.Audio, "af"},
		"AAC type 2 is the end":  {media.Audio, "af 03"},
		"device specific":        {media.Audio, "ff"},
		"cut FourCC":             {media.Video, "91 6876"},
		"unknown FourCC":         {media.Video, "91 78787878"},
		"HEVC without CTS":       {media.Video, "91" + hvc1 + "0000"},
		"cut ModEx":              {media.Video, "97 05 0000"},
		"ModEx without end":      {media.Video, strings.Repeat("97 00 00 07", 1)},
		"cut long ModEx":         {media.Video, "97 ff 01"},
		"multitrack in itself":   {media.Video, "96 06" + hvc1},
		"multitrack layout 3":    {media.Video, "96 31" + hvc1 + "00"},
		"cut multitrack":         {media.Video, "96"},
		"multitrack without id":  {media.Video, "96 01" + hvc1},
		"multitrack, cut size":   {media.Audio, "95 11" + opus + "00 0000"},
		"enhanced audio, type 9": {media.Audio, "99" + opus},
	} {
		if p, err := ParsePacket(c.track, unhex(c.bytes)); err == nil || p != (Packet{}) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, c := range packets {
		f.Add(c.track == media.Video, unhex(c.bytes))
	}
	f.Fuzz(func(t *testing.T, video bool, body []byte) {
		track := media.Audio
		if video {
			track = media.Video
		}
		p, err := ParsePacket(track, body)
		if err != nil {
			return
		}
		if p.Key && p.Kind != Coded {
			t.Errorf("a key frame that is none: %+v", p)
		}
		// What follows the head does not matter.
		if again, err := ParsePacket(track, append(bytes.Clone(body), 1, 2, 3)); err != nil || again != p && p.CTS == 0 {
			t.Errorf("with more behind it %+v is %+v, %v", p, again, err)
		}
		var s State
		frame, ok, err := s.Push(track, time.Second, body)
		if ok && (&frame.Body[0] != &body[0] || s.Header().Video.Codec+s.Header().Audio.Codec == "") {
			t.Errorf("%+v passes as %+v", p, frame)
		}
		if !ok && err == nil && p.Kind != Config {
			t.Errorf("%+v is gone", p)
		}
	})
}

func TestState(t *testing.T) {
	var s State
	push := func(track media.Track, body []byte) (bool, error) {
		f, ok, err := s.Push(track, time.Second, body)
		if ok && (f.Track != track || f.DTS != time.Second || !bytes.Equal(f.Body, body)) {
			t.Errorf("frame %+v", f)
		}
		return ok, err
	}
	must := func(what string, ok, wantOK bool, err error) {
		t.Helper()
		if ok != wantOK || err != nil {
			t.Errorf("%s: passed on %v, %v", what, ok, err)
		}
	}
	if h := s.Header(); s.Header() != h || h.Video.Codec != "" {
		t.Error("the first header is not one that is empty")
	}
	ok, err := push(media.Video, avcConfig)
	must("configuration", ok, false, err)
	h := s.Header()
	if h.Video.Codec != "h264" || !bytes.Equal(h.Video.Config, avcConfig) {
		t.Errorf("header %+v", h)
	}
	ok, err = push(media.Video, bytes.Clone(avcConfig))
	must("the same configuration", ok, false, err)
	ok, err = push(media.Video, avcFrame(true, 10))
	must("frame", ok, true, err)
	if s.Header() != h {
		t.Error("the same configuration has another header")
	}
	ok, err = push(media.Audio, []byte{0x2f, 1})
	must("MP3 without configuration", ok, true, err)
	if s.Header() == h || s.Header().Audio.Codec != "mp3" || s.Header().Video.Codec != "h264" {
		t.Errorf("header %+v", s.Header())
	}
	h = s.Header()
	ok, err = push(media.Video, append(bytes.Clone(avcConfig), 1))
	must("another configuration", ok, false, err)
	if s.Header() == h || bytes.Equal(s.Header().Video.Config, h.Video.Config) {
		t.Error("another configuration has the same header")
	}
	ok, err = push(media.Video, []byte{0x17, 2, 0, 0, 0})
	must("the end of the sequence", ok, true, err)
	ok, err = push(media.Data, amf.Append(nil, "onTextData", amf.Object{}))
	must("text", ok, true, err)

	meta := amf.Append(nil, "onMetaData", amf.Object{{Key: "width", Value: 640.0}})
	ok, err = push(media.Data, append(bytes.Clone(setDataFrame), meta...))
	must("metadata", ok, false, err)
	h = s.Header()
	if !bytes.Equal(h.Meta, meta) {
		t.Errorf("metadata %q", h.Meta)
	}
	ok, err = push(media.Data, meta)
	must("the same without @setDataFrame", ok, false, err)
	ok, err = push(media.Data, append(bytes.Clone(meta), 0xff))
	must("the same with rubbish behind it", ok, false, err)
	if s.Header() != h {
		t.Error("the same metadata have another header")
	}
	if ok, err := push(media.Data, nil); ok || err == nil {
		t.Error("an empty data message passes")
	}
	if ok, err := push(media.Data, append(bytes.Clone(onMetaData), 3, 0)); ok || err == nil || s.Header() != h {
		t.Errorf("broken metadata: %v, %v", ok, err)
	}
}

func TestT49_NoConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		track  media.Track
		config string
		frame  string
	}{
		"AVC":  {media.Video, "17 00 000000 01", "17 01 000000 01"},
		"HEVC": {media.Video, "90" + hvc1 + "01", "93" + hvc1 + "01"},
		"AV1":  {media.Video, "90" + av01 + "01", "91" + av01 + "01"},
		"AAC":  {media.Audio, "af 00 12", "af 01 12"},
	} {
		var s State
		if _, ok, err := s.Push(c.track, 0, unhex(c.frame)); ok || !errors.Is(err, ErrNoConfig) {
			t.Errorf("%s without configuration: %v, %v", name, ok, err)
		}
		if _, _, err := s.Push(c.track, 0, unhex(c.config)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok, err := s.Push(c.track, 0, unhex(c.frame)); !ok || err != nil {
			t.Errorf("%s with configuration: %v, %v", name, ok, err)
		}
	}
	// One codec's configuration is no use to another.
	var s State
	if _, _, err := s.Push(media.Video, 0, avcConfig); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Push(media.Video, 0, unhex("93"+hvc1)); !errors.Is(err, ErrNoConfig) {
		t.Errorf("HEVC behind an AVC configuration: %v", err)
	}
}
