package console

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/lab"
)

const everything = `drain: 1s
pipelines:
  on-demand:
    - use: reader-disk
      with: {root: ./media}
    - use: cache
      with: {memory: 64MiB}
    - use: broker
    - use: stream
      with: {app: vod}
  live:
    - use: ingest
      with: {app: live}
    - use: broadcast
      with: {window: 30s}
    - use: stream
      with: {app: live}
  archive:
    - from: live/broadcast
    - use: archiver
      with: {rotate: 1h}
    - use: writer-disk
      with: {root: ./recordings}
  fragile:
    - use: reader-disk
      run: process
      with: {root: ./recordings}
    - use: stream
      with: {app: recorded}
`

// TestConsole walks through the page as somebody who runs the daemon would.
func TestConsole(t *testing.T) {
	d := start(t, everything)
	b := open(t, d.url("/"))
	b.until(`document.getElementById('health').textContent === 'All 11 stages run'`)
	if text := b.text("#channels .empty"); !strings.HasPrefix(text, "No channel is on air") {
		t.Errorf("without channels it says %q", text)
	}

	t.Run("live", func(t *testing.T) {
		b.t = t
		d.publish("news/ünï")
		const play = `#channels button[data-path="/live/news/%C3%BCn%C3%AF"]`
		b.do(fmt.Sprintf("await page.locator('%s').click()", play))
		b.until(`document.querySelector('#channels tbody tr').innerText.includes('h264, aac')`)
		b.until(`/\d (k|M)bit\/s/.test(document.querySelector('#channels tbody tr').innerText)`)
		b.until(`document.getElementById('video').currentTime > 1`)
		expectPlaying(t, b)
		// The drawing says what passes: what is published, recorded and watched.
		b.until(`document.querySelectorAll('#drawing .flows').length >= 4`)
		b.until(`document.querySelector('[data-key="archive/archiver"] dl').innerText.includes('recording')`)
		b.shot("live")
	})

	t.Run("recording", func(t *testing.T) {
		b.t = t
		b.do(`await page.locator('#refresh').click()`)
		b.do(`await page.locator('#filter').fill('FILM')`)
		b.do(`await page.locator('#recordings button[data-path="/vod/film.flv"]').click()`)
		b.until(`Math.abs(document.getElementById('video').duration - 40) < 1`)
		b.do(`await page.evaluate(() => new Promise((resolve, reject) => {
			const video = document.getElementById('video');
			video.addEventListener('seeked', resolve, { once: true });
			video.addEventListener('error', () => reject(video.error.message), { once: true });
			video.currentTime = 25;
		}))`)
		if at := expectPlaying(t, b); at < 25 || at > 40 {
			t.Errorf("after a seek to 25 s it plays at %.1f s", at)
		}
		b.until(`document.getElementById('player-state').textContent.includes('of 40 s')`)
		b.until(`document.querySelector('#brokers tbody tr').innerText.includes('film.flv')`)
		b.shot("recording")
	})

	t.Run("keyboard", func(t *testing.T) {
		b.t = t
		b.do(`await page.keyboard.press('Escape')`)
		focused := func() (text string) {
			b.ask(`return page.evaluate(() => document.activeElement.textContent.trim())`, &text)
			return text
		}
		if got := focused(); got != "film.flv" {
			t.Errorf("when the player is closed the focus is on %q, want what had opened it", got)
		}
		b.do(`await page.reload()`)
		b.until(`document.querySelector('#channels button')`)
		var walked []string
		for range 20 {
			b.do(`await page.keyboard.press('Tab')`)
			if walked = append(walked, focused()); walked[len(walked)-1] == "news/ünï" {
				break
			}
		}
		for _, want := range []string{"Skip to the content", "Channels", "Graph", "Broker", "Cache and archive", "Recordings", "news/ünï"} {
			if !slices.Contains(walked, want) {
				t.Errorf("Tab does not come to %q but to %q", want, walked)
			}
		}
		b.do(`await page.keyboard.press('Enter')`)
		b.until(`document.getElementById('video').currentTime > 0`)
		b.do(`await page.keyboard.press('Escape')`)
		b.until(`document.getElementById('player').hidden`)
	})

	t.Run("phone", func(t *testing.T) {
		b.t = t
		for _, scheme := range []string{"light", "dark"} {
			b.do(fmt.Sprintf(`await page.emulateMedia({ colorScheme: %q }); await page.setViewportSize({ width: 360, height: 780 })`, scheme))
			var width int
			b.ask(`return page.evaluate(() => document.documentElement.scrollWidth)`, &width)
			if width > 360 {
				t.Errorf("the page is %d wide on a phone of 360", width)
			}
			b.shot("phone-" + scheme)
		}
		b.do(`await page.setViewportSize({ width: 1280, height: 900 })`)
		b.shot("dark")
		b.do(`await page.emulateMedia({ colorScheme: 'light' })`)
	})

	var seen struct{ Problems, Origins []string }
	b.t = t
	b.ask("return seen", &seen)
	if len(seen.Problems) > 0 || !slices.Equal(seen.Origins, []string{d.url("")}) {
		t.Errorf("problems: %q, asked: %q", seen.Problems, seen.Origins)
	}

	t.Run("a stage dies", func(t *testing.T) {
		b.t = t
		if err := os.Rename(d.binary, d.binary+"-gone"); err != nil { // so that it is not there again at once
			t.Fatal(err)
		}
		pids := d.processes()
		if len(pids) != 1 {
			t.Fatalf("processes: %v", pids)
		}
		began := time.Now()
		if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.until(`['restarting', 'failed'].includes(document.querySelector('#graph tr[data-key="fragile/reader-disk"] .state').innerText)`)
		shown := time.Since(began)
		t.Logf("shown dead after %v", shown)
		if shown > 15*time.Second { // 2 s, on a machine that does nothing else
			t.Errorf("that it is dead is shown after %v", shown)
		}
		b.until(`/fragile\/reader-disk is (restarting|failed)/.test(document.getElementById('health').textContent)`)
		b.until(`document.querySelector('#drawing [data-stage="fragile/reader-disk"]').classList.contains('bad')`)
		b.until(`document.querySelector('#graph tr[data-key="fragile/reader-disk"]').innerText.includes('no such file')`)
		text, err := d.get("/healthz")
		status := `"degraded"`
		if err != nil { // it has been given up by now
			status = `"failing"`
		}
		if !strings.Contains(text, status) || !strings.Contains(text, "fragile/reader-disk") {
			t.Errorf("/healthz: %v %s", err, text)
		}
		b.shot("dead")
		if err := os.Rename(d.binary+"-gone", d.binary); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("the daemon goes and comes back", func(t *testing.T) {
		b.t = t
		d.Kill()
		b.until(`document.getElementById('health').textContent.startsWith('The daemon does not answer')`)
		b.shot("away")
		lab.Must(t, d.Start())
		b.until(`document.getElementById('health').textContent === 'All 11 stages run'`)
		b.until(`!document.body.classList.contains('away')`)
	})

	t.Run("mediad top", func(t *testing.T) {
		d.publish("again")
		lab.Await(t, "it shows the channel and what passes", func() error {
			out, err := exec.Command(d.binary, "top", "--once", "--api", d.url("")).CombinedOutput()
			text := string(out)
			if err != nil || !strings.Contains(text, "again") || !strings.Contains(text, "11 of 11 stages run") || !strings.Contains(text, "live/ingest") {
				return fmt.Errorf("%w: %s", err, text)
			}
			return nil
		})
	})
}

// guarded lets those watch who have a token, and nobody here has one.
const guarded = `drain: 1s
pipelines:
  on-demand:
    - use: reader-disk
      with: {root: ./media}
    - use: cache
      with: {memory: 64MiB}
    - use: stream
      with: {app: vod, access: {secret: 0123456789abcdef0123456789abcdef}}
  live:
    - use: ingest
      with: {app: live}
    - use: broadcast
    - use: stream
      with: {app: live, access: {secret: 0123456789abcdef0123456789abcdef}}
`

// TestConsoleOfGuardedMedia plays what nobody but who runs the daemon may watch without a token.
func TestConsoleOfGuardedMedia(t *testing.T) {
	d := start(t, guarded)
	d.publish("news")
	b := open(t, d.url("/"))
	for _, path := range []string{"/live/news.mp4", "/vod/film.flv.mp4", "/vod/film.flv/index.m3u8"} {
		if _, err := d.get(path); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("without a token %s is answered: %v", path, err)
		}
	}
	b.do(`await page.locator('#channels button[data-path="/live/news"]').click()`)
	b.until(`document.getElementById('video').currentTime > 1`)
	expectPlaying(t, b)
	b.do(`await page.locator('#refresh').click()`)
	b.do(`await page.locator('#recordings button[data-path="/vod/film.flv"]').click()`)
	b.until(`Math.abs(document.getElementById('video').duration - 40) < 1`)
	b.do(`await page.evaluate(() => { document.getElementById('video').currentTime = 25 })`)
	b.until(`document.getElementById('video').currentTime > 25`)
	expectPlaying(t, b)

	// What the page plays is for the one name that it asked for.
	var source string
	b.ask(`return page.evaluate(() => document.getElementById('video').src)`, &source)
	path, token, _ := strings.Cut(source, "?token=")
	if path != d.url("/vod/film.flv.mp4") || token == "" {
		t.Errorf("the page plays %s", source)
	}
	if _, err := d.get("/live/news.mp4?token=" + token); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("with the ticket of another name: %v", err)
	}
}

// expectPlaying checks that the video goes on and frames are decoded, and returns
// where it is.
func expectPlaying(t *testing.T, b *browser) float64 {
	t.Helper()
	type state struct{ Time, Frames float64 }
	const ask = `return page.evaluate(() => {
		const video = document.getElementById('video');
		return { time: video.currentTime, frames: video.getVideoPlaybackQuality().totalVideoFrames };
	})`
	var before, after state
	b.ask(ask, &before)
	b.until(fmt.Sprintf(`document.getElementById('video').currentTime > %f`, before.Time+2))
	b.ask(ask, &after)
	if after.Frames-before.Frames < 20 {
		t.Errorf("from %.1f s to %.1f s %v frames are decoded", before.Time, after.Time, after.Frames-before.Frames)
	}
	return after.Time
}
