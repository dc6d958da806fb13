// Another implementation of RTMP as the client, with Enhanced RTMP; and TLS.

package rtmp

import (
	"crypto/tls"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
)

func peer(t *testing.T, rawURL string, publish bool) *gortmplib.Client {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	c := &gortmplib.Client{URL: u, Publish: publish}
	if err := c.Initialize(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPeerEnhanced(t *testing.T) {
	r := newRecorder()
	s := serve(t, Options{}, r, player(func(stream.Request) []*media.Batch { return r.recorded() }))
	video := &gortmplib.Track{Codec: &codecs.VP9{}}
	c := peer(t, s.url+"/x", true)
	w := &gortmplib.Writer{Conn: c, Tracks: []*gortmplib.Track{video}}
	if err := w.Initialize(); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 100 { // 4 s: the peer looks for tracks in the first 2
		frame := string(append([]byte{0x82, 0x49, 0x83, 0x42, 0x00}, seq[i:]...)) // the head of a VP9 keyframe
		want = append(want, frame)
		if err := w.WriteVP9(video, ms(int64(40*i)), []byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	<-r.closed

	c = peer(t, s.url+"/x", false)
	defer c.Close()
	reader := &gortmplib.Reader{Conn: c}
	if err := reader.Initialize(); err != nil {
		t.Fatal(err)
	}
	if len(reader.Tracks()) != 1 {
		t.Fatalf("the peer sees %d tracks", len(reader.Tracks()))
	}
	var got []string
	var last time.Duration
	reader.OnDataVP9(reader.Tracks()[0], func(pts time.Duration, frame []byte) {
		got = append(got, string(frame))
		last = pts
	})
	for len(got) < len(want) {
		if err := reader.Read(); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(got, want) || last != ms(99*40) {
		t.Errorf("%d frames up to %v are not those that were published", len(got), last)
	}
}

// TestTLS publishes and plays over a listener with TLS.
func TestRealTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	web.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", web.TLS)
	if err != nil {
		t.Fatal(err)
	}
	r := newRecorder()
	serveOn(t, l, Options{}, r, player(func(stream.Request) []*media.Batch { return r.recorded() }))
	file := sample(t)
	to := "rtmps://" + l.Addr().String() + "/live/x"
	mustRun(t, "ffmpeg", "-v", "error", "-i", file, "-c", "copy", "-f", "flv", to)
	<-r.closed
	samePackets(t, packets(t, to), packets(t, file))
}
