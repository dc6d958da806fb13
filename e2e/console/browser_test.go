package console

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// playwright drives the browser; it comes from npm, in the version that the tests
// were written with.
const playwright = "playwright-core@1.65.1"

// modules installs it, once for each machine, and returns where.
func modules(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(cache, "mediad-test", playwright)
	if _, err := os.Stat(filepath.Join(to, "done")); err == nil {
		return to
	}
	if out, err := exec.Command("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", to, playwright).CombinedOutput(); err != nil {
		t.Fatalf("npm: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(to, "done"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return to
}

// A browser is Chromium with one page.
type browser struct {
	t       *testing.T
	in      io.Writer
	answers *bufio.Scanner
	shots   string // the folder for screenshots
}

// open starts a browser with a page. It is closed when the test ends.
func open(t *testing.T, url string) *browser {
	t.Helper()
	// Node finds packages beside the script.
	script := filepath.Join(modules(t), "console-driver.mjs")
	text, err := os.ReadFile("testdata/driver.mjs")
	if err == nil {
		err = os.WriteFile(script, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", script)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, in: in, answers: bufio.NewScanner(out), shots: os.Getenv("MEDIAD_SHOTS")}
	b.answers.Buffer(nil, 16<<20)
	t.Cleanup(func() {
		in.Close() // which ends it
		if err := cmd.Wait(); err != nil {
			t.Errorf("browser: %v", err)
		}
	})
	if b.shots == "" {
		b.shots = t.TempDir()
	}
	b.do(fmt.Sprintf("await page.goto(%q)", url))
	return b
}

// ask runs JavaScript with `page`, and stores what it returns in value. What it
// waits for is there within a minute, or the test has failed.
func (b *browser) ask(script string, value any) {
	b.t.Helper()
	line, err := json.Marshal(script)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		b.t.Fatalf("browser: %v", err)
	}
	if !b.answers.Scan() {
		b.t.Fatalf("the browser has ended: %v", b.answers.Err())
	}
	var answer struct {
		Value json.RawMessage
		Error string
	}
	if err := json.Unmarshal(b.answers.Bytes(), &answer); err != nil {
		b.t.Fatalf("%v: %s", err, b.answers.Text())
	}
	if answer.Error != "" {
		b.shot("failed")
		b.t.Fatalf("%s\n%s", script, answer.Error)
	}
	if value != nil {
		if err := json.Unmarshal(answer.Value, value); err != nil {
			b.t.Fatalf("%s: %v: %s", script, err, answer.Value)
		}
	}
}

func (b *browser) do(script string) {
	b.t.Helper()
	b.ask(script, nil)
}

// until waits for an expression in the page to be true.
func (b *browser) until(expression string) {
	b.t.Helper()
	b.do(fmt.Sprintf("await page.waitForFunction(() => %s, null, { polling: 50 })", expression))
}

// text is what an element shows.
func (b *browser) text(selector string) string {
	b.t.Helper()
	var text string
	b.ask(fmt.Sprintf("return page.locator(%q).innerText()", selector), &text)
	return text
}

// shot keeps a screenshot of the whole page. One of a test that fails is kept by its error.
func (b *browser) shot(name string) {
	b.t.Helper()
	line, _ := json.Marshal(fmt.Sprintf("await page.evaluate(() => window.scrollTo(0, 0)); await page.screenshot({ path: %q, fullPage: true })", filepath.Join(b.shots, name+".png")))
	if _, err := b.in.Write(append(line, '\n')); err != nil || !b.answers.Scan() {
		b.t.Errorf("no screenshot: %v", err)
	}
}
