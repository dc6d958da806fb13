package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mediad/mediad/core/amf"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/e2e/lab"
)

// The classes of holes that media servers are known for, one test each. What the page makes of
// hostile texts in a browser is tested in e2e/console.

// raw sends bytes to an address, and returns all that is answered until the other side closes, or
// nothing more comes for a second.
func raw(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	var answer bytes.Buffer
	patience := 30 * time.Second // on a busy machine
	for p := make([]byte, 64<<10); ; patience = time.Second {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(p)
		answer.Write(p[:n])
		if err != nil || answer.Len() > 1<<20 {
			return answer.String()
		}
	}
}

// line asks for a path as it is, which clients of the library would make proper.
func line(d *daemon, path string) string {
	d.t.Helper()
	return raw(d.t, d.HTTP, "GET "+path+" HTTP/1.1\r\nHost: "+d.HTTP+"\r\nConnection: close\r\n\r\n")
}

// statusOf is the status of an answer, 0 where there is none.
func statusOf(answer string) (code int) {
	_, _ = fmt.Sscanf(answer, "HTTP/1.%d %d", new(int), &code)
	return code
}

// refusedOver plays or publishes over RTMP what must be refused.
func refusedOver(d *daemon, app, name string) {
	d.t.Helper()
	c := d.dial(app)
	defer c.Close()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	var refused *rtmp.StatusError
	if app == "live" {
		if err := c.Publish(ctx, name, "live"); !errors.As(err, &refused) {
			d.t.Errorf("to publish %q is answered with %v", name, err)
		}
		return
	}
	if err := c.Play(ctx, name, 0, -1, true); err != nil {
		d.t.Fatal(err)
	}
	m := until(d.t, c, "an answer to "+name, func(m rtmp.Message) bool { return m.Kind == rtmp.KindStatus && m.Status.Code != "NetStream.Play.Reset" })
	if m.Status.Level != "error" {
		d.t.Errorf("to play %q is answered with %+v", name, m.Status)
	}
}

// TestHole_XSS has hostile texts come in as names and as metadata, and looks for them as markup in
// whatever HTTP shows.
func TestHole_XSS(t *testing.T) {
	t.Parallel()
	d := start(t, live+onDemand)
	const hostile = `<script>alert(1)</script>`
	for _, name := range []string{hostile, `"onload="alert(1)`, `x'><img src=x onerror=alert(1)>`} {
		refusedOver(d, "live", name)
		refusedOver(d, "vod", name)
	}
	p := d.publisher("show")
	body := amf.Append(nil, "@setDataFrame", "onMetaData", amf.ECMAArray{{Key: "encoder", Value: hostile}, {Key: hostile, Value: hostile}})
	if err := p.client.WriteMessage(media.Data, 0, body); err != nil {
		t.Fatal(err)
	}
	p.frame(0, 0, 100)
	d.onAir("show")
	escaped := url.PathEscape(hostile)
	for _, path := range []string{
		"/", "/console/main.js", "/console/" + escaped, "/healthz", "/metrics", "/api/channels", "/api/pipelines", "/api/media", "/api/events",
		"/api/explain?name=" + escaped, "/api/tap?stage=live/broadcast&name=" + escaped, "/api/ticket?name=" + escaped, "/api/" + escaped,
		"/live/" + escaped + ".flv", "/live/" + escaped + "/index.m3u8", "/vod/" + escaped + ".mp4", "/live/show.flv?start=" + escaped,
		"/" + escaped,
	} {
		head, text, _ := strings.Cut(line(d, path), "\r\n\r\n")
		head = strings.ToLower(head)
		if statusOf(head) == 0 && !strings.HasPrefix(head, "http/1.1") {
			t.Errorf("%s is answered with %q", path, head)
		}
		if !strings.Contains(head, "x-content-type-options: nosniff") {
			t.Errorf("what is at %s may be taken for anything", path)
		}
		if strings.Contains(head, "text/html") {
			if !strings.Contains(head, "content-security-policy: default-src 'self';") {
				t.Errorf("%s is a page without a policy", path)
			}
			if strings.Contains(text, "alert(1)") {
				t.Errorf("%s shows %.300q", path, text)
			}
		}
		if strings.Contains(text, hostile) && !strings.Contains(head, "application/json") {
			t.Errorf("%s repeats it: %.300q", path, text)
		}
	}
}

// TestHole_Traversal asks for what lies beside the folders that are served.
func TestHole_Traversal(t *testing.T) {
	t.Parallel()
	d := start(t, live+onDemand)
	source := film(t, 8, "flv")
	d.shelve(source, "film.flv")
	d.shelve(source, "../secret.flv")
	if err := os.Symlink("../secret.flv", d.Path("media", "link.flv")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", d.Path("media", "up")); err != nil {
		t.Fatal(err)
	}
	if code := statusOf(line(d, "/vod/film.flv.mp4")); code != http.StatusOK {
		t.Fatalf("what may be had is answered with %d", code)
	}
	for _, way := range []string{
		"../secret", "..%2fsecret", "%2e%2e/secret", "%2e%2e%2fsecret", "%252e%252e%252fsecret", `..\secret`, "..%5csecret",
		"x/../../secret", "x/..%2f..%2fsecret", "....//secret", "..;/secret", ".%00./secret", "secret%00", "%c0%ae%c0%ae/secret",
		"%uff0e%uff0e/secret", "/secret", "//secret", "%2fsecret", "up/secret", "link", "./../secret",
	} {
		for _, form := range []string{".flv", ".mp4", "/index.m3u8"} {
			path := "/vod/" + way + form
			if answer := line(d, path); statusOf(answer) == http.StatusOK || strings.Contains(answer, "FLV\x01") {
				t.Errorf("%s: %.80q", path, answer)
			}
		}
	}
	for _, path := range []string{
		"/console/..%2f..%2fpipelines.yaml", "/console/../../pipelines.yaml", "/console/%2e%2e/console.go", "/../pipelines.yaml", "/vod/../../pipelines.yaml",
		"/..%2fpipelines.yaml", "//pipelines.yaml", "/console/.", "/console//etc/passwd", "/api/../pipelines.yaml",
	} {
		if answer := line(d, path); statusOf(answer) == http.StatusOK || strings.Contains(answer, "reader-disk") {
			t.Errorf("%s: %.80q", path, answer)
		}
	}
	for _, name := range []string{
		"../secret", "../secret.flv", "mp4:../secret.flv", "flv:../secret", `..\secret`, "%2e%2e/secret", "x/../../secret", "/../secret", "secret\x00.flv",
		"..\x00/secret", "/etc/passwd", "file:///etc/passwd", "up/secret", "link", "~root/x", "$HOME/secret",
	} {
		refusedOver(d, "vod", name)
	}
	for _, name := range []string{"../evil", `..\evil`, "x/../../evil", "x\x00y", "/../evil", ".evil", "x/.evil"} {
		refusedOver(d, "live", name)
	}
	err := filepath.WalkDir(d.Dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), "evil") {
			t.Errorf("there is %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestHole_SSRF has an origin send the daemon to places that the origin itself cannot reach. That a name is looked
// at once it is resolved, so that no answer of DNS helps, is tested in plugins/reader-http.
func TestHole_SSRF(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	inner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		http.ServeFile(w, r, film(t, 8, "flv"))
	}))
	t.Cleanup(inner.Close)
	_, port, err := net.SplitHostPort(inner.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]string{
		"loopback": "http://127.0.0.1:" + port, "other": "http://127.9.9.9:" + port, "any": "http://0.0.0.0:" + port, "name": "http://localhost:" + port,
		"decimal": "http://2130706433:" + port, "octal": "http://0177.0.0.1:" + port, "short": "http://127.1:" + port,
		"six": "http://[::1]:" + port, "mapped": "http://[::ffff:127.0.0.1]:" + port, "mappedhex": "http://[::ffff:7f00:1]:" + port,
		"compatible": "http://[::127.0.0.1]:" + port, "translated": "http://[64:ff9b::7f00:1]:" + port, "anysix": "http://[::]:" + port,
		"user": "http://public.example@127.0.0.1:" + port, "metadata": "http://169.254.169.254/latest/meta-data/", "private": "http://10.0.0.1/",
		"linklocal": "http://[fe80::1]/", "unique": "http://[fd00::1]/", "file": "file:///etc/passwd", "gopher": "gopher://127.0.0.1:" + port + "/_x",
	}
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := targets[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/"), ".flv")]
		if to == "" {
			http.NotFound(w, r)
			return
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	t.Cleanup(origin.Close)
	d := start(t, fmt.Sprintf("\n  far:\n    - use: reader-http\n      with: {url: %q, retries: 0, timeout: 3s}\n    - use: stream\n      with: {app: far}\n", origin.URL))
	for name := range targets {
		answer := line(d, "/far/"+name+".flv.flv")
		if code := statusOf(answer); code < 400 {
			t.Errorf("%s: %.200q", name, answer)
		}
		if strings.Contains(answer, "127.0.0.1") || strings.Contains(answer, "169.254") {
			t.Errorf("%s tells what is inside: %.300q", name, answer)
		}
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("a server in this network was reached %d times", n)
	}
	// Nor do names lead to another host.
	for _, name := range []string{"http://127.0.0.1:" + port + "/film", "//127.0.0.1:" + port + "/film", "..//127.0.0.1/film", "@127.0.0.1:" + port + "/film", "x%0d%0aHost:%20127.0.0.1"} {
		answer := line(d, "/far/"+name+".flv")
		if code := statusOf(answer); code < 400 && (!strings.Contains(answer, "\r\nLocation: /") || strings.Contains(answer, "\r\nLocation: //")) { // the path made proper
			t.Errorf("%s: %.200q", name, answer)
		}
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("by its name a server in this network was reached %d times", n)
	}
}

const (
	apartEnv = "MEDIAD_E2E_APART" // the folder of the daemon, in a process that has a network of its own
	here     = "192.0.2.1"
	away     = "192.0.2.9" // for the daemon, another machine's
)

// apart runs the test once more in a network where this machine has the addresses above, and
// reports whether this was the first of the two.
func apart(t *testing.T) (first bool) {
	t.Helper()
	if os.Getenv(apartEnv) != "" {
		return false
	}
	flags := "-rn"
	if os.Geteuid() == 0 {
		flags = "-n"
	}
	script := "set -e; ip link set lo up; ip addr add " + here + "/32 dev lo; ip addr add " + away + `/32 dev lo; exec "$0" "$@"`
	cmd := exec.CommandContext(t.Context(), "unshare", flags, "sh", "-c", script, os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), apartEnv+"="+built)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a network of its own: %v\n%s", err, out)
	}
	return true
}

// open lets the daemon listen on all addresses, where it gives no profiles.
func open(t *testing.T) func(*lab.Daemon) {
	return func(d *lab.Daemon) {
		edited(t, `"127.0.0.1:`, `":`)(d)
		edited(t, "pprof: true\n", "")(d)
	}
}

// TestHole_OpenAPI asks the API as another machine would, and as a page from elsewhere has a browser do.
func TestHole_OpenAPI(t *testing.T) {
	t.Parallel()
	if apart(t) {
		return
	}
	d := start(t, live+onDemand, open(t))
	_, port, err := net.SplitHostPort(d.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"/", "/console/main.js", "/metrics", "/api/channels", "/api/pipelines", "/api/nodes", "/api/cluster/channels", "/api/media", "/api/events",
		"/api/explain?name=vod/film", "/api/tap?stage=live/broadcast&name=x", "/api/ticket?name=live/show", "/api/reload", "/api/drain", "/debug/pprof/"}
	ask := func(client *http.Client, method, path string, change func(*http.Request)) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+net.JoinHostPort(here, port)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	same := func(*http.Request) {}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(away)}}
	other := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}, Timeout: 20 * time.Second}
	self := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	if code := ask(self, http.MethodGet, "/api/channels", same); code != http.StatusOK {
		t.Fatalf("this machine itself is answered %d", code)
	}
	if code := ask(other, http.MethodGet, "/healthz", same); code != http.StatusOK {
		t.Errorf("another machine that asks for the health is answered %d", code)
	}
	type disguise struct {
		name   string
		client *http.Client
		change func(*http.Request)
	}
	for _, c := range []disguise{
		{"another machine", other, same},
		{"another machine that says it is this one", other, func(r *http.Request) {
			for _, name := range []string{"X-Forwarded-For", "X-Real-IP", "Client-IP", "X-Originating-IP", "CF-Connecting-IP"} {
				r.Header.Set(name, "127.0.0.1")
			}
			r.Header.Set("Forwarded", "for=127.0.0.1")
		}},
		{"another machine, as localhost", other, func(r *http.Request) { r.Host = "localhost" }},
		{"another machine, an empty token", other, func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") }},
		{"a rebound name", self, func(r *http.Request) { r.Host = "rebound.example:" + port }},
		{"another origin", self, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }},
		{"no origin at all", self, func(r *http.Request) { r.Header.Set("Origin", "null") }},
	} {
		for _, path := range paths {
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
				if code := ask(c.client, method, path, c.change); code < 400 {
					t.Errorf("%s: %s %s is answered %d", c.name, method, path, code)
				}
			}
		}
	}
	if _, err := d.Get("/healthz"); err != nil { // it has neither left nor reloaded
		t.Error(err)
	}
	for _, line := range d.Log.From(0) {
		if !strings.Contains(line, "request refused") && (strings.Contains(line, "reload") || strings.Contains(line, "drain")) {
			t.Errorf("the daemon was made to do something: %s", line)
		}
	}
}

// TestHole_OpenPublishing publishes from another machine to a daemon that says nothing of who may.
func TestHole_OpenPublishing(t *testing.T) {
	t.Parallel()
	if apart(t) {
		return
	}
	d := start(t, live, open(t))
	_, port, err := net.SplitHostPort(d.RTMP)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rtmp.Dial(t.Context(), "rtmp://"+net.JoinHostPort(here, port)+"/live")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refused *rtmp.StatusError
	if err := c.Publish(t.Context(), "show", "live"); !errors.As(err, &refused) {
		t.Errorf("from another machine: %v", err)
	}
	p := d.publisher("show") // from this one
	p.frame(0, 0, 100)
	d.onAir("show")
}

// TestHole_RetryStorm has clients that try again at once: those who are refused wait longer and longer
// for the answer, and a callback that fails is left alone.
func TestHole_RetryStorm(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	callback := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(callback.Close)
	d := start(t, fmt.Sprintf(`
  live:
    - use: ingest
      with: {app: live, key: right}
    - use: broadcast
    - use: stream
      with: {app: live}
  asking:
    - from: live/broadcast
    - use: stream
      with: {app: asking, access: {callback: %q}}
`, callback.URL))
	const storm = 4 * time.Second
	refused := 0
	for end := time.Now().Add(storm); time.Now().Before(end) || refused < 2; refused++ {
		refusedOver(d, "live", "show?key=wrong")
	}
	if refused > 40 { // without any wait there are hundreds
		t.Errorf("in %v a publisher was refused %d times", storm, refused)
	}
	tries := 0
	for end := time.Now().Add(storm); time.Now().Before(end) || tries < 20; tries++ {
		resp, err := http.Get("http://" + d.HTTP + "/asking/show" + fmt.Sprint(tries) + ".flv")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Fatalf("while the callback fails, a viewer is answered %s with %v", resp.Status, resp.Header)
		}
	}
	if n := asked.Load(); n < 1 || n > 8 { // 0.5 s, 1 s, 2 s and half of each
		t.Errorf("in %v the callback was asked %d times for %d viewers", storm, n, tries)
	}
	p := d.publisher("show?key=right") // who has the key is let in
	p.frame(0, 0, 100)
	d.onAir("show")
}

// TestHole_Smuggling sends requests whose end can be seen in two ways. Only one answer may come: what
// a proxy in front would take for the body must not be a request here, nor the other way round.
func TestHole_Smuggling(t *testing.T) {
	t.Parallel()
	d := start(t, live+onDemand)
	d.shelve(film(t, 8, "flv"), "film.flv")
	inner := "POST /api/drain HTTP/1.1\r\nHost: " + d.HTTP + "\r\n\r\n"
	host := "Host: " + d.HTTP + "\r\n"
	for name, request := range map[string]string{
		"both lengths":          "POST /api/channels HTTP/1.1\r\n" + host + "Content-Length: " + fmt.Sprint(len(inner)+5) + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"two lengths":           "GET /healthz HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: " + fmt.Sprint(len(inner)) + "\r\n\r\n" + inner,
		"a signed length":       "GET /healthz HTTP/1.1\r\n" + host + "Content-Length: +0\r\n\r\n" + inner,
		"an odd coding":         "GET /healthz HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n" + inner,
		"two codings":           "GET /healthz HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner,
		"a space before colon":  "GET /healthz HTTP/1.1\r\n" + host + "Content-Length : " + fmt.Sprint(len(inner)) + "\r\n\r\n" + inner,
		"a folded field":        "GET /healthz HTTP/1.1\r\n" + host + "X: y\r\n Content-Length: " + fmt.Sprint(len(inner)) + "\r\nConnection: close\r\n\r\n" + inner,
		"a chunk of odd size":   "GET /healthz HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + inner,
		"two hosts":             "GET /healthz HTTP/1.1\r\n" + host + "Host: evil.example\r\n\r\n" + inner,
		"behind a stream":       "GET /vod/film.flv HTTP/1.1\r\n" + host + "\r\n" + inner,
		"in a stream's body":    "GET /vod/film.flv HTTP/1.1\r\n" + host + "Content-Length: " + fmt.Sprint(len(inner)) + "\r\n\r\n" + inner,
		"behind an upgrade":     "GET /vod/film.flv HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + inner,
		"preface of HTTP/2":     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + inner,
		"a line of its own end": "GET /healthz HTTP/1.1\n" + "Content-Length: 0\r\n\r\n" + inner,
	} {
		answer := raw(t, d.HTTP, request)
		if n := strings.Count(answer, "HTTP/1."); n > 1 || strings.Contains(answer, `"left"`) {
			t.Errorf("%s: %d answers: %.300q", name, n, answer)
		}
	}
	if _, err := d.Get("/healthz"); err != nil {
		t.Error(err)
	}
	if strings.Contains(d.Log.String(), "drain") {
		t.Error("a request was smuggled in")
	}
}

// TestHole_Slowloris has many clients that never come to the end of their request. They are ended,
// and nobody waits for them.
func TestHole_Slowloris(t *testing.T) {
	t.Parallel()
	d := start(t, live)
	const clients = 300
	ended := make(chan time.Duration, clients)
	for range clients {
		conn, err := net.Dial("tcp", d.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n")
		go func() {
			defer conn.Close()
			go func() { // until it is closed
				for i := 0; ; i++ {
					if _, err := fmt.Fprintf(conn, "X-%d: y\r\n", i); err != nil {
						return
					}
					time.Sleep(500 * time.Millisecond)
				}
			}()
			_ = conn.SetReadDeadline(began.Add(time.Minute))
			_, err := bufio.NewReader(conn).ReadByte()
			var slow net.Error
			if errors.As(err, &slow) && slow.Timeout() {
				ended <- time.Minute
				return
			}
			ended <- time.Since(began)
		}()
	}
	if _, err := d.Get("/healthz"); err != nil {
		t.Errorf("beside them: %v", err)
	}
	longest := time.Duration(0)
	for range clients {
		longest = max(longest, <-ended)
	}
	if longest >= time.Minute { // 5 s, on a machine that does nothing else
		t.Errorf("one was let wait for %v", longest)
	}
}

// TestHole_Injection puts ends of lines where texts of clients come back: in redirects, headers and the log.
func TestHole_Injection(t *testing.T) {
	t.Parallel()
	const token = "0123456789abcdef0123456789abcdef"
	d := start(t, live+onDemand, edited(t, "listen: {", "log: {level: debug}\nlisten: {token: "+token+", "))
	const end = "%0d%0aX-Forged:%20yes%0d%0a%0d%0a<forged>"
	for _, path := range []string{
		"/?token=" + token + "&x=" + end, "/" + end + "?token=" + token, "/console/x" + end + "?token=" + token, "/live/x" + end + ".flv", "/vod/x" + end + "/index.m3u8",
		"/vod/x.mp4?token=" + end, "/api/explain?name=x" + end, "/console" + end, "/x" + end + "/",
	} {
		head, _, _ := strings.Cut(line(d, path), "\r\n\r\n")
		if strings.Contains(strings.ToLower(head), "\nx-forged") {
			t.Errorf("%s: %q", path, head)
		}
	}
	// Where a client is sent with its token is this host.
	for _, path := range []string{"//evil.example/?token=" + token, "/\\evil.example/?token=" + token, "/%2fevil.example?token=" + token} {
		for l := range strings.Lines(line(d, path)) {
			to, is := strings.CutPrefix(strings.ToLower(l), "location: ")
			if is && (!strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`)) {
				t.Errorf("%s leads to %s", path, to)
			}
		}
	}
	for _, name := range []string{"x\n[FORGED] by a name", "x\r\n[FORGED] by a name", "x\x1b[2J[FORGED]", "x\u2028[FORGED]"} {
		refusedOver(d, "live", name)
		refusedOver(d, "vod", name)
		c, err := rtmp.Dial(t.Context(), d.URL("live"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Command("x\n[FORGED] by a command")
		_ = c.Play(t.Context(), name, stream.StartAny, -1, true)
		c.Close()
		raw(t, d.HTTP, "GET /live/"+url.PathEscape(name)+".flv HTTP/1.1\r\nHost: x\r\nUser-Agent: \x1b[FORGED]\r\nConnection: close\r\n\r\n")
	}
	text := d.Log.String()
	if strings.ContainsAny(text, "\x1b\r\u2028") {
		t.Error("what clients sent stands in the log as it is")
	}
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, "[FORGED]") {
			t.Errorf("a client has written a line of the log: %q", l)
		}
	}
}
