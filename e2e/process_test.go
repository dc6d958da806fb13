package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/lab"
)

// processes is live and on demand with every stage that can be in a process of
// its own.
const processes = `
  on-demand:
    - use: reader-disk
      run: process
      with: {root: ./media}
    - use: cache
      run: process
    - use: broker
      run: process
    - use: stream
      with: {app: vod}
  live:
    - use: ingest
      with: {app: live, linger: 2s}
    - use: broadcast
      run: process
      with: {wait: 20s}
    - use: stream
      with: {app: live}
  archive:
    - from: live/broadcast
    - use: archiver
      run: process
      with: {rotate: 3s}
    - use: writer-disk
      run: process
      with: {root: ./recordings}
`

func TestEveryStageInAProcessOfItsOwn(t *testing.T) {
	t.Parallel()
	film := film(t, 12, "flv")
	d := start(t, processes)
	d.shelve(film, "film.flv")
	lab.Await(t, "six plugins run", func() error { return atLeast(float64(len(d.plugins())), 6) })
	viewer := d.play("live/show", d.Path("live.flv"))
	onDemand := d.play("vod/film", d.Path("vod.flv"))
	d.plays(2)
	publisher := d.publish(film, "show")
	d.onAir("show") // the channels of another process are listed too
	for _, c := range []*lab.Program{publisher, viewer, onDemand} {
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", c.Name, err, &c.Out)
		}
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, codec := range []string{"video", "audio"} {
		want := packets(t, film, codec)
		expectRun(t, "live "+codec, packets(t, d.Path("live.flv"), codec), want, len(want))
		expectRun(t, "on demand "+codec, packets(t, d.Path("vod.flv"), codec), want, len(want))
		var recorded []string
		for _, file := range d.recordings("show") {
			recorded = append(recorded, hashes(packets(t, file, codec))...)
		}
		expectSame(t, "all recorded "+codec, recorded, hashes(want))
	}
}

// TestT36_ReaderKilledWhilePlaying kills the reader's process three times while a
// film is played.
func TestT36_ReaderKilledWhilePlaying(t *testing.T) {
	t.Parallel()
	film := film(t, 12, "flv")
	d := start(t, `
  on-demand:
    - use: reader-disk
      run: process
      with: {root: ./media}
    - use: stream
      with: {app: vod}
`)
	d.shelve(film, "film.flv")
	viewer := d.play("vod/film", d.Path("vod.flv"))
	killed := 0
	for range 3 {
		lab.Await(t, "another reader runs", func() error {
			for _, pid := range d.plugins() {
				if pid != killed {
					killed = pid
					return nil
				}
			}
			return errors.New("there is none")
		})
		time.Sleep(time.Second) // of the film
		if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := viewer.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", viewer.Name, err, &viewer.Out)
	}
	for _, codec := range []string{"video", "audio"} {
		want := packets(t, film, codec)
		expectRun(t, codec, packets(t, d.Path("vod.flv"), codec), want, len(want))
	}
}

func TestT42_NoPluginOutlivesItsDaemon(t *testing.T) {
	t.Parallel()
	d := start(t, processes)
	// A folder that is just being made when the daemon dies is removed by the next one.
	lab.Await(t, "six plugins run", func() error { return atLeast(float64(strings.Count(d.Log.String(), "plugin started")), 6) })
	plugins := d.plugins()
	d.Kill()
	lab.Await(t, "all plugins have ended", func() error {
		for _, pid := range plugins {
			if syscall.Kill(pid, 0) == nil {
				return fmt.Errorf("process %d lives", pid)
			}
		}
		return nil
	})
	left, err := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf("mediad-plugin-%d-*", d.PID())))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	lab.Must(t, d.Start()) // to be stopped at the end of the test
}
