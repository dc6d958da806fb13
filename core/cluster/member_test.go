// Nodes as they run: members that carry the directory, clients, an outside NATS.

package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
)

// build makes a node that is not served yet.
func build(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	c, err := New(cfg, hclog.NewNullLogger(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c.Serves(cfg.Name + ":4100")
	return c
}

// members are the settings of three members and a client.
func members(change func(*Config)) (all []Config) {
	net := subnet()
	join := []string{net + "1:4222", net + "2:4222", net + "3:4222"}
	for i, name := range []string{"a", "b", "c", "client"} {
		cfg := DefaultConfig()
		cfg.Name, cfg.Join, cfg.Secret = name, join, "s3cret"
		if i < len(join) {
			cfg.Listen = join[i]
		} else {
			cfg.Role = Client
		}
		change(&cfg)
		all = append(all, cfg)
	}
	return all
}

func TestMembers(t *testing.T) {
	folder := t.TempDir()
	for name, change := range map[string]func(*Config){
		"plain": func(*Config) {},
		"TLS": func(cfg *Config) {
			if cfg.Name == "a" {
				makeCertificates(t, folder, cfg.Join)
			}
			cfg.CA, cfg.Cert, cfg.Key = folder+"/ca.pem", folder+"/node.pem", folder+"/node.key"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var nodes []*Cluster
			leave := map[string]func(){}
			for _, cfg := range members(change) {
				c := build(t, cfg)
				nodes = append(nodes, c)
				claim(t, c, c.name+"/show", false)
			}
			for _, c := range nodes { // none of them waits for the others
				leave[c.name] = run(t, c)
			}
			onAir := func(c *Cluster, names ...string) func() bool {
				return func() bool {
					return !slices.ContainsFunc(names, func(name string) bool { return owner(c, name+"/show") != name })
				}
			}
			for _, c := range nodes {
				eventually(t, slow, c.name+" knows all channels", onAir(c, "a", "b", "c", "client"))
			}
			leave["a"]()
			start := time.Now()
			late := claim(t, nodes[1], "late/show", false)
			eventually(t, slow, "the others go on", registered(nodes[1], late))
			t.Logf("registered %v after a member left", time.Since(start))
			eventually(t, slow, "a is gone", sees(nodes[3], nodes[0], Dead))
			if owner(nodes[3], "a/show") != "" || !onAir(nodes[3], "b", "c", "client")() {
				t.Errorf("channels: %+v", nodes[3].Channels())
			}
		})
	}
}

// Two machines: one carries the directory, the other uses it.
func TestMemberAndClient(t *testing.T) {
	one, two := DefaultConfig(), DefaultConfig()
	one.Name, one.Listen = "one", subnet()+"1:4222"
	two.Name, two.Role, two.Join = "two", Client, []string{one.Listen}
	client := build(t, two)
	begin := claim(t, client, "two/show", false) // before anybody is there
	run(t, client)
	member := build(t, one)
	start := time.Now()
	serve(t, member)
	eventually(t, slow, "the member knows the directory", registered(member, claim(t, member, "one/show", false)))
	t.Logf("a member alone was ready in %v", time.Since(start))
	eventually(t, slow, "the client's channel is registered", registered(client, begin))
	eventually(t, slow, "the member knows the client's channel", owns(member, "two/show", "two"))
	eventually(t, slow, "the client knows the member's channel", owns(client, "one/show", "one"))
}

func TestAlone(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Listen = ""
	c := build(t, cfg)
	serve(t, c)
	eventually(t, slow, "registered", registered(c, claim(t, c, "show", false)))
}

func TestListenTaken(t *testing.T) {
	l, err := net.Listen("tcp", subnet()+"1:4222")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := DefaultConfig()
	cfg.Listen = l.Addr().String()
	err = build(t, cfg).Serve(t.Context())
	if err == nil || !strings.Contains(err.Error(), cfg.Listen) {
		t.Errorf("the address is taken: %v", err)
	}
}

func TestWrongSecret(t *testing.T) {
	cfgs := members(func(cfg *Config) { cfg.Join = cfg.Join[:1] })
	serve(t, build(t, cfgs[0]))
	stranger := cfgs[3]
	stranger.Secret = "guessed"
	log := &logged{}
	c, err := New(stranger, hclog.New(&hclog.LoggerOptions{Output: log}), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	run(t, c)
	eventually(t, slow, "the refusal is logged", func() bool { return log.count("cannot connect to the directory") > 0 })
	time.Sleep(time.Second) // of further tries
	if isHearing(c)() {
		t.Fatal("a stranger got in")
	}
	if n := log.count("cannot connect to the directory"); n != 1 {
		t.Errorf("the cause was logged %d times", n)
	}
}

// makeCertificates writes an authority's certificate and one that all nodes use to a folder.
func makeCertificates(t *testing.T, folder string, addresses []string) {
	t.Helper()
	write := func(file, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(folder, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	write("ca.pem", "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)))
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	node := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, address := range addresses {
		host, _, _ := splitAddress(address)
		node.IPAddresses = append(node.IPAddresses, net.ParseIP(host))
	}
	write("node.pem", "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, node, ca, &key.PublicKey, caKey)))
	write("node.key", "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key)))
}

// logged is a log that can be looked into.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}
