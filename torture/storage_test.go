// Numbers 55 to 58: what is recorded, and onto what. Disks that are slow or broken are
// real ones, under a writer whose system calls strace delays or fails.

package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/e2e/lab"
)

// small records onto a disk of 4 MiB too, in files of a second, and in a process.
const small = `
  small:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 24h, channels: [full-*]}
    - use: writer-disk
      with: {root: ./small}
  small-apart:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 24h, channels: [full-*]}
    - use: writer-disk
      run: process
      with: {root: ./small/apart}
  rotated:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 1s, channels: [healthy, load]}
    - use: writer-disk
      with: {root: ./rotated}
  broken:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 24h, channels: [broken-*]}
    - use: writer-disk
      run: process
      with: {root: ./broken}
`

func TestTorments_Storage(t *testing.T) {
	t.Parallel()
	h := open(t, small, func(d *lab.Daemon) { d.MountFor(t, "small", "4m") })
	for _, stage := range []string{failing, "small-apart/writer-disk"} {
		h.plugin(t, stage)
	}
	h.suffer(t, []ordeal{
		{55, "DiskFull", diskFull, "no space left", `mediad_writer_disk_errors_total{cause="full"}`, false},
		{56, "SlowSync", slowSync, slowDisk, `mediad_writer_disk_slow_syncs_total{pipeline="broken"}`, false},
		{56, "WriteFails", diskFails("pwrite64", "10..14"), brokenDisk, `mediad_archiver_lost_frames_total{cause="writer",pipeline="broken"}`, false},
		{56, "SyncFails", diskFails("fsync", "2"), brokenDisk, `mediad_archiver_lost_frames_total{cause="writer",pipeline="broken"}`, false},
		{58, "RotationUnderLoad", rotationUnderLoad, "", "", false},
	})
	h.rotated(t, "healthy", h.publisher.Sent())
}

const failing = "broken/writer-disk"

// inject has strace tamper with the system calls of the writer's process until stop.
func (h *house) inject(t *testing.T, what string) (stop func()) {
	t.Helper()
	pid := h.plugin(t, failing)
	var told lab.Log
	cmd := exec.Command("strace", "-f", "-o", "/dev/null", "-e", "inject="+what, "-p", fmt.Sprint(pid)) //nolint:noctx // it is ended by stop
	cmd.Stderr = &told
	must(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it lets go of the process
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	must(t, lab.Eventually(20*time.Second, func() error {
		if !strings.Contains(told.Tail(100), "attached") {
			return errors.New("strace has not attached: " + told.Tail(100))
		}
		return nil
	}))
	return stop
}

// slowSync lets each fsync take three seconds: the recording goes on, and has all frames.
func slowSync(t *testing.T, h *house) {
	channel := h.fresh("broken-")
	p, err := h.Publish(lab.Publication{Path: "live/" + channel, Size: 2000})
	must(t, err)
	v, err := h.Watch("live/" + channel)
	must(t, err)
	must(t, v.Until(10, 20*time.Second))
	stop := h.inject(t, "fsync:delay_enter=3000000")
	lag, written, from := 0.0, h.count(t, broken("bytes_total")), v.Seen()
	must(t, lab.Eventually(30*time.Second, func() error {
		lag = max(lag, h.count(t, broken("sync_lag_seconds")))
		if v.Seen() < from+150 {
			return fmt.Errorf("the viewer has seen frame %d", v.Seen())
		}
		return v.Err()
	}))
	if n := h.count(t, broken("bytes_total")) - written; n < 100*2000 {
		t.Errorf("%v bytes were written meanwhile", n)
	}
	if lag < 2 {
		t.Errorf("what is not on the disk yet has waited for %v s, it is said", lag)
	}
	stop()
	must(t, errors.Join(v.Close(), p.Close()))
	if n := recorded(t, h.recordings(t, "broken", channel, 1)[0], 0); n != p.Sent() {
		t.Errorf("%d frames are recorded, %d were sent", n, p.Sent())
	}
	t.Logf("saw: %d frames recorded of %d, %.1f s behind; ", p.Sent(), p.Sent(), lag)
}

// brokenDisk is logged of a disk that fails, and of a file that could not be finished
// until the writer is started again.
const brokenDisk = "recording has failed|could not be finished|failed and is started again"

// broken is a metric of the writer's in its process.
func broken(metric string) string { return "mediad_writer_disk_" + metric + `{pipeline="broken"}` }

// diskFails lets some system calls fail: the recording goes on in another file, and
// what is missing is counted to the frame. The file that failed is repaired at the next start.
func diskFails(call, when string) func(*testing.T, *house) {
	return func(t *testing.T, h *house) {
		written := h.written(t, "broken")
		channel := h.fresh("broken-")
		p, err := h.Publish(lab.Publication{Path: "live/" + channel, Size: 2000})
		must(t, err)
		v, err := h.Watch("live/" + channel)
		must(t, err)
		must(t, v.Until(10, 20*time.Second))
		const lost, errorsOfDisk = `mediad_archiver_lost_frames_total{pipeline="broken"}`, `mediad_writer_disk_errors_total{cause="io",pipeline="broken"}`
		lostBefore, failed := h.count(t, lost), h.count(t, errorsOfDisk)
		stop := h.inject(t, call+":error=EIO:when="+when)
		must(t, lab.Eventually(20*time.Second, func() error {
			if h.count(t, errorsOfDisk) == failed {
				return errors.New("it has not failed")
			}
			return v.Err()
		}))
		stop()
		must(t, v.Until(p.Sent()+3*lab.GOP, 20*time.Second)) // it waits for a second and a keyframe
		must(t, errors.Join(v.Close(), p.Close()))
		h.recordedAll(t, "broken", written+2*p.Sent())
		missing := int(h.count(t, lost) - lostBefore)
		h.kill(t, failing)
		frames := 0
		for i, file := range h.recordings(t, "broken", channel, 2) {
			n := inFile(t, file)
			if n == 0 {
				t.Errorf("file %d has no frame", i)
			}
			frames += n
		}
		if frames+missing != 2*p.Sent() || missing == 0 || missing > 2*5*lab.GOP {
			t.Errorf("%d frames are recorded and %d counted as lost, of %d", frames, missing, 2*p.Sent())
		}
		t.Logf("saw: %d frames recorded and %d counted as lost, of %d; ", frames, missing, 2*p.Sent())
	}
}

// inFile counts the frames of both tracks of a recording.
func inFile(t *testing.T, path string) (frames int) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	x, err := flv.ReadIndex(t.Context(), lab.File{File: f})
	must(t, err)
	for batch := x.Batches(lab.File{File: f}, 0); ; {
		b, err := batch(t.Context())
		if errors.Is(err, io.EOF) {
			return frames
		}
		must(t, err)
		frames += len(b.Frames())
	}
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
	must(t, lab.Eventually(20*time.Second, func() error {
		files, err := filepath.Glob(h.Path("rotated", "load", "*", "*.flv"))
		must(t, err)
		frames := 0
		for _, file := range files {
			if ok, err := lab.Finished(file); !ok || err != nil {
				return fmt.Errorf("%s is not finished: %w", file, err)
			}
			frames += inFile(t, file)
		}
		if frames < 2*p.Sent() { // another file is to come
			return fmt.Errorf("%d frames of %d are recorded", frames, 2*p.Sent())
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
	for _, pipeline := range []string{"small", "small-apart"} {
		lost := `mediad_archiver_lost_frames_total{cause="full",pipeline="` + pipeline + `"}`
		must(t, lab.Eventually(20*time.Second, func() error {
			if h.count(t, lost) == 0 {
				return fmt.Errorf("%s is 0", lost)
			}
			return nil
		}))
	}
	files := `mediad_archiver_files_total{pipeline="small"}`
	before := h.count(t, files)
	must(t, os.RemoveAll(h.Path("small", "full-disk")))
	must(t, lab.Eventually(20*time.Second, func() error {
		if h.count(t, files) == before {
			return errors.New("recording does not go on")
		}
		return nil
	}))
	must(t, v.Until(p.Sent(), 20*time.Second))
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
	d := lab.Start(t, filepath.Join(binaries, "mediad"), healthy)
	lost := 0
	for i := range times {
		name := fmt.Sprintf("kept-%d", i)
		p, err := d.Publish(lab.Publication{Path: "live/" + name, Size: 2000})
		must(t, err)
		v, err := d.Watch("live/" + name)
		must(t, err)
		recordings := func() []string {
			files, err := filepath.Glob(d.Path("recordings", name, "*", "*.flv"))
			must(t, err)
			return files
		}
		must(t, lab.Eventually(20*time.Second, func() error {
			if len(recordings()) == 0 {
				return errors.New("nothing is recorded")
			}
			return nil
		}))
		must(t, v.Until(10+rand.IntN(40), 20*time.Second)) // a random point
		seen := v.Seen() + 1
		d.Kill()
		p.Drop()
		_ = v.Close()
		must(t, d.Start())
		files := recordings()
		if len(files) != 1 {
			t.Fatalf("recordings: %v", files)
		}
		must(t, lab.Eventually(20*time.Second, func() error {
			if ok, err := lab.Finished(files[0]); !ok {
				return fmt.Errorf("%s is not repaired: %w", files[0], err)
			}
			return nil
		}))
		n := recorded(t, files[0], 0)
		if n < seen-lab.GOP {
			t.Errorf("%d frames were seen before the kill, %d are recorded", seen, n)
		}
		lost = max(lost, seen-n)
	}
	t.Logf("saw: %d kills, at most %d frames of those seen are not recorded", times, lost)
}
