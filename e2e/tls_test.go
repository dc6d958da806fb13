package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/e2e/lab"
)

// secure returns what lets a daemon listen with TLS, too, and where it then does.
func secure(t *testing.T) (prepare func(*lab.Daemon), url string) {
	t.Helper()
	port, err := lab.Reserve()
	lab.Must(t, err)
	t.Cleanup(port.Release)
	return func(d *lab.Daemon) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		lab.Must(t, os.WriteFile(d.Path("cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
		lab.Must(t, os.WriteFile(d.Path("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
		edited(t, "listen: {", `listen: {https: "`+port.Address+`", cert: cert.pem, key: key.pem, `)(d)
	}, "https://" + port.Address
}

// memory is a file in memory.
type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, off)
}

// expectFrames checks that body is FLV that can be read whole and has a number of video frames at least.
func expectFrames(t *testing.T, what string, body []byte, least int) {
	t.Helper()
	file := memory(body)
	index, err := flv.ReadIndex(t.Context(), file)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	frames := 0
	for next := index.Batches(file, 0); ; {
		b, err := next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, f := range b.Frames() {
			if f.Track == media.Video {
				frames++
			}
		}
	}
	if frames < least {
		t.Errorf("%s: %d frames, want at least %d", what, frames, least)
	}
}

// TestHTTP2 watches over HTTPS with HTTP/2: in FLV to the end of the channel, and in HLS with
// its low-latency requests, all at once over one connection, as browsers do.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	prepare, url := secure(t)
	d := start(t, live+onDemand, prepare)
	source := film(t, 12, "flv")
	d.shelve(source, "film.flv")
	publisher := d.publish(source, "show")
	d.onAir("show")

	connections := 0
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // its own certificate
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			connections++
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	get := func(path string) []byte {
		t.Helper()
		resp, err := client.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
			t.Fatalf("%s: %s %s, %v", path, resp.Proto, resp.Status, err)
		}
		return body
	}

	tags := make(chan []byte, 1)
	resp, err := client.Get(url + "/live/show.flv")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(tags)
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil {
			t.Errorf("FLV over %s: %v", resp.Proto, err)
		} else {
			tags <- body
		}
	}()
	curl := lab.Launch(t, "curl", "--http2", "-sk", "--max-time", "60", "-o", d.Path("curl.flv"), "-w", "%{http_version} %{http_code}\n", url+"/live/show.flv")

	playlist := regexp.MustCompile(`[0-9a-f]{12}_video1_stream\.m3u8`).FindString(string(get("/live/show/index.m3u8")))
	if playlist == "" {
		t.Fatal("there is no playlist of the picture")
	}
	hint := regexp.MustCompile(`#EXT-X-PRELOAD-HINT:TYPE=PART,URI="([^"]+)"`)
	for part := range 3 {
		text := string(get("/live/show/" + playlist))
		next := hint.FindStringSubmatch(text)
		if next == nil {
			t.Fatalf("there is no hint:\n%s", text)
		}
		// The part that is hinted at is asked for before it is there.
		if body := get("/live/show/" + next[1]); len(body) < 8 || string(body[4:8]) != "moof" {
			t.Errorf("part %d begins with %.8q", part, body)
		}
	}
	if got, err := publisher.Wait(), curl.Wait(); got != nil || err != nil {
		t.Errorf("the publisher ends with %v, curl with %v", got, err)
	}
	if got := curl.Out.String(); got != "2 200" {
		t.Errorf("curl says %q", got)
	}
	body, err := os.ReadFile(d.Path("curl.flv"))
	if err != nil {
		t.Fatal(err)
	}
	expectFrames(t, "curl", body, 50)
	expectFrames(t, "FLV", <-tags, 100)
	if body := get("/vod/film.mp4"); string(body[4:8]) != "ftyp" {
		t.Errorf("MP4 begins with %.8q", body)
	}
	if text := get("/vod/film/index.m3u8"); !strings.Contains(string(text), "#EXT-X-ENDLIST") {
		t.Errorf("the playlist of a film:\n%s", text)
	}
	if connections != 1 {
		t.Errorf("%d connections were made", connections)
	}
}
