package access

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "0123456789abcdef0123456789abcdef"

func guard(t *testing.T, s Settings) *Guard {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	g, err := New(s, hclog.NewNullLogger(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func watch(name, address, token string) Request {
	return Request{Play, "rtmp", "live", name, netip.MustParseAddr(address), url.Values{"token": {token}}}
}

func sign(t *testing.T, method jwt.SigningMethod, key any, c jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, c).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNetworks(t *testing.T) {
	nets := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []struct {
		allow, deny []netip.Prefix
		address     string
		in          bool
	}{
		{nil, nil, "203.0.113.9", true},
		{nets("10.0.0.0/8"), nil, "10.1.2.3", true},
		{nets("10.0.0.0/8"), nil, "::ffff:10.1.2.3", true},
		{nets("10.0.0.0/8"), nil, "11.1.2.3", false},
		{nets("10.0.0.0/8"), nets("10.1.0.0/16"), "10.1.2.3", false},
		{nil, nets("2001:db8::/32"), "2001:db8::1", false},
		{nil, nets("2001:db8::/32"), "2001:db9::1", true},
	} {
		_, err := guard(t, Settings{Allow: c.allow, Deny: c.deny}).Admit(t.Context(), watch("show", c.address, ""))
		if (err == nil) != c.in || err != nil && !errors.Is(err, media.ErrDenied) {
			t.Errorf("allow %v deny %v: %s: %v", c.allow, c.deny, c.address, err)
		}
	}
}

func TestTokens(t *testing.T) {
	exp := time.Now().Add(time.Hour).Unix()
	hs := func(c jwt.MapClaims) string { return sign(t, jwt.SigningMethodHS256, []byte(secret), c) }
	for name, c := range map[string]struct {
		token, address string
		want           string // part of the error; "": admitted
	}{
		"right":          {hs(jwt.MapClaims{"name": "live/show", "exp": exp}), "192.0.2.1", ""},
		"pattern":        {hs(jwt.MapClaims{"name": "live/*", "exp": exp}), "192.0.2.1", ""},
		"missing":        {"", "192.0.2.1", "missing"},
		"other name":     {hs(jwt.MapClaims{"name": "live/other", "exp": exp}), "192.0.2.1", "is for"},
		"wider pattern":  {hs(jwt.MapClaims{"name": "*", "exp": exp}), "192.0.2.1", "is for"},
		"broken pattern": {hs(jwt.MapClaims{"name": "live/[", "exp": exp}), "192.0.2.1", "is for"},
		"no name":        {hs(jwt.MapClaims{"exp": exp}), "192.0.2.1", "is for"},
		"expired":        {hs(jwt.MapClaims{"name": "live/show", "exp": exp - 7200}), "192.0.2.1", "expired"},
		"no expiry":      {hs(jwt.MapClaims{"name": "live/show"}), "192.0.2.1", "exp"},
		"not yet":        {hs(jwt.MapClaims{"name": "live/show", "exp": exp, "nbf": exp - 60}), "192.0.2.1", "not valid yet"},
		"to publish":     {hs(jwt.MapClaims{"name": "live/show", "exp": exp, "actions": []string{"publish"}}), "192.0.2.1", "action"},
		"address":        {hs(jwt.MapClaims{"name": "live/show", "exp": exp, "address": "192.0.2.1"}), "192.0.2.1", ""},
		"network":        {hs(jwt.MapClaims{"name": "live/show", "exp": exp, "address": "192.0.2.0/24"}), "192.0.2.1", ""},
		"other address":  {hs(jwt.MapClaims{"name": "live/show", "exp": exp, "address": "192.0.2.2"}), "192.0.2.1", "another address"},
		"no address":     {hs(jwt.MapClaims{"name": "live/show", "exp": exp, "address": "here"}), "192.0.2.1", "another address"},
		"other secret":   {sign(t, jwt.SigningMethodHS256, []byte(strings.ToUpper(secret)), jwt.MapClaims{"name": "live/show", "exp": exp}), "192.0.2.1", "signature"},
		"other method":   {sign(t, jwt.SigningMethodHS512, []byte(secret), jwt.MapClaims{"name": "live/show", "exp": exp}), "192.0.2.1", "method"},
		"none as method": {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"name": "live/show", "exp": exp}), "192.0.2.1", "method"},
		"not a token":    {"x.y", "192.0.2.1", "malformed"},
	} {
		_, err := guard(t, Settings{Secret: secret}).Admit(t.Context(), watch("show", c.address, c.token))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.Is(err, media.ErrDenied) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestPublicKey(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	g := guard(t, Settings{PublicKey: file})
	c := jwt.MapClaims{"name": "live/show", "exp": time.Now().Add(time.Hour).Unix()}
	if _, err := g.Admit(t.Context(), watch("show", "192.0.2.1", sign(t, jwt.SigningMethodEdDSA, private, c))); err != nil {
		t.Error(err)
	}
	// The public key is no secret, so it may not sign.
	if _, err := g.Admit(t.Context(), watch("show", "192.0.2.1", sign(t, jwt.SigningMethodHS256, text, c))); !errors.Is(err, media.ErrDenied) {
		t.Errorf("signed with the public key: %v", err)
	}
	if _, err := New(Settings{PublicKey: filepath.Join(t.TempDir(), "none")}, hclog.NewNullLogger(), prometheus.NewRegistry()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no key: %v", err)
	}
}

func TestLimits(t *testing.T) {
	token := func(id string) string {
		return sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"name": "live/*", "jti": id, "viewers": 2, "exp": time.Now().Add(time.Hour).Unix()})
	}
	g := guard(t, Settings{Secret: secret, PerName: 3, PerAddress: 2})
	admit := func(name, address, token string) (*Pass, bool) {
		p, err := g.Admit(t.Context(), watch(name, address, token))
		if err != nil && !errors.Is(err, media.ErrDenied) {
			t.Fatal(err)
		}
		return p, err == nil
	}
	first, ok1 := admit("a", "192.0.2.1", token("x"))
	_, ok2 := admit("a", "192.0.2.2", token("x"))
	_, user := admit("a", "192.0.2.3", token("x"))
	_, ok3 := admit("a", "192.0.2.3", token("y"))
	_, named := admit("a", "192.0.2.4", token("z"))
	_, ok4 := admit("b", "192.0.2.3", token("y"))
	_, address := admit("c", "192.0.2.3", token("z"))
	if !ok1 || !ok2 || !ok3 || !ok4 {
		t.Error("somebody within the limits was refused")
	}
	if user || named || address {
		t.Errorf("beyond the limits: token %v, name %v, address %v", user, named, address)
	}
	first.Done(0)
	first.Done(0)
	if _, ok := admit("a", "192.0.2.4", token("x")); !ok {
		t.Error("a place that was given back is not there")
	}
	if _, ok := admit("a", "192.0.2.5", token("v")); ok {
		t.Error("a place was given back twice")
	}
	if got := testutil.ToFloat64(g.refused.WithLabelValues("limit")); got != 4 {
		t.Errorf("%v refusals counted, want 4", got)
	}
}

func TestClients(t *testing.T) {
	g := guard(t, Settings{PerName: 10})
	admit := func(action Action, name, address string) *Pass {
		r := watch(name, address, "")
		r.Action = action
		p, err := g.Admit(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	kicked := ""
	publisher, viewer, fetcher := admit(Publish, "a", "192.0.2.1"), admit(Play, "a", "::ffff:192.0.2.2"), admit(Play, "b", "192.0.2.2")
	publisher.OnKick(func() { kicked += "publisher " })
	viewer.OnKick(func() { kicked += "viewer " })
	new(Pass).OnKick(nil) // of a ticket
	list := func() (s string) {
		for _, c := range g.Clients() {
			s += fmt.Sprintf("%d %s %s %s %v\n", c.ID, c.Action, c.Name, c.Address, c.Kickable)
		}
		return s
	}
	if got, want := list(), "1 publish live/a 192.0.2.1 true\n2 play live/a 192.0.2.2 true\n3 play live/b 192.0.2.2 false\n"; got != want {
		t.Errorf("the clients are\n%swant\n%s", got, want)
	}
	if n := g.Kick(func(c Client) bool { return c.Address == netip.MustParseAddr("192.0.2.2") }); n != 1 || kicked != "viewer " {
		t.Errorf("%d were thrown out: %s, want the viewer", n, kicked)
	}
	viewer.Done(0)
	fetcher.Done(0)
	if n := g.Kick(func(Client) bool { return true }); n != 1 || kicked != "viewer publisher " {
		t.Errorf("%d were thrown out, now %s", n, kicked)
	}
	publisher.Done(0)
	if got := list(); got != "" {
		t.Errorf("when all have left there are\n%s", got)
	}
}

// service is a callback in memory, as synctest needs it.
type service struct {
	mu     sync.Mutex
	asked  []message
	answer func(message) (status int, age, body string)
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	var m message
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.asked = append(s.asked, m)
	s.mu.Unlock()
	status, age, body := s.answer(m)
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	res := &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}
	res.Header.Set("Cache-Control", age)
	return res, nil
}

func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func TestCallbackCachesAndHonours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusOK
		s := &service{answer: func(m message) (int, string, string) {
			if m.Name == "secret" && status == http.StatusOK {
				return http.StatusForbidden, "private, max-age=10", "not\x1b for you\nsecond line"
			}
			return status, "max-age=60", ""
		}}
		g := guard(t, Settings{Callback: "http://auth.invalid/", Grace: 5 * time.Minute})
		g.callback.client.Transport = s
		ask := func(name string) error {
			_, err := g.Admit(t.Context(), watch(name, "192.0.2.1", ""))
			return err
		}
		if err := ask("show"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		if err := ask("show"); err != nil || s.count() != 1 {
			t.Errorf("within max-age: %v, asked %d times", err, s.count())
		}
		if err := ask("secret"); !errors.Is(err, media.ErrDenied) || !strings.HasSuffix(err.Error(), ": not for you") {
			t.Errorf("refusal: %v", err)
		}
		_ = ask("secret")
		if s.count() != 2 {
			t.Errorf("a refusal was not kept: asked %d times", s.count())
		}
		status = 0
		time.Sleep(2 * time.Second)
		if err := ask("show"); err != nil {
			t.Errorf("a grant is not honoured while the callback fails: %v", err)
		}
		if err := ask("new"); !errors.Is(err, media.ErrUnavailable) {
			t.Errorf("a stranger while the callback fails: %v", err)
		}
		time.Sleep(time.Minute)
		if err := ask("secret"); !errors.Is(err, media.ErrDenied) {
			t.Errorf("a refusal is not honoured while the callback fails: %v", err)
		}
		time.Sleep(5 * time.Minute)
		if err := ask("show"); !errors.Is(err, media.ErrUnavailable) {
			t.Errorf("honoured beyond its grace: %v", err)
		}
		status = http.StatusOK
		time.Sleep(maxRest)
		if err := ask("show"); err != nil {
			t.Errorf("the callback is back: %v", err)
		}
	})
}

func TestCallbackIsNotStormed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{answer: func(message) (int, string, string) {
			time.Sleep(time.Second)
			return http.StatusInternalServerError, "", ""
		}}
		g := guard(t, Settings{Callback: "http://auth.invalid/", Grace: time.Minute})
		g.callback.client.Transport = s
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				for range 60 {
					if _, err := g.Admit(t.Context(), watch("show", "192.0.2.1", "")); !errors.Is(err, media.ErrUnavailable) {
						t.Error(err)
					}
					time.Sleep(time.Second)
				}
			})
		}
		all.Wait()
		if n := s.count(); n > 12 {
			t.Errorf("1000 clients that try again each second asked %d times in a minute", n)
		}
	})
}

func TestCallbackIsToldOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{answer: func(message) (int, string, string) { return http.StatusOK, "", "" }}
		g := guard(t, Settings{Callback: "http://auth.invalid/"})
		g.callback.client.Transport = s
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan struct{})
		go func() {
			defer close(served)
			g.Serve(ctx)
		}()
		p, err := g.Admit(t.Context(), watch("show", "192.0.2.1", "x"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(90 * time.Second)
		stop()
		p.Done(12345) // what is told while the stage stops is not lost
		<-served
		last := s.asked[len(s.asked)-1]
		if last.Action != "done" || last.Was != Play || last.Bytes != 12345 || last.Seconds != 90 || last.Params["token"][0] != "x" {
			t.Errorf("told %+v", last)
		}
	})
}

// A callback that sends elsewhere is not followed: it would be asked in our name.
func TestCallbackRedirects(t *testing.T) {
	var followed atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	g := guard(t, Settings{Callback: server.URL})
	_, err := g.Admit(t.Context(), watch("show", "192.0.2.1", ""))
	if !errors.Is(err, media.ErrUnavailable) || followed.Load() {
		t.Errorf("%v, followed %v", err, followed.Load())
	}
	g.callback.client.CloseIdleConnections()
}

func TestCheck(t *testing.T) {
	for want, s := range map[string]Settings{
		"access.secret":      {Secret: "short"},
		"access.public-key":  {Secret: secret, PublicKey: "key.pem"},
		"access.callback":    {Callback: "ftp://x"},
		"access.per-name":    {PerName: -1},
		"access.per-address": {PerAddress: -1},
	} {
		if err := s.Check(); err == nil || !strings.HasPrefix(err.Error(), want+": ") {
			t.Errorf("%+v: %v, want one about %s", s, err, want)
		}
	}
}
