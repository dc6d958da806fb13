package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
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

	"github.com/hashicorp/go-hclog"
)

// write makes a certificate for 127.0.0.1 that signs itself.
func write(t *testing.T, dir, name string) Files {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for file, block := range map[string]*pem.Block{f.Cert: {Type: "CERTIFICATE", Bytes: cert}, f.Key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// shake makes a connection between two configurations.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		a, err := l.Accept()
		if err == nil {
			_, err = tls.Server(a, server).Write([]byte("x"))
			_ = a.Close()
		}
		served <- err
	}()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(b, client)
	_, err = c.Read(make([]byte, 1)) // in TLS 1.3 a server refuses after the client's handshake is done
	_ = b.Close()
	return c.ConnectionState(), errors.Join(err, <-served)
}

func TestCertificatesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	files := write(t, dir, "first")
	c, err := Read(files, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	trusting := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}} //nolint:gosec // what is shown is compared
	shown := func() string {
		t.Helper()
		state, err := shake(t, c.Server("http/1.1"), trusting)
		if err != nil {
			t.Fatal(err)
		}
		if state.NegotiatedProtocol != "http/1.1" {
			t.Errorf("protocol %q", state.NegotiatedProtocol)
		}
		return state.PeerCertificates[0].Subject.CommonName
	}
	if got := shown(); got != "first" {
		t.Errorf("shows %s", got)
	}
	write(t, dir, "the second one")
	if got := shown(); got != "the second one" {
		t.Errorf("after a change it shows %s", got)
	}
	if err := os.WriteFile(files.Key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "the second one" {
		t.Errorf("while the files are wrong it shows %s", got)
	}
	if _, err := Read(files, hclog.NewNullLogger()); err == nil {
		t.Error("wrong files were read")
	}
}

func TestBothSidesAreChecked(t *testing.T) {
	ours, theirs := write(t, t.TempDir(), "ours"), write(t, t.TempDir(), "theirs")
	ours.CA, theirs.CA = ours.Cert, theirs.Cert
	read := func(f Files) *Certs {
		t.Helper()
		c, err := Read(f, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	us, them := read(ours), read(theirs)
	if _, err := shake(t, us.Server(), us.Client("127.0.0.1")); err != nil {
		t.Error(err)
	}
	if _, err := shake(t, us.Server(), them.Client("127.0.0.1")); err == nil {
		t.Error("a server of another authority was believed")
	}
	stranger := them.Client("127.0.0.1")
	stranger.InsecureSkipVerify = true
	if _, err := shake(t, us.Server(), stranger); err == nil {
		t.Error("a client of another authority was let in")
	}
	if _, err := shake(t, us.Server(), us.Client("127.0.0.2")); err == nil {
		t.Error("a certificate for another host was believed")
	}
}
