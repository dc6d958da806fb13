// On demand: many viewers at random places of a few films.

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	films        = 10
	filmDuration = 90 * time.Second
	watchers     = 200
)

var demandContenders = []contender{
	{name: "nginx-rtmp", floor: "nginx-rtmp", start: startNginx},
	{name: "mediad", floor: "nginx-rtmp", start: mediad("")},
}

// demand measures paced playing, once the films are in memory.
func (b *bench) demand(ctx context.Context) error {
	for n := range films {
		if err := shoot(filepath.Join(b.dir, "media", fmt.Sprintf("film%d.flv", n))); err != nil {
			return err
		}
	}
	fmt.Printf("\nOn demand, %d viewers of %d films of 2.1 Mbit/s, paced, warm\n\n", watchers, films)
	fmt.Println("| server | CPU s/GB | of nginx-rtmp's | missing | read from disk per byte | resident MB | GB |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- |")
	lines := map[string]line{}
	for _, c := range demandContenders {
		if !b.wanted(c.name) {
			continue
		}
		l, err := b.measure(ctx, c, job{Address: rtmpAddress, App: "vod", Viewers: watchers, Warm: 8 * time.Second, Time: b.time, Films: films})
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		lines[c.name] = l
		fmt.Printf("| %s | %.3f | %s | %d | %.2f | %.0f | %.2f |\n", c.name, l.cpu, ratio(l, lines[c.floor]),
			l.Missing+int64(l.Lost), l.diskReads/float64(l.Bytes), l.resident, float64(l.Bytes)/1e9)
	}
	return nil
}

// shoot writes a film as FLV (E.2 to E.4.1 of the specification, version 10.1).
func shoot(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	_, _ = w.Write([]byte{'F', 'L', 'V', 1, 5, 0, 0, 0, 9, 0, 0, 0, 0})
	tag := func(kind byte, at time.Duration, body []byte) {
		n, ms := len(body), uint32(at.Milliseconds())
		_, _ = w.Write([]byte{kind, byte(n >> 16), byte(n >> 8), byte(n), byte(ms >> 16), byte(ms >> 8), byte(ms), byte(ms >> 24), 0, 0, 0})
		_, _ = w.Write(body)
		_, _ = w.Write(binary.BigEndian.AppendUint32(nil, uint32(11+n)))
	}
	tag(typeVideo, 0, videoConfig)
	tag(typeAudio, 0, audioConfig)
	for m := newFilm(); ; {
		kind, at, body := m.next()
		if at > filmDuration {
			break
		}
		mark(kind, body)
		tag(kind, at, body)
	}
	if err := w.Flush(); err != nil { // it keeps the errors of Write
		return err
	}
	return f.Close()
}
