// Frames that carry numbers, and a film of them.

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
)

// Step is the time between two frames of a track, GOP how many there are from
// one keyframe to the next. The numbers of a publication begin at a multiple of Epoch, so
// that one that takes the place of another is known.
const (
	Step  = 40 * time.Millisecond
	GOP   = 25
	Epoch = 100_000
)

// The codec configurations of all that is published here.
var (
	VideoConfig = []byte("\x17\x00\x00\x00\x00\x01\x64\x00\x1e\xff\xe1\x00\x00\x01\x00\x00")
	AudioConfig = []byte("\xaf\x00\x12\x10")
)

var header = &media.Header{
	Video: media.Format{Codec: "h264", Config: VideoConfig},
	Audio: media.Format{Codec: "aac", Config: AudioConfig},
}

// Video is the body of the nth frame of a video track, padded to a size.
func Video(n, size int) []byte {
	head := "\x27\x01\x00\x00\x00"
	if n%GOP == 0 {
		head = "\x17\x01\x00\x00\x00"
	}
	return padded(fmt.Appendf([]byte(head), "%08d", n), size)
}

// Audio is the same of an audio track.
func Audio(n, size int) []byte { return padded(fmt.Appendf([]byte("\xaf\x01"), "%08d", n), size) }

func padded(body []byte, size int) []byte {
	return append(body, make([]byte, max(0, size-len(body)))...)
}

// Number is the number that a body carries; none for a configuration.
func Number(t media.Track, body []byte) (n int, ok bool) {
	p, err := flv.ParsePacket(t, body)
	at := map[media.Track]int{media.Video: 5, media.Audio: 2}[t]
	if err != nil || p.Kind != flv.Coded || len(body) < at+8 {
		return 0, false
	}
	_, err = fmt.Sscanf(string(body[at:at+8]), "%d", &n)
	return n, err == nil
}

// Film is an FLV file of so many frames on each track, the first with a number that
// is a multiple of GOP.
func Film(first, frames, size int) ([]byte, error) {
	var file bytes.Buffer
	w := flv.NewWriter(&file, 0)
	b := media.NewBuilder(media.NoClock)
	for i := range frames {
		if i%GOP == 0 && i > 0 {
			if err := w.Write(b.Batch(header)); err != nil {
				return nil, err
			}
		}
		n, at := first+i, time.Duration(i)*Step
		b.Copy(media.Frame{Track: media.Video, Key: n%GOP == 0, DTS: at, PTS: at, Body: Video(n, size)})
		b.Copy(media.Frame{Track: media.Audio, DTS: at, PTS: at, Body: Audio(n, 100)})
	}
	err := w.Write(b.Batch(header))
	return file.Bytes(), err
}

// WriteFilm makes a film in a file, from frame 0 on.
func WriteFilm(path string, frames, size int) error {
	film, err := Film(0, frames, size)
	if err != nil {
		return err
	}
	return os.WriteFile(path, film, 0o644)
}

// A File is a file as media.File.
type File struct{ *os.File }

// ReadAt reads.
func (f File) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return f.File.ReadAt(p, off)
}

// Size is the size of the file, 0 when it is not known.
func (f File) Size() int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// Finished says whether a recording was finished.
func Finished(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return flv.Finished(f)
}
