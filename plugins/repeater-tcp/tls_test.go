// Mutual TLS.

package repeatertcp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline/stagetest"
)

// An authority signs certificates of nodes.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.key = a.newKey()
	a.cert.Raw = a.sign(a.cert, &a.key.PublicKey)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) sign(c *x509.Certificate, key *ecdsa.PublicKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// settings writes a new node certificate for the host into dir, and returns the settings for it.
func (a *authority) settings(dir, host string) map[string]any {
	key := a.newKey()
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		cert.IPAddresses = []net.IP{ip}
	} else {
		cert.DNSNames = []string{host}
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	settings := map[string]any{"plain": "false"}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{
		{"cert", "CERTIFICATE", a.sign(cert, &key.PublicKey)},
		{"key", "PRIVATE KEY", keyDER},
		{"ca", "CERTIFICATE", a.cert.Raw},
	} {
		file := filepath.Join(dir, f.name+".pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			a.t.Fatal(err)
		}
		// As if it was written at another time, however coarse the clock of the file system is.
		when := time.Now().Add(time.Duration(-cert.SerialNumber.Int64()%1000) * time.Second)
		if err := os.Chtimes(file, when, when); err != nil {
			a.t.Fatal(err)
		}
		settings[f.name] = file
	}
	return settings
}

func TestTLS(t *testing.T) {
	film := stagetest.Film(5, 3000)
	library := stagetest.Library{"film": film}
	ours, theirs := newAuthority(t), newAuthority(t)
	plain := map[string]any{}
	for _, c := range []struct {
		name           string
		server, client map[string]any
		ok             bool
	}{
		{"one authority", ours.settings(t.TempDir(), "127.0.0.1"), ours.settings(t.TempDir(), "elsewhere"), true},
		{"a client of another", ours.settings(t.TempDir(), "127.0.0.1"), theirs.settings(t.TempDir(), "127.0.0.1"), false},
		{"the server is another host", ours.settings(t.TempDir(), "127.0.0.2"), ours.settings(t.TempDir(), "127.0.0.1"), false},
		{"a plain client", ours.settings(t.TempDir(), "127.0.0.1"), plain, false},
		{"a plain server", plain, ours.settings(t.TempDir(), "127.0.0.1"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := newNode(t, "a", c.server, library), newNode(t, "b", c.client)
			b.knows(a.peer())
			if c.ok {
				if hash(readAll(t, b, media.OpenRequest{Name: "film"})) != hash(film) {
					t.Error("other frames came than were sent")
				}
				return
			}
			_, err := b.Open(t.Context(), media.OpenRequest{Name: "film"})
			if !errors.Is(err, media.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			t.Log(err)
		})
	}
	// A client that knows the authority of the server, but is of another: the server must refuse.
	mixed := theirs.settings(t.TempDir(), "127.0.0.1")
	mixed["ca"] = ours.settings(t.TempDir(), "127.0.0.1")["ca"]
	a, b := newNode(t, "a", ours.settings(t.TempDir(), "127.0.0.1"), library), newNode(t, "b", mixed)
	b.knows(a.peer())
	if _, err := b.Open(t.Context(), media.OpenRequest{Name: "film"}); !errors.Is(err, media.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the server has refused", func() bool { return a.refusals(refusedHandshake) > 0 })
}

// TestTLSChanges replaces all certificates by those of another authority.
func TestTLSChanges(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	dirs := []string{t.TempDir(), t.TempDir()}
	film := stagetest.Film(2, 300)
	a := newNode(t, "a", before.settings(dirs[0], "127.0.0.1"), stagetest.Library{"film": film})
	b := newNode(t, "b", before.settings(dirs[1], "127.0.0.1"))
	b.knows(a.peer())
	readAll(t, b, media.OpenRequest{Name: "film"})

	after.settings(dirs[0], "127.0.0.1")
	c := newNode(t, "c", after.settings(t.TempDir(), "127.0.0.1"))
	c.knows(a.peer())
	readAll(t, c, media.OpenRequest{Name: "film"})

	// Files that make no sense change nothing.
	if err := os.WriteFile(filepath.Join(dirs[0], "cert.pem"), []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newNode(t, "d", after.settings(t.TempDir(), "127.0.0.1"))
	d.knows(a.peer())
	readAll(t, d, media.OpenRequest{Name: "film"})
}
