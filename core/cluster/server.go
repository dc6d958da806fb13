// The NATS server that a member carries in its own process.

package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	natsserver "github.com/nats-io/nats-server/v2/server"
)

// routeOffset is by how much the port at which members reach one another is above
// the clients', as 6222 is above 4222.
const routeOffset = 2000

// user is who the nodes are to one another; the secret is the password.
const user = "mediad"

// server is a running NATS server.
type server struct {
	*natsserver.Server
	failed  chan error // what the server cannot go on with
	scratch string     // folder to be removed
}

// startServer starts the server. It does not wait for the other members.
func startServer(cfg Config, tls *tls.Config, log hclog.Logger) (*server, error) {
	s := &server{failed: make(chan error, 1)}
	opts, err := serverOptions(cfg, tls)
	if err != nil {
		return nil, err
	}
	if opts.StoreDir == "" {
		if s.scratch, err = os.MkdirTemp("", "mediad-cluster-"); err != nil {
			return nil, err
		}
		opts.StoreDir = s.scratch
	}
	if s.Server, err = natsserver.NewServer(opts); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.scratch))
	}
	s.SetLoggerV2(serverLog{log, s.failed}, false, false, false)
	s.Start()
	return s, nil
}

// stop ends the server. Where there are other members it hands over what it leads, so that they
// need not wait until they miss it.
func (s *server) stop() {
	if s.ClusterAddr() != nil {
		s.LameDuckShutdown()
	}
	s.Shutdown()
	s.WaitForShutdown()
	if s.scratch != "" {
		os.RemoveAll(s.scratch)
	}
}

func serverOptions(cfg Config, tls *tls.Config) (*natsserver.Options, error) {
	const mib = 1 << 20
	host, port, err := splitAddress(cfg.Listen)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	opts := &natsserver.Options{
		ServerName:             cfg.Name, // stable: the members know one another by it
		Host:                   host,
		Port:                   port,
		NoSigs:                 true,
		JetStream:              true,
		JetStreamMaxMemory:     256 * mib,
		JetStreamMaxStore:      64 * mib, // the members' notes about themselves: the records are in memory
		StoreDir:               cfg.Dir,
		DisableJetStreamBanner: true,
		PingInterval:           time.Second,
		MaxPingsOut:            2,
		TLSConfig:              tls,
		TLSVerify:              tls != nil,
		TLSTimeout:             2,
		AuthTimeout:            2,
		LameDuckDuration:       200 * time.Millisecond, // in which clients are sent away
		LameDuckGracePeriod:    50 * time.Millisecond,
	}
	if cfg.Secret != "" {
		opts.Username, opts.Password = user, cfg.Secret
	}
	if len(cfg.Join) < 2 {
		return opts, nil // without others it would wait for them for ever
	}
	opts.Cluster = natsserver.ClusterOpts{
		Name:         user,
		Host:         host,
		Port:         port + routeOffset,
		Username:     opts.Username,
		Password:     opts.Password,
		TLSConfig:    tls,
		TLSTimeout:   2,
		AuthTimeout:  2,
		NoAdvertise:  true, // clients are told all members by join
		PingInterval: time.Second,
		MaxPingsOut:  2,
	}
	for _, address := range cfg.Join { // this member's own is known as such by the server
		route, err := routeURL(address, cfg.Secret)
		if err != nil {
			return nil, err
		}
		opts.Routes = append(opts.Routes, route)
	}
	return opts, nil
}

func routeURL(address, secret string) (*url.URL, error) {
	host, port, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	u := &url.URL{Scheme: "nats", Host: net.JoinHostPort(host, strconv.Itoa(port+routeOffset))}
	if secret != "" {
		u.User = url.UserPassword(user, secret)
	}
	return u, nil
}

// tlsConfig is that of both ends, each of which checks the other; nil without certificates.
func (c *Config) tlsConfig() (*tls.Config, error) {
	if c.Cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("cert and key: %w", err)
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca: there is no certificate in %s", c.CA)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{pair},
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}, nil
}

// serverLog is the server's log as debugging lines of ours: what matters of it is
// logged once where it is noticed.
type serverLog struct {
	log    hclog.Logger
	failed chan<- error
}

func (l serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l serverLog) Warnf(format string, v ...any)   { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l serverLog) Debugf(format string, v ...any)  {}
func (l serverLog) Tracef(format string, v ...any)  {}

// Fatalf is called where a server of its own would exit.
func (l serverLog) Fatalf(format string, v ...any) {
	select {
	case l.failed <- fmt.Errorf(format, v...):
	default: // the first is enough
	}
}
