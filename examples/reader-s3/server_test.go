// The server that the tests read from: versitygw, which serves a folder as S3. It is
// built from the Go module proxy, pinned by version and checked by sum.golang.org.

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.uber.org/goleak"
)

const versitygw = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

const (
	bucket    = "media"
	accessKey = "reader"
	secretKey = "very secret"
)

// What is made once for all tests.
var (
	bin    string // folder with versitygw and plugins.d/reader-s3
	server string // address of the S3 server
	upload *minio.Client
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if bin, err = os.MkdirTemp("", "reader-s3-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(bin)
	for _, args := range []string{"build -o " + bin + "/plugins.d/reader-s3 .", "install " + versitygw} {
		cmd := exec.Command("go", strings.Fields(args)...)
		cmd.Env = append(os.Environ(), "GOBIN="+bin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	stop, err := serve()
	if err != nil {
		return 0, err
	}
	defer stop()
	if code = m.Run(); code == 0 {
		err = goleak.Find()
	}
	return code, err
}

// serve starts the server and makes the bucket.
func serve() (stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server = l.Addr().String()
	l.Close()
	for _, dir := range []string{"objects", "sidecar"} {
		if err := os.Mkdir(filepath.Join(bin, dir), 0o755); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(filepath.Join(bin, "versitygw"), "--quiet", "--port", server, "--access", accessKey, "--secret", secretKey,
		"posix", "--sidecar", filepath.Join(bin, "sidecar"), filepath.Join(bin, "objects"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	transport, err := minio.DefaultTransport(false)
	if err != nil {
		return nil, err
	}
	stop = func() {
		transport.CloseIdleConnections()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	upload, err = minio.New(server, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Transport: transport})
	if err == nil { // it is tried until the server has started
		err = upload.MakeBucket(context.Background(), bucket, minio.MakeBucketOptions{})
	}
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// put uploads a file.
func put(t *testing.T, key, path string) {
	t.Helper()
	if _, err := upload.FPutObject(t.Context(), bucket, key, path, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

// between puts something between the reader and the server, and returns its address.
func between(t *testing.T, wrap func(server http.Handler) http.Handler) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server})
	transport := &http.Transport{}
	proxy.Transport = transport
	s := httptest.NewServer(wrap(proxy))
	t.Cleanup(func() {
		s.Close()
		transport.CloseIdleConnections()
	})
	return s.Listener.Addr().String()
}

// logLines is what a daemon says.
type logLines struct {
	lines *bufio.Scanner
	seen  []string
}

// start starts a daemon, which is ended with the test.
func (l *logLines) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.lines = bufio.NewScanner(stderr)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		for l.lines.Scan() {
			l.seen = append(l.seen, l.lines.Text())
		}
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("mediad: %v\n%s", err, strings.Join(l.seen, "\n"))
		}
	})
}

// until reads up to a line with the text.
func (l *logLines) until(t *testing.T, text string) {
	t.Helper()
	for l.lines.Scan() {
		l.seen = append(l.seen, l.lines.Text())
		if strings.Contains(l.lines.Text(), text) {
			return
		}
	}
	t.Fatalf("the log ends without %q", text)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
