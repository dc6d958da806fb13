// Numbers 35 to 42: stages in processes of their own.

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
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
			if _, err := fmt.Sscan(rest, &pid); err != nil || slices.Contains(list, pid) {
				return pid, err
			}
			break
		}
	}
	return 0, fmt.Errorf("%s does not run", stage)
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
		must(t, v.Until(25*(i+1), 10*time.Second))
		must(t, syscall.Kill(h.plugin(t, reader), syscall.SIGKILL))
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
	for range 2 {
		must(t, syscall.Kill(h.plugin(t, "asked/reader-disk"), syscall.SIGKILL))
	}
	h.plugin(t, "asked/reader-disk")
	close(over)
	everybody.Wait()
}

// writerKilled kills the writer while a channel is recorded: the recording goes on in
// the same file, and has all frames.
func writerKilled(t *testing.T, h *house) {
	channel := h.fresh("apart-")
	p, err := h.Publish(lab.Publication{Path: "live/" + channel, Size: 2000})
	must(t, err)
	v, err := h.Watch("live/" + channel)
	must(t, err)
	for i := range 3 {
		must(t, v.Until(25*(i+1), 10*time.Second))
		must(t, syscall.Kill(h.plugin(t, writer), syscall.SIGKILL))
	}
	h.plugin(t, writer)
	must(t, v.Until(100, 10*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
	files := h.recordings(t, "apart", channel, 1)
	if n := recorded(t, files[0], 0); n != p.Sent() {
		t.Errorf("%d frames are recorded, %d were sent", n, p.Sent())
	}
}

// hangs stops the process, which is killed for it.
func hangs(t *testing.T, h *house) {
	pid := h.plugin(t, reader)
	v := h.long(t)
	must(t, v.Until(10, 10*time.Second))
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
	must(t, v.Until(25, 10*time.Second))
	writer := h.plugin(t, "lossy-archive/writer-disk")
	must(t, syscall.Kill(writer, syscall.SIGSTOP))
	must(t, v.Until(125, 10*time.Second)) // 4 s later
	must(t, syscall.Kill(writer, syscall.SIGCONT))
	must(t, v.Until(175, 10*time.Second))
	must(t, errors.Join(v.Close(), p.Close()))
	if h.plugin(t, "lossy-archive/writer-disk") != writer {
		t.Error("the writer was replaced")
	}
}

// A plugin that ends whenever it is started is started again less and less often, five
// times in a minute, by a stage that is made again as often. Then it is given up, and
// nothing else with it.
func TestT35_PluginKilledAtStart(t *testing.T) {
	t.Parallel()
	if !all {
		return // it leaves the stage behind for good, and takes a daemon of its own
	}
	h := open(t, apart)
	degraded := false
	killed := map[int]bool{}
	must(t, lab.Eventually(3*time.Minute, func() error {
		if pid, err := h.running(reader); err == nil && !killed[pid] {
			killed[pid] = true
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		text, err := h.Get("/healthz")
		switch {
		case err == nil:
			degraded = degraded || strings.Contains(string(text), "degraded") && strings.Contains(string(text), reader)
		case strings.Contains(err.Error(), reader) && strings.Contains(err.Error(), "failing"):
			return nil
		}
		return errors.New("it is started again and again")
	}))
	if log := strings.Join(h.Log.From(0), "\n"); !degraded || !strings.Contains(log, "5 failures within 1m0s") || !strings.Contains(log, "has failed 5 times within 1m0s") {
		t.Errorf("after %d starts it is given up; /healthz was degraded: %v", len(killed), degraded)
	}
	var refused *rtmp.StatusError
	if _, err := h.play(t.Context(), "apart/healthy.flv"); !errors.As(err, &refused) || refused.Code != "NetConnection.Connect.InvalidApp" {
		t.Errorf("who plays from it gets %v", err)
	}
	t.Logf("saw: given up after %d starts, /healthz names it, no frame of others missing", len(killed))
	var exit *exec.ExitError
	if err := h.leave(t); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the daemon, a stage of which has failed, exits with %v", err)
	}
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
	must(t, lab.Eventually(2*time.Second, func() error {
		for _, pid := range plugins {
			if alive(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
		}
		return nil
	}))
	t.Logf("saw: %d plugins gone after %v", len(plugins), time.Since(began).Round(time.Millisecond))
}
