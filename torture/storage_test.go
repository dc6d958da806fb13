// Numbers 55 to 58: what is recorded, and onto what.

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/lab"
)

// small records onto a disk of 4 MiB too, and in files of a second.
const small = `
  small:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 24h, channels: [full-*]}
    - use: writer-disk
      with: {root: ./small}
  rotated:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 1s, channels: [healthy, load]}
    - use: writer-disk
      with: {root: ./rotated}
`

// smallDisk mounts the disk of 4 MiB.
func smallDisk(t *testing.T, d *lab.Daemon) {
	t.Helper()
	must(t, d.Mount("small", "4m"))
	t.Cleanup(func() { must(t, d.Unmount("small")) })
}

func TestTorments_Storage(t *testing.T) {
	t.Parallel()
	h := open(t, small, smallDisk)
	h.suffer(t, []ordeal{
		{55, "DiskFull", diskFull, "no space left", `mediad_writer_disk_errors_total{cause="full"}`, false},
		{58, "RotationUnderLoad", rotationUnderLoad, "", "", false},
	})
	h.rotated(t, "healthy", h.publisher.Sent())
}

// rotated checks that the files of a second have all frames of a channel, once.
func (h *house) rotated(t *testing.T, channel string, sent int) {
	t.Helper()
	files, err := filepath.Glob(h.Path("rotated", channel, "*", "*.flv"))
	must(t, err)
	next := 0
	for _, file := range files {
		next = recorded(t, file, next)
	}
	if next != sent || len(files) < sent/50 {
		t.Errorf("%d frames are in %d files, %d were sent", next, len(files), sent)
	}
}

// rotationUnderLoad records 2.5 MB a second for some seconds beside the healthy channel.
func rotationUnderLoad(t *testing.T, h *house) {
	p, err := h.Publish(lab.Publication{Path: "live/load", Size: 100_000})
	must(t, err)
	v, err := h.Watch("live/load")
	must(t, err)
	must(t, v.Until(100, 20*time.Second))
	must(t, p.Close())
	_ = v.Close() // it may have seen the end
	unfinished := func() bool {
		files, _ := filepath.Glob(h.Path("rotated", "load", "*", "*.flv"))
		for _, file := range files {
			if ok, err := lab.Finished(file); !ok || err != nil {
				return true
			}
		}
		return false
	}
	must(t, lab.Eventually(10*time.Second, func() error {
		if unfinished() {
			return errors.New("the last file is not finished")
		}
		return nil
	}))
	h.rotated(t, "load", p.Sent())
}

// diskFull records until there is no room, frees the disk and waits until it goes on.
func diskFull(t *testing.T, h *house) {
	p, err := h.Publish(lab.Publication{Path: "live/full-disk", Size: 200_000})
	must(t, err)
	v, err := h.Watch("live/full-disk")
	must(t, err)
	full := `mediad_writer_disk_errors_total{cause="full"}`
	files := `mediad_archiver_files_total{pipeline="small"}`
	errorsBefore, filesBefore := h.count(t, full), h.count(t, files)
	must(t, lab.Eventually(20*time.Second, func() error {
		if h.count(t, full) == errorsBefore {
			return errors.New("the disk is not full")
		}
		return nil
	}))
	must(t, os.RemoveAll(h.Path("small", "full-disk")))
	must(t, lab.Eventually(20*time.Second, func() error {
		if h.count(t, files) < filesBefore+2 {
			return errors.New("recording does not go on")
		}
		return nil
	}))
	must(t, v.Until(p.Sent(), 10*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
}

// The daemon is killed at random points of a recording. Each time all but the last
// second is there when it has started again.
func TestT57_Killed(t *testing.T) {
	t.Parallel()
	times := 2
	if all {
		times = 30 // the writer alone is killed a hundred times in its own package
	}
	d, err := lab.New(filepath.Join(binaries, "mediad"), t.TempDir(), healthy)
	must(t, err)
	must(t, d.Start())
	defer func() { must(t, d.Stop()) }()
	lost := 0
	for i := range times {
		name := fmt.Sprintf("kept-%d", i)
		p, err := d.Publish(lab.Publication{Path: "live/" + name, Size: 2000})
		must(t, err)
		time.Sleep(500*time.Millisecond + rand.N(1500*time.Millisecond)) // a random point
		sent := p.Sent()
		d.Kill()
		p.Drop()
		must(t, d.Start())
		var files []string
		must(t, lab.Eventually(20*time.Second, func() error {
			if files, err = filepath.Glob(d.Path("recordings", name, "*", "*.flv")); err != nil || len(files) != 1 {
				return fmt.Errorf("recordings: %v, %w", files, err)
			}
			if ok, err := lab.Finished(files[0]); !ok {
				return fmt.Errorf("%s is not repaired: %w", files[0], err)
			}
			return nil
		}))
		n := recorded(t, files[0], 0)
		if n < sent-lab.GOP {
			t.Errorf("%d frames were sent before the kill, %d are recorded", sent, n)
		}
		lost = max(lost, sent-n)
	}
	t.Logf("saw: %d kills, at most %d frames of those sent are not recorded", times, lost)
}
