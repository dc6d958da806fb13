// Recorded media between nodes: they cross once.

package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/pipeline/api"
)

// shoot writes a film of so many frames as FLV (E.2 to E.4.1 of the specification, version 10.1),
// and returns its size.
func shoot(t *testing.T, path string, frames, size int) int64 {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	w.Write([]byte{'F', 'L', 'V', 1, 1, 0, 0, 0, 9, 0, 0, 0, 0})
	tag := func(at time.Duration, body []byte) {
		n, ms := len(body), uint32(at.Milliseconds())
		w.Write([]byte{byte(media.Video), byte(n >> 16), byte(n >> 8), byte(n), byte(ms >> 16), byte(ms >> 8), byte(ms), byte(ms >> 24), 0, 0, 0})
		w.Write(body)
		w.Write(binary.BigEndian.AppendUint32(nil, uint32(11+n)))
	}
	tag(0, config)
	for n := range frames {
		tag(time.Duration(n)*span, body('f', n, size, time.Time{}))
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// recorded checks that a file has frames of one publisher and of no other, at least so many without a gap.
func recorded(path string, by byte, least int) error {
	p, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const fileHead, tagHead, tagEnd = 13, 11, 4
	frames := 0
	for p = p[min(fileHead, len(p)):]; len(p) > tagHead; {
		size := int(p[1])<<16 | int(p[2])<<8 | int(p[3])
		if len(p) < tagHead+size+tagEnd {
			return fmt.Errorf("%s: ends in the middle of a tag", path)
		}
		m := rtmp.Message{Kind: rtmp.KindMedia, Track: media.Track(p[0]), Body: p[tagHead : tagHead+size]}
		p = p[tagHead+size+tagEnd:]
		f, ok, err := read(m)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		case !ok:
		case f.by != by || f.n != frames:
			return fmt.Errorf("%s: frame %c%d in the place of %c%d", path, f.by, f.n, by, frames)
		default:
			frames++
		}
	}
	if frames < least {
		return fmt.Errorf("%s: has %d frames, want at least %d", path, frames, least)
	}
	return nil
}

// download plays a film to its end as fast as it goes and checks each frame.
func (n *node) download(name string, frames int) error {
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	c, err := rtmp.Dial(ctx, n.url("vod"))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Play(ctx, name, 0, -1, true); err != nil {
		return err
	}
	if err := c.SetBuffer(time.Hour); err != nil {
		return err
	}
	for next := 0; ; {
		m, err := c.Next(ctx)
		if err != nil {
			return fmt.Errorf("after %d frames: %w", next, err)
		}
		if m.Kind == rtmp.KindStatus && m.Status.Code == "NetStream.Play.Stop" {
			if next != frames {
				return fmt.Errorf("it ends after %d of %d frames", next, frames)
			}
			return nil
		}
		f, ok, err := read(m)
		switch {
		case err != nil:
			return err
		case !ok:
		case f.n != next:
			return fmt.Errorf("frame %d in the place of %d", f.n, next)
		default:
			next++
		}
	}
}

// TestFilmCrossesOnce has a film on one node's disk watched a hundred times on another,
// and then on a third.
func TestFilmCrossesOnce(t *testing.T) {
	t.Parallel()
	const frames, size, viewers = 1500, 10_000, 100 // a minute of 2 Mbit/s
	_, nodes := service(t, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	file := shoot(t, a.path("media", "film.flv"), frames, size)
	fromA, fromB := a.listen(false), b.listen(false)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			for range viewers / 5 {
				if err := b.download("film", frames); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	once := fromA.port(mediaPort).payload
	if once < file*9/10 || once > file*105/100 {
		t.Errorf("%d viewers on %s: %d bytes came from %s, want those of the film once, %d", viewers, b.name, once, a.name, file)
	}

	// C has the choice between A's disk and B's memory.
	a.busy(0.5)
	c.believes(a, 0.5)
	var told api.Explanation
	if err := c.get("/api/explain?name=vod/film", &told); err != nil {
		t.Fatal(err)
	}
	costs := map[string]float64{}
	chosen := ""
	for _, candidate := range told.Candidates {
		costs[candidate.Cost.Node] = candidate.Total
		if candidate.Chosen {
			chosen = candidate.Cost.Node
		}
	}
	fmt.Printf("\n%s\n", c.mediad("explain", "vod/film"))
	if chosen != b.name || costs[b.name] >= costs[a.name] {
		t.Errorf("%s chooses %q among %+v, want %s's memory", c.name, chosen, told.Candidates, b.name)
	}
	if out := c.mediad("explain", "vod/film"); !strings.Contains(out, a.name) || !strings.Contains(out, b.name) {
		t.Errorf("mediad explain names not both nodes:\n%s", out)
	}
	before := fromB.port(mediaPort).payload
	if err := c.download("film", frames); err != nil {
		t.Error(err)
	}
	again, cached := fromA.port(mediaPort).payload-once, fromB.port(mediaPort).payload-before
	if again > file/100 || cached < file*9/10 {
		t.Errorf("%s took %d bytes from %s's disk and %d from %s's memory", c.name, again, a.name, cached, b.name)
	}
	figure(t, "A film between nodes", fmt.Sprintf("a film of %.1f MB on n1's disk", float64(file)/1e6), [][]string{
		{"", "MB"},
		{fmt.Sprintf("from n1 to n2, for %d viewers there", viewers), fmt.Sprintf("%.1f", float64(once)/1e6)},
		{"then from n2's memory to n3, for a viewer there", fmt.Sprintf("%.1f", float64(cached)/1e6)},
		{"from n1's disk to n3", fmt.Sprintf("%.1f", float64(again)/1e6)},
	})
}
