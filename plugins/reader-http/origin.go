// Requests to the origin: what they may reach, how long they may take, and when
// they are tried again.

package readerhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	maxRedirects = 5
	// pace is how many bytes must arrive within each timeout. Media that came
	// slower could not be played.
	pace = 64 << 10
	// The wait before a request is tried again doubles each time.
	minWait = 200 * time.Millisecond
	maxWait = 5 * time.Second
)

// What may be wrong with an origin's answers, besides its status.
var (
	errSlow     = errors.New("the origin is too slow")
	errRedirect = errors.New("the origin redirects to where it may not")
	errAnswer   = errors.New("the origin's answer makes no sense")
)

// A statusError is a status other than 200 and 206.
type statusError int

func (e statusError) Error() string {
	return fmt.Sprintf("the origin answers %d %s", int(e), http.StatusText(int(e)))
}

func (e statusError) Unwrap() error {
	switch e {
	case http.StatusNotFound, http.StatusGone:
		return media.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return media.ErrDenied
	}
	return media.ErrUnavailable
}

// passing reports whether a request that failed may do better in a moment. A slow
// origin has had its time.
func passing(err error) bool {
	var status statusError
	if errors.As(err, &status) {
		return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
	}
	for _, final := range []error{errSlow, errRedirect, errAnswer, media.ErrChanged, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}

// An origin is where the files are.
type origin struct {
	log      hclog.Logger
	base     *url.URL
	header   http.Header
	timeout  time.Duration
	retries  int
	wait     time.Duration // about, before the first retry
	spool    int64         // most bytes
	spooled  atomic.Int64  // in the temporary folder now
	client   *http.Client
	requests prometheus.Counter
	retried  prometheus.Counter
	read     prometheus.Counter

	mu     sync.Mutex
	visits map[string]*visit // under way, by URL and number of bytes
}

func newOrigin(s Settings, log hclog.Logger) (*origin, error) {
	base, err := s.base()
	if err != nil {
		return nil, stage.Wrong("url", "%w", err)
	}
	header, err := s.header()
	if err != nil {
		return nil, stage.Wrong("headers", "%w", err)
	}
	o := &origin{
		log: log, base: base, header: header, timeout: s.Timeout, retries: s.Retries, wait: minWait, spool: int64(s.Spool),
		visits: map[string]*visit{},
		requests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_reader_http_requests_total", Help: "Requests to the origin."}),
		retried: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_reader_http_retries_total", Help: "Requests to the origin that were tried again."}),
		read: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_reader_http_read_bytes_total", Help: "Bytes read from the origin."}),
	}
	o.client = &http.Client{
		CheckRedirect: o.checkRedirect,
		Transport: &http.Transport{
			DialContext:         o.dialer(s.AllowPrivate),
			TLSHandshakeTimeout: s.Timeout,
			MaxIdleConnsPerHost: 32,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true, // ranges are of the file itself
			ForceAttemptHTTP2:   true,
		},
	}
	return o, nil
}

// dialer returns what makes connections. The host of the base URL may be anywhere, the
// operator has named it. Any other, which only a redirect can name, must not be in this
// network, as seen after its name was resolved, so that no answer of a DNS server helps.
func (o *origin) dialer(private bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	port := o.base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[o.base.Scheme]
	}
	own := net.JoinHostPort(o.base.Hostname(), port)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{}
		if addr != own && !private {
			d.Control = refusePrivate
		}
		return d.DialContext(ctx, network, addr)
	}
}

// inner are networks besides those that package netip knows as private: this
// network (RFC 1122), shared address space (RFC 6598), benchmarks (RFC 2544), site-local (RFC 3879),
// and IPv4 in IPv6 (RFC 4291, 6052, 8215, 3056, 4380).
var inner = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("2001::/32"),
}

// refusePrivate is the Control of a dialer. It fails for addresses that are not public.
func refusePrivate(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := a.Addr().Unmap()
	public := ip.IsGlobalUnicast() && !ip.IsPrivate()
	for _, p := range inner {
		public = public && !p.Contains(ip)
	}
	if !public {
		return fmt.Errorf("%w: %s is not a public address (allow_private: true would let it)", errRedirect, ip)
	}
	return nil
}

// checkRedirect bounds redirects, and keeps the configured headers from other hosts.
func (o *origin) checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d times", errRedirect, maxRedirects)
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return fmt.Errorf("%w: %s", errRedirect, req.URL.Scheme)
	}
	if req.URL.Host != o.base.Host || req.URL.Scheme != o.base.Scheme {
		for name := range o.header {
			req.Header.Del(name)
		}
	}
	return nil
}

// url is where a name is.
func (o *origin) url(name string) string {
	elems := strings.Split(name, "/")
	for i, e := range elems {
		elems[i] = url.PathEscape(e)
	}
	return o.base.JoinPath(elems...).String()
}

// try calls do, and again when it fails for a passing reason.
func (o *origin) try(ctx context.Context, do func() error) error {
	for n := 0; ; n++ {
		err := do()
		if err == nil || n == o.retries || !passing(err) {
			return err
		}
		o.retried.Inc()
		if n == 0 {
			o.log.Info("the origin fails and is asked again", "error", err)
		}
		wait := min(o.wait<<n, maxWait)
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A reply is an answer with status 200 or 206. Its body ends with an error when ctx
// does or when the origin is slower than its pace.
type reply struct {
	*http.Response
	origin *origin
	ctx    context.Context
	cancel context.CancelCauseFunc
	clock  *time.Timer // cancels
	since  int         // bytes since the clock was set
}

// get asks for n bytes of a URL.
func (o *origin) get(ctx context.Context, url string, off, n int64) (*reply, error) {
	r := &reply{origin: o}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.clock = time.AfterFunc(o.timeout, func() {
		r.cancel(fmt.Errorf("%w: less than %d bytes in %v", errSlow, pace, o.timeout))
	})
	err := r.send(url, off, n)
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *reply) send(url string, off, n int64) error {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "mediad")
	for name, values := range r.origin.header {
		req.Header[name] = values
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	r.origin.requests.Inc()
	if r.Response, err = r.origin.client.Do(req); err != nil { //nolint:bodyclose // Close closes it
		return r.reason(err)
	}
	r.clock.Reset(r.origin.timeout)
	switch {
	case r.StatusCode != http.StatusOK && r.StatusCode != http.StatusPartialContent:
		return statusError(r.StatusCode)
	case r.Header.Get("Content-Encoding") != "" && r.Header.Get("Content-Encoding") != "identity":
		return fmt.Errorf("%w: it is encoded as %q", errAnswer, r.Header.Get("Content-Encoding"))
	}
	return nil
}

// reason is what is behind an error of the client, without the URL: its query may
// be a key.
func (r *reply) reason(err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// Read reads the body.
func (r *reply) Read(p []byte) (int, error) {
	n, err := r.Body.Read(p)
	r.origin.read.Add(float64(n))
	if r.since += n; r.since >= pace {
		r.since = 0
		r.clock.Reset(r.origin.timeout)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.reason(err)
	}
	return n, err
}

// Close ends the reply.
func (r *reply) Close() {
	r.clock.Stop()
	if r.Response != nil {
		r.Body.Close()
	}
	r.cancel(nil)
}

// A version tells one content of a URL from another.
type version struct {
	tag, modified string
	size          int64
}

func (r *reply) version(size int64) version {
	return version{r.Header.Get("ETag"), r.Header.Get("Last-Modified"), size}
}

// String names the version, "" when the origin does not.
func (v version) String() string {
	switch {
	case v.tag != "" && !strings.HasPrefix(v.tag, "W/"): // RFC 9110, 8.8.3: the same bytes
		return v.tag
	case v.modified != "":
		return fmt.Sprintf("%s %d", v.modified, v.size)
	}
	return ""
}

// same reports whether nothing says that v and w are of two contents.
func (v version) same(w version) bool {
	if v.tag != "" || w.tag != "" {
		return v.tag == w.tag && v.size == w.size
	}
	return v == w
}

// contentRange reads the Content-Range of an answer (RFC 9110, 14.4), which must begin at off.
// The size is of the whole file.
func (r *reply) contentRange(off int64) (n, size int64, err error) {
	value := r.Header.Get("Content-Range")
	var first, last int64
	if _, err := fmt.Sscanf(value, "bytes %d-%d/%d", &first, &last, &size); err != nil {
		return 0, 0, fmt.Errorf("%w: its range is %q", errAnswer, value)
	}
	n = last - first + 1
	if first != off || n <= 0 || last >= size || r.ContentLength >= 0 && r.ContentLength != n {
		return 0, 0, fmt.Errorf("%w: its range is %q with %d bytes, asked for was %d", errAnswer, value, r.ContentLength, off)
	}
	return n, size, nil
}
