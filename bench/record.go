// The way in: many publishers at once, and their recordings.

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// ingest measures 500 publishers whom nobody watches.
func (b *bench) ingest(ctx context.Context) error {
	return b.publishers(ctx, 500, bothLive, "")
}

// archive measures 50 publishers who are recorded.
func (b *bench) archive(ctx context.Context) error {
	return b.publishers(ctx, 50, []contender{
		{"nginx-rtmp", "", startNginxRecording},
		{"mediad", "", startArchive},
	}, ", recorded")
}

func (b *bench) publishers(ctx context.Context, n int, contenders []contender, how string) error {
	fmt.Printf("\nIngest: %d publishers of 2.1 Mbit/s at once%s\n\n", n, how)
	fmt.Println("| server | CPU s/GB | of nginx-rtmp's | lost | resident MB | GB published | on disk |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- |")
	lines := map[string]line{}
	for _, c := range contenders {
		if !b.wanted(c.name) {
			continue
		}
		recordings := filepath.Join(b.dir, "recordings")
		var first, last int64
		l, err := b.measure(ctx, c, look{often: true, at: func(*server) {
			if last = size(recordings); first == 0 {
				first = last
			}
		}}, job{Address: rtmpAddress, App: "live", Publishers: n, Warm: 3 * time.Second, Time: b.time})
		if err != nil {
			return err
		}
		lines[c.name] = l
		fmt.Printf("| %s | %.3f | %s | %d | %.0f | %.2f | %.2f |\n", c.name, l.cpu, ratio(l, lines["nginx-rtmp"]), l.Lost, l.resident, l.gigabytes(), float64(last-first)/1e9)
		if err := empty(recordings); err != nil {
			return err
		}
	}
	return nil
}

// size is how many bytes there are in the files of a folder.
func size(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil // it may be gone
		}
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

func empty(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o755)
}
