package web

import (
	"bytes"
	"testing"

	"github.com/mediad/mediad/core/media"
)

func TestHeadSize(t *testing.T) {
	for _, c := range []struct {
		kind media.Track
		body string
		want int
	}{
		{media.Video, "\x17\x01\x00\x00\x00X", 5},
		{media.Video, "\x17", 1},
		{media.Audio, "\xaf\x01X", 2},
		{media.Video, "\x91hvc1\x00\x00\x00X", 8},
		{media.Video, "\x93hvc1X", 5},
		{media.Video, "\x91av01X", 5},
		{media.Audio, "\x91OpusX", 5},
		{media.Video, "\x97\x02nnn\x01hvc1\x00\x00\x00X", 13}, // ModEx before frames
		{media.Video, "\x96\x01hvc1\x00\x00\x00\x00X", 10},    // the only track of multitrack
		{media.Video, "\x96\x11hvc1\x00\x00\x00\x01X", 11},    // one of several: all
		{media.Video, "\x91hv", 3},
		{media.Audio, "", 0},
	} {
		if got := headSize(c.kind, []byte(c.body)); got != c.want {
			t.Errorf("%q: %d, want %d", c.body, got, c.want)
		}
	}
}

// FuzzTracks makes tracks of any configuration, and samples of any body.
func FuzzTracks(f *testing.F) {
	h := sampleFilm(f)[0].Header()
	f.Add(h.Video.Config, h.Audio.Config, []byte("\x17\x01\x00\x00\x00\x00\x00\x00\x01\x65"))
	f.Add([]byte("\x90hvc1"), []byte("\x90OpusOpusHead\x01\x02\x00\x00\x80\xbb\x00\x00\x00\x00\x00"), []byte("\x91hvc1\x00\x00\x00"))
	f.Add([]byte("\x90av01\x81\x00\x0c\x00\x0a\x0b\x00\x00\x00\x04\x3c\xff\xbc\xff\xf9\x80\x40"), []byte("\x90mp4a\x12\x10"), []byte("\x91av01\x12\x00"))
	f.Fuzz(func(t *testing.T, video, audio, body []byte) {
		for _, codec := range []string{"h264", "hevc", "av1"} {
			for _, sound := range []string{"aac", "opus"} {
				h := &media.Header{Video: media.Format{Codec: codec, Config: video}, Audio: media.Format{Codec: sound, Config: audio}}
				tracks, _, err := tracksOf(h)
				if err != nil {
					continue
				}
				var tables []*table
				for _, track := range tracks {
					tables = append(tables, &table{track: track})
					track.hlsCodec()
					for _, kind := range []media.Track{media.Audio, media.Video} {
						data, ok := track.sample(media.Frame{Track: kind, Body: body})
						if ok && !bytes.HasSuffix(body, data) {
							t.Fatalf("sample %x of %x", data, body)
						}
						if ok && track.lengthSize > 0 {
							track.units(data)
						}
					}
				}
				movie(tables, 0)
			}
		}
	})
}
