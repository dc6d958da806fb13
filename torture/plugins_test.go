// Numbers 35 to 42: stages in processes of their own.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/e2e/lab"
)

// apart plays films from a reader in a process, and records a channel with a writer in one.
const apart = `
  apart:
    - use: reader-disk
      run: process
      with: {root: ./media}
    - use: stream
      with: {app: apart}
  asked:
    - use: reader-disk
      run: process
      with: {root: ./media}
    - use: broker
    - use: stream
      with: {app: asked}
  lossy:
    - use: ingest
      with: {app: lossy, linger: 0s}
    - use: broadcast
      with: {window: 1s}
    - use: stream
      with: {app: lossy}
  lossy-archive:
    - from: lossy/broadcast
    - use: archiver
      with: {rotate: 24h}
    - use: writer-disk
      run: process
      with: {root: ./lossy}
  kept-apart:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 24h, channels: [apart-*]}
    - use: writer-disk
      run: process
      with: {root: ./apart}
`

func TestTorments_Plugins(t *testing.T) {
	t.Parallel()
	h := open(t, apart)
	for _, stage := range []string{reader, "asked/reader-disk", "lossy-archive/writer-disk", writer} {
		h.plugin(t, stage)
	}
	h.suffer(t, []ordeal{
		{36, "KilledInTheMiddle", killedInTheMiddle, "failed and is started again", `mediad_plugin_resumes_total{pipeline="apart"}`, false},
		{36, "KilledWhileOpened", killedWhileOpened, "failed and is started again", `mediad_plugin_failures_total{pipeline="asked"}`, false},
		{36, "WriterKilled", writerKilled, "failed and is started again", `mediad_plugin_resumes_total{pipeline="kept-apart"}`, false},
		{37, "Hangs", hangs, "failed and is started again", `mediad_plugin_failures_total{pipeline="apart"}`, true},
		{38, "Garbage", garbage, "", "", false},
		{39, "WrongVersion", wrongVersion, "", "", false},
		{40, "MemoryHog", memoryHog, "hog", `mediad_plugin_failures_total{pipeline="hog"}`, true},
		{41, "Slow", slowWriter, "too slow", `mediad_archiver_lost_frames_total{cause="slow"}`, true},
	})
}

// plugin waits for the process of a stage.
func (h *house) plugin(t *testing.T, stage string) (pid int) {
	t.Helper()
	must(t, lab.Eventually(20*time.Second, func() (err error) {
		pid, err = h.running(stage)
		return err
	}))
	return pid
}

// running is the process of a stage that runs now.
func (h *house) running(stage string) (pid int, err error) {
	list, err := h.Plugins()
	if err != nil {
		return 0, lab.Final(err)
	}
	for _, line := range slices.Backward(h.Log.From(0)) {
		if _, rest, ok := strings.Cut(line, stage+": plugin started"); ok {
			_, rest, _ = strings.Cut(rest, "pid=")
			if _, err := fmt.Sscan(rest, &pid); err != nil || slices.Contains(list, pid) && alive(pid) {
				return pid, err
			}
			break
		}
	}
	return 0, fmt.Errorf("%s does not run", stage)
}

// kill kills the process of a stage.
func (h *house) kill(t *testing.T, stage string) {
	t.Helper()
	pid := h.plugin(t, stage)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	must(t, lab.Eventually(20*time.Second, func() error {
		if alive(pid) {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	}))
}

const reader, writer = "apart/reader-disk", "kept-apart/writer-disk"

// long plays a film from the process that is more than can be under way from there.
func (h *house) long(t *testing.T) *lab.Viewer {
	t.Helper()
	must(t, lab.WriteFilm(h.Path("media", "long.flv"), filmFrames, 60_000))
	v, err := h.Screen("apart/long.flv", filmFrames)
	must(t, err)
	return v
}

// toTheEnd waits until the film has come whole.
func toTheEnd(t *testing.T, v *lab.Viewer) {
	t.Helper()
	must(t, lab.Eventually(30*time.Second, func() error {
		if v.Plays() > 0 {
			return nil
		}
		if err := v.Err(); err != nil {
			return lab.Final(err)
		}
		return errors.New("the film has not come to its end")
	}))
	_ = v.Close()
}

// killedInTheMiddle kills the reader while a film is played from it.
func killedInTheMiddle(t *testing.T, h *house) {
	v := h.long(t)
	for i := range 2 {
		must(t, v.Until(25*(i+1), 20*time.Second))
		h.kill(t, reader)
	}
	toTheEnd(t, v)
	h.plugin(t, reader)
}

// killedWhileOpened kills the reader while viewers come one after another: each gets its film.
func killedWhileOpened(t *testing.T, h *house) {
	h.shelve(t, "short.flv", film(t, 25))
	var everybody sync.WaitGroup
	over := make(chan struct{})
	for range 8 {
		everybody.Go(func() {
			for {
				if got, err := h.play(t.Context(), "asked/short.flv"); err != nil || got.unbroken() != 25 {
					t.Errorf("%d frames of 25, then %s, %v", got.unbroken(), got.end, err)
				}
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	const plays = `mediad_stream_plays_total{pipeline="asked"}`
	for range 2 {
		h.kill(t, "asked/reader-disk")
		before := h.count(t, plays)
		must(t, lab.Eventually(20*time.Second, func() error { // those who were there may have opened twice
			if h.count(t, plays) < before+16 {
				return errors.New("nobody plays")
			}
			return nil
		}))
	}
	close(over)
	everybody.Wait()
}

// writerKilled kills the writer while a channel is recorded: the recording goes on in
// the same file, and has all frames.
func writerKilled(t *testing.T, h *house) {
	written := h.written(t, "kept-apart")
	channel := h.fresh("apart-")
	p, err := h.Publish(lab.Publication{Path: "live/" + channel, Size: 2000})
	must(t, err)
	v, err := h.Watch("live/" + channel)
	must(t, err)
	for i := range 3 {
		must(t, v.Until(25*(i+1), 20*time.Second))
		h.kill(t, writer)
	}
	must(t, v.Until(100, 20*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
	h.recordedAll(t, "kept-apart", written+2*p.Sent())
	files := h.recordings(t, "apart", channel, 1)
	if n := recorded(t, files[0], 0); n != p.Sent() {
		t.Errorf("%d frames are recorded, %d were sent", n, p.Sent())
	}
}

// written is how many frames an archiver has recorded or counted as lost.
func (h *house) written(t *testing.T, pipeline string) int {
	t.Helper()
	of := `{pipeline="` + pipeline + `"}`
	return int(h.count(t, "mediad_archiver_frames_total"+of) + h.count(t, "mediad_archiver_lost_frames_total"+of))
}

// recordedAll waits until an archiver is done with so many frames. Before that, a file may be
// finished which a writer that has started again has repaired, and which will be written on.
func (h *house) recordedAll(t *testing.T, pipeline string, frames int) {
	t.Helper()
	must(t, lab.Eventually(30*time.Second, func() error {
		if n := h.written(t, pipeline); n < frames {
			return fmt.Errorf("%d frames of %d are recorded or lost", n, frames)
		}
		return nil
	}))
}

// hangs stops the process, which is killed for it.
func hangs(t *testing.T, h *house) {
	pid := h.plugin(t, reader)
	v := h.long(t)
	must(t, v.Until(10, 20*time.Second))
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	must(t, lab.Eventually(30*time.Second, func() error {
		if alive(pid) {
			return errors.New("it was not killed")
		}
		return nil
	}))
	toTheEnd(t, v)
	h.plugin(t, reader)
}

// alive reports whether a process is there and no zombie, of which nobody has taken note.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// script makes an executable that is no stage, and checks that the daemon refuses a
// file that names it, with all of these words.
func (h *house) script(t *testing.T, name, text string, words ...string) {
	t.Helper()
	must(t, os.MkdirAll(h.Path("plugins.d"), 0o755))
	path := h.Path("plugins.d", name)
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	file := h.Path(name + ".yaml")
	must(t, os.WriteFile(file, []byte("version: 1\nlisten: {}\nplugins: {dir: ./plugins.d}\npipelines:\n  x:\n    - use: "+name+
		"\n    - use: stream\n      with: {app: x}\n"), 0o644))
	out, code := h.Command("check", "-c", file)
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("%q is missing in what is said:\n%s", word, out)
		}
	}
	if code != 2 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("saw: %s; ", strings.TrimSpace(strings.ReplaceAll(out, h.Dir, "")))
	must(t, os.Remove(path))
}

func garbage(t *testing.T, h *house) {
	h.script(t, "reader-noise", "echo this is no plugin; sleep 60", "plugins.d/reader-noise", "this is no plugin")
}

func wrongVersion(t *testing.T, h *house) {
	h.script(t, "reader-old", "echo '1|77|unix|/tmp/none|grpc'; sleep 60", "plugins.d/reader-old", "version 77")
}

// memoryHog adds a stage that may have less memory than it takes, and removes it again.
func memoryHog(t *testing.T, h *house) {
	reader := h.plugin(t, reader)
	hog := "\n  hog:\n    - use: reader-disk\n      run: process\n      memory: 8MiB\n      with: {root: ./media}\n    - use: stream\n      with: {app: hog}\n"
	must(t, h.Configure(healthy+apart+hog))
	must(t, h.Reload())
	t.Cleanup(func() {
		must(t, h.Configure(healthy+apart))
		must(t, h.Reload())
	})
	must(t, lab.Eventually(60*time.Second, func() error {
		if log := h.Log.Tail(50); !strings.Contains(log, "failures within") || !strings.Contains(log, "past its memory of 8MiB") {
			return errors.New("it is not given up")
		}
		return nil
	}))
	if h.plugin(t, "apart/reader-disk") != reader {
		t.Error("the other plugin has died too")
	}
}

// slowWriter stops the writer for longer than its channel keeps frames.
func slowWriter(t *testing.T, h *house) {
	p, err := h.Publish(lab.Publication{Path: "lossy/slow", Size: 20_000})
	must(t, err)
	v, err := h.Watch("lossy/slow")
	must(t, err)
	must(t, v.Until(25, 20*time.Second))
	writer := h.plugin(t, "lossy-archive/writer-disk")
	must(t, syscall.Kill(writer, syscall.SIGSTOP))
	must(t, v.Until(125, 20*time.Second)) // 4 s later
	must(t, syscall.Kill(writer, syscall.SIGCONT))
	must(t, v.Until(175, 20*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
	if h.plugin(t, "lossy-archive/writer-disk") != writer {
		t.Error("the writer was replaced")
	}
}

// crashing is a reader that ends whenever it is started, until it is mended: but not when
// it is asked what it is. It notes each start.
const crashing = `#!/bin/sh
echo start >>starts
[ $(wc -l <starts) = 1 ] || [ -e mended ] || { echo boom >&2; exit 7; }
exec %s plugin reader-disk
`

// A plugin that crashes at its start is started five times, less and less often, and then
// given up, with what needs it and nothing else. A reload begins again.
func TestT35_CrashesAtStart(t *testing.T) {
	t.Parallel()
	const folder = "plugins: {dir: ./plugins.d}\n"
	h := open(t, apart+folder, func(d *lab.Daemon) {
		must(t, os.Mkdir(d.Path("plugins.d"), 0o755))
		must(t, os.WriteFile(d.Path("plugins.d", "reader-crashing"), fmt.Appendf(nil, crashing, filepath.Join(binaries, "mediad")), 0o755))
	})
	starts := func() int {
		text, err := os.ReadFile(h.Path("starts"))
		must(t, err)
		return strings.Count(string(text), "start")
	}
	const stage = "crashing/reader-crashing"
	lines := h.Log.Len()
	must(t, h.Configure(healthy+apart+"  crashing:\n    - use: reader-crashing\n      with: {root: ./media}\n    - use: stream\n      with: {app: crashing}\n"+folder))
	must(t, h.Reload())
	degraded := false
	must(t, lab.Eventually(time.Minute, func() error {
		text, err := h.Get("/healthz")
		switch {
		case err == nil:
			degraded = degraded || strings.Contains(string(text), "degraded") && strings.Contains(string(text), stage)
		case strings.Contains(err.Error(), "failing") && strings.Contains(err.Error(), stage) && strings.Contains(err.Error(), "given up after 5 failures within 1m0s"):
			return nil
		}
		return fmt.Errorf("it is not given up: %s, %w", text, err)
	}))
	if !degraded {
		t.Error("/healthz was not degraded meanwhile")
	}
	must(t, h.viewers[0].Until(h.publisher.Sent()+3*lab.GOP, 20*time.Second)) // it is not made again after a second
	if n := starts(); n != 1+5 {
		t.Errorf("it was started %d times after it had told what it is", n-1)
	}
	for series, want := range map[string]float64{"mediad_plugin_starts_total": 5, "mediad_plugin_failures_total": 5, "mediad_plugin_given_up_total": 1, "mediad_stage_up": 0} {
		if n := h.count(t, series+`{pipeline="crashing"}`); n != want {
			t.Errorf("%s is %v, want %v", series, n, want)
		}
	}
	again, over := 0, 0
	for _, line := range h.troubles(lines) {
		switch {
		case strings.Contains(line, stage+": the plugin failed and is started again") && strings.Contains(line, "boom"):
			again++
		case strings.Contains(line, "the stage is not started again") && strings.Contains(line, "given up after 5 failures within 1m0s") && strings.Contains(line, "boom"):
			over++
		default:
			t.Errorf("this is logged too: %s", line)
		}
	}
	if again != 4 || over != 1 {
		t.Errorf("the log says %d times that it is started again, and %d times that it is not", again, over)
	}
	var refused *rtmp.StatusError
	if _, err := h.play(t.Context(), "crashing/healthy.flv"); !errors.As(err, &refused) || refused.Code != "NetConnection.Connect.InvalidApp" {
		t.Errorf("who plays from it gets %v", err)
	}
	h.unharmed(t)

	must(t, os.WriteFile(h.Path("mended"), nil, 0o644))
	must(t, h.Reload())
	if s := h.played(t, "crashing/healthy.flv"); s.unbroken() != filmFrames || starts() != 1+5+1 {
		t.Errorf("once it is mended it plays %d frames, %s, after %d starts", s.unbroken(), s.end, starts())
	}
	_, err := h.Get("/healthz")
	must(t, err)
	t.Log("saw: given up after 5 starts, /healthz names it, no frame of others missing; a reload starts it again")
	h.close(t)
}

func TestT42_DaemonKilled(t *testing.T) {
	t.Parallel()
	h := open(t, apart)
	h.plugin(t, reader)
	h.plugin(t, "lossy-archive/writer-disk")
	plugins, err := h.Plugins()
	must(t, err)
	h.Kill()
	began := time.Now()
	must(t, lab.Eventually(5*time.Second, func() error { // 2 s, and the race detector takes one at the end
		for _, pid := range plugins {
			if alive(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
		}
		return nil
	}))
	t.Logf("saw: %d plugins gone after %v", len(plugins), time.Since(began).Round(time.Millisecond))
}
