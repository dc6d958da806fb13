package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/plugin/host"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/minio/minio-go/v7"
	"github.com/prometheus/client_golang/prometheus"
)

// settings are what the tests need to read from the server.
func settings(more ...string) map[string]any {
	s := map[string]any{
		"endpoint": server, "insecure": "true", "bucket": bucket, "access_key": accessKey, "secret_key": secretKey,
	}
	for i := 0; i < len(more); i += 2 {
		s[more[i]] = more[i+1]
	}
	return s
}

// stageOf serves a stage of the kind until the test ends.
func stageOf(t *testing.T, k stage.Kind, values map[string]any) media.Reader {
	t.Helper()
	decoded, err := k.Decode(values)
	if err != nil {
		t.Fatal(err)
	}
	made, err := k.New(stage.Env{Name: "test/s3", Log: hclog.NewNullLogger(), Metrics: prometheus.NewRegistry()}, decoded)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- made.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return made.(media.Reader)
}

// film makes media of about 24 MB from the sample, in the format of the extension.
func film(t *testing.T, extension string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "film"+extension)
	must(t, "ffmpeg", "-v", "error", "-stream_loop", "60", "-i", "../../media/sample.flv", "-c", "copy", path)
	return path
}

func must(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	return out
}

func TestConformance(t *testing.T) {
	put(t, "films/a/film.flv", "../../media/sample.flv")
	mp4 := filepath.Join(t.TempDir(), "film.mp4")
	must(t, "ffmpeg", "-v", "error", "-i", "../../media/sample.flv", "-c", "copy", mp4)
	put(t, "films/other.mp4", mp4)
	overTheWire, err := host.Kind(t.Context(), host.Binary{Path: filepath.Join(bin, "plugins.d", "reader-s3")}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for where, k := range map[string]stage.Kind{"in process": Kind(), "over the wire": overTheWire} {
		r := stageOf(t, k, settings("prefix", "films/"))
		for _, name := range []string{"a/film", "a/film.flv", "other"} {
			t.Run(where+" "+name, func(t *testing.T) {
				stagetest.TestReader(t, stagetest.Reader{Reader: r, Name: name, Missing: "missing"})
			})
		}
	}
}

// readAll reads the rest of a source and returns how many bytes of bodies came.
func readAll(ctx context.Context, src media.Source) (bytes int, err error) {
	for {
		b, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return bytes, nil
		}
		if err != nil {
			return bytes, err
		}
		for _, f := range b.Frames() {
			bytes += len(f.Body)
		}
	}
}

func TestReadsInLargeBlocks(t *testing.T) {
	path := film(t, ".mp4")
	put(t, "blocks.mp4", path)
	var gets atomic.Int64
	address := between(t, func(server http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet {
				gets.Add(1)
			}
			server.ServeHTTP(w, req)
		})
	})
	r := stageOf(t, Kind(), settings("endpoint", address))
	src, err := r.Open(t.Context(), media.OpenRequest{Name: "blocks"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	opened := gets.Swap(0)
	if _, err := readAll(t.Context(), src); err != nil {
		t.Error(err)
	}
	most := src.Info().Size/maxBlock + 6 // it begins with smaller ones
	if opened > 6 || gets.Load() > most {
		t.Errorf("it was opened with %d requests and read with %d, want at most 6 and %d", opened, gets.Load(), most)
	}
	again, err := r.Open(t.Context(), media.OpenRequest{Name: "blocks"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n := gets.Swap(0) - most; n > 0 {
		t.Errorf("the second open made %d requests for the index that is known", n)
	}
}

// TestAnswersThatBreakOff lets each third answer end in its middle.
func TestAnswersThatBreakOff(t *testing.T) {
	put(t, "broken.flv", film(t, ".flv"))
	var gets atomic.Int64
	address := between(t, func(server http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet && gets.Add(1)%3 == 0 {
				w = &breaking{ResponseWriter: w, left: 50_000}
			}
			server.ServeHTTP(w, req)
		})
	})
	var bytes [2]int
	for i, endpoint := range []string{server, address} {
		src, err := stageOf(t, Kind(), settings("endpoint", endpoint)).Open(t.Context(), media.OpenRequest{Name: "broken"})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if bytes[i], err = readAll(t.Context(), src); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	if bytes[0] != bytes[1] || gets.Load() < 10 {
		t.Errorf("%d bytes came in %d requests, want %d", bytes[1], gets.Load(), bytes[0])
	}
}

// breaking breaks the connection after some bytes.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p[:min(len(p), b.left)])
	if b.left -= n; b.left == 0 {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func TestOneVersionPerPlay(t *testing.T) {
	path := film(t, ".flv")
	r := stageOf(t, Kind(), settings())
	for what, change := range map[string]func(key string) error{
		"another version": func(key string) error {
			_, err := upload.FPutObject(t.Context(), bucket, key, "../../media/sample.flv", minio.PutObjectOptions{})
			return err
		},
		"removed": func(key string) error {
			return upload.RemoveObject(t.Context(), bucket, key, minio.RemoveObjectOptions{})
		},
	} {
		put(t, "changing.flv", path)
		src, err := r.Open(t.Context(), media.OpenRequest{Name: "changing"})
		if err != nil {
			t.Fatal(err)
		}
		if err := change("changing.flv"); err != nil {
			t.Fatal(err)
		}
		if n, err := readAll(t.Context(), src); !errors.Is(err, media.ErrChanged) {
			t.Errorf("%s: after %d bytes %v, want %v", what, n, err, media.ErrChanged)
		}
		src.Close()
	}
	put(t, "changing.flv", "../../media/sample.flv")
	src, err := r.Open(t.Context(), media.OpenRequest{Name: "changing"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := readAll(t.Context(), src); err != nil {
		t.Errorf("the new version: %v", err)
	}
}

func TestErrors(t *testing.T) {
	put(t, "there.flv", "../../media/sample.flv")
	put(t, "text.flv", "reader_test.go")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, c := range []struct {
		name   string
		values map[string]any
		want   error
		says   string
	}{
		{"missing", settings(), media.ErrNotFound, "missing in bucket media"},
		{"there", settings("bucket", "nowhere"), media.ErrNotFound, "nowhere"},
		{"../there", settings(), media.ErrNotFound, ""},
		{"there", settings("secret_key", "wrong"), media.ErrDenied, "there in bucket media"},
		{"there", settings("access_key", "", "secret_key", ""), media.ErrDenied, ""},
		{"there", settings("endpoint", gone.Addr().String()), media.ErrUnavailable, "refused"},
		{"there", settings("endpoint", silent.Addr().String(), "timeout", "100ms"), media.ErrUnavailable, "too slow"},
		{"text.flv", settings(), nil, "text.flv in bucket media: the file begins with"},
	} {
		r := stageOf(t, Kind(), c.values)
		src, err := r.Open(t.Context(), media.OpenRequest{Name: c.name})
		if err == nil {
			src.Close()
			t.Errorf("%s was opened, want %v", c.name, c.want)
			continue
		}
		if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v with %q", c.name, err, c.want, c.says)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct{ key, value, says string }{
		{"endpoint", "http://s3.example.com", "endpoint: "},
		{"access_key", "", "secret_key: goes together"},
		{"timeout", "0s", "timeout: "},
	} {
		decoded, err := Kind().Decode(settings(c.key, c.value))
		if err == nil {
			_, err = Kind().New(stage.Env{}, decoded)
		}
		if err == nil || !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("%s: %q: %v, want %q", c.key, c.value, err, c.says)
		}
	}
}

// TestDaemon plays an object through the daemon, which runs the stage as a plugin.
func TestDaemon(t *testing.T) {
	daemon := filepath.Join(bin, "mediad")
	must(t, "go", "build", "-C", "../..", "-o", daemon, "./cmd/mediad")
	put(t, "play.flv", "../../media/sample.flv")
	rtmp := freeAddress(t)
	config := filepath.Join(t.TempDir(), "pipelines.yaml")
	text := fmt.Sprintf(`version: 1
listen: {rtmp: %q, http: %q}
plugins: {dir: %q}
pipelines:
  vod:
    - use: reader-s3
      with: {endpoint: %q, insecure: true, bucket: media, access_key: reader, secret_key: "${S3_SECRET_KEY}"}
    - use: cache
    - use: broker
    - use: stream
      with: {app: vod}
`, rtmp, freeAddress(t), filepath.Join(bin, "plugins.d"), server)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log logLines
	mediad := exec.Command(daemon, "run", "-c", config)
	mediad.Env = append(os.Environ(), "S3_SECRET_KEY="+secretKey)
	log.start(t, mediad)
	log.until(t, "on air:")
	want := must(t, "ffprobe", probe("../../media/sample.flv")...)
	got := must(t, "ffprobe", probe("rtmp://"+rtmp+"/vod/play")...)
	if string(got) != string(want) {
		t.Errorf("%d bytes of packets came, want %d:\n%.2000s", len(got), len(want), got)
	}
}

func probe(url string) []string {
	return []string{"-v", "error", "-show_packets", "-show_data_hash", "md5", "-show_entries", "packet=codec_type,size,data_hash", "-of", "csv", url}
}
