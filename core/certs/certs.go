// Package certs is the certificates of listeners, read anew when their files change.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Files are where the certificates are, in PEM.
type Files struct {
	Cert, Key string // of this machine; Cert is a chain, its own first
	// CA has the authorities that must have signed the other side's certificate.
	// "": clients show none.
	CA string
}

// Certs are what the files say.
type Certs struct {
	files Files
	log   hclog.Logger

	mu     sync.Mutex
	seen   stamps // of the files when they were read last
	config *tls.Config
}

// A stamp tells one content of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

// stamps are those of the three files, zero for one that is not given.
type stamps [3]stamp

// Read reads the files.
func Read(files Files, log hclog.Logger) (*Certs, error) {
	c := &Certs{files: files, log: log}
	var err error
	if c.seen, err = c.stamps(); err == nil {
		c.config, err = c.read()
	}
	return c, err
}

func (c *Certs) stamps() (list stamps, err error) {
	for i, name := range []string{c.files.Cert, c.files.Key, c.files.CA} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return list, err
		}
		list[i] = stamp{info.ModTime(), info.Size()}
	}
	return list, nil
}

func (c *Certs) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", c.files.Cert, c.files.Key, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if c.files.CA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(c.files.CA)
	if err != nil {
		return nil, err
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", c.files.CA)
	}
	config.MinVersion = tls.VersionTLS13
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs, config.RootCAs = authority, authority
	config.SessionTicketsDisabled = true // each connection shows its certificate
	return config, nil
}

// current returns what the files say. While they are wrong, what they said before holds.
func (c *Certs) current() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, err := c.stamps()
	if err == nil && seen == c.seen {
		return c.config
	}
	var config *tls.Config
	if err == nil {
		config, err = c.read()
	}
	if err != nil {
		c.log.Warn("certificates cannot be read, the old ones stay", "error", err)
		return c.config
	}
	c.seen, c.config = seen, config
	c.log.Info("certificates have changed", "cert", c.files.Cert)
	return config
}

// Server returns what a listener takes connections with. protocols are what it speaks
// inside (ALPN), if clients may ask.
func (c *Certs) Server(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			config := c.current().Clone()
			config.NextProtos = protocols
			return config, nil
		},
	}
}

// Client returns what the machine at host is dialled with.
func (c *Certs) Client(host string) *tls.Config {
	config := c.current().Clone()
	config.ServerName = host
	return config
}
