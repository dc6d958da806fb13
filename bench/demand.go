// On demand: many viewers at random places of many films.

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mediad/mediad/core/amf"
)

const (
	films        = 50
	filmDuration = 90 * time.Second
	watchers     = 200
	asap         = 10 * time.Hour // the buffer of who downloads, as rtmpdump says it
)

// demandContenders are compared with both others.
var demandContenders = []struct {
	contender
	address, path string
}{
	{contender{"nginx over HTTP", "", startNginx}, httpAddress, "/"},
	{contender{"nginx-rtmp", "", startNginx}, rtmpAddress, ""},
	{contender{"mediad", "", mediad("")}, rtmpAddress, ""},
}

// demand measures playing at the pace of the films and as fast as can be, of films
// that were not read before and that were.
func (b *bench) demand(ctx context.Context) error {
	if err := b.shootAll(); err != nil {
		return err
	}
	for _, paced := range []bool{true, false} {
		for _, warm := range []bool{false, true} {
			fmt.Printf("\nOn demand, %d viewers of %d films of 2.1 Mbit/s, %s, %s\n\n", watchers, films,
				map[bool]string{true: "paced", false: "as fast as they can"}[paced], map[bool]string{true: "warm", false: "cold"}[warm])
			fmt.Println("| server | CPU s/GB | of nginx-rtmp's | of nginx's over HTTP | missing | read from disk per byte | hits of the cache | resident MB | GB |")
			fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
			if err := b.demandOnce(ctx, paced, warm); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) demandOnce(ctx context.Context, paced, warm bool) error {
	lines := map[string]line{}
	for _, c := range demandContenders {
		if !b.wanted(c.name) {
			continue
		}
		j := job{Address: c.address, App: "vod", Path: c.path, Viewers: watchers, Films: films}
		if paced {
			j.Time = b.time
			if c.path != "" {
				j.Path += "paced/"
			}
		} else {
			j.Buffer = asap
		}
		jobs := []job{j}
		if warm {
			all := job{Address: c.address, App: "vod", Path: c.path, Viewers: films, Films: films, FromStart: true, Buffer: asap}
			jobs = []job{all, j}
		}
		if paced && warm {
			jobs[1].Warm = 8 * time.Second
		}
		if err := b.forget(); err != nil {
			return err
		}
		var hits, misses, hit, missed float64 // in all, and in the last job
		l, err := b.measure(ctx, c.contender, look{at: func(s *server) {
			h := s.metric(ctx, "mediad_cache_hits_total")
			m := s.metric(ctx, "mediad_cache_misses_total") + s.metric(ctx, "mediad_cache_coalesced_total")
			hit, missed, hits, misses = h-hits, m-misses, h, m
		}}, jobs...)
		if err != nil {
			return err
		}
		lines[c.name] = l
		rate := ""
		if hit > 0 {
			rate = fmt.Sprintf("%.0f %%", 100*hit/(hit+missed))
		}
		fmt.Printf("| %s | %.3f | %s | %s | %d | %.2f | %s | %.0f | %.2f |\n", c.name, l.cpu, ratio(l, lines["nginx-rtmp"]), ratio(l, lines["nginx over HTTP"]),
			l.Missing+int64(l.Lost), l.diskReads/float64(l.Bytes), rate, l.resident, l.gigabytes())
	}
	return nil
}

func (b *bench) film(n int) string {
	return filepath.Join(b.dir, "media", fmt.Sprintf("film%d.flv", n))
}

func (b *bench) shootAll() error {
	for n := range films {
		if err := shoot(b.film(n)); err != nil {
			return err
		}
	}
	return nil
}

// forget has the kernel drop what it keeps of the films.
func (b *bench) forget() error {
	for n := range films {
		if err := drop(b.film(n)); err != nil {
			return err
		}
	}
	return nil
}

func drop(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()                  //nolint:errcheck
	if err := f.Sync(); err != nil { // what is dirty is not dropped
		return err
	}
	return dontNeed(f.Fd())
}

// shoot writes a film as FLV (E.2 to E.4.1 of the specification, version 10.1), with
// a table of its keyframes as recorders write it.
func shoot(path string) error {
	var tags bytes.Buffer
	tag := func(kind byte, at time.Duration, body []byte) {
		n, ms := len(body), uint32(at.Milliseconds())
		_, _ = tags.Write([]byte{kind, byte(n >> 16), byte(n >> 8), byte(n), byte(ms >> 16), byte(ms >> 8), byte(ms), byte(ms >> 24), 0, 0, 0})
		_, _ = tags.Write(body)
		_, _ = tags.Write(binary.BigEndian.AppendUint32(nil, uint32(11+n)))
	}
	tag(typeVideo, 0, videoConfig)
	tag(typeAudio, 0, audioConfig)
	var times, places amf.Array
	for m := newFilm(); ; {
		kind, at, body := m.next()
		if at > filmDuration {
			break
		}
		mark(kind, body)
		if kind == typeVideo && body[0] == 0x17 {
			times, places = append(times, at.Seconds()), append(places, float64(tags.Len()))
		}
		tag(kind, at, body)
	}
	rest := bytes.Clone(tags.Bytes())
	meta := func() []byte {
		tags.Reset()
		tag(typeData, 0, amf.Append(nil, "onMetaData", amf.ECMAArray{
			{Key: "duration", Value: filmDuration.Seconds()},
			{Key: "keyframes", Value: amf.Object{{Key: "times", Value: times}, {Key: "filepositions", Value: places}}},
		}))
		return tags.Bytes()
	}
	header := []byte{'F', 'L', 'V', 1, 5, 0, 0, 0, 9, 0, 0, 0, 0}
	before := len(header) + len(meta())
	for i := range places {
		places[i] = places[i].(float64) + float64(before)
	}
	return os.WriteFile(path, slices.Concat(header, meta(), rest), 0o644)
}
