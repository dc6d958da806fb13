package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/stage"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*Config)
		setting string // that is wrong, "" for none
		says    string
	}{
		{"alone", func(c *Config) { c.Listen = "" }, "", ""},
		{"member on loopback", func(c *Config) { c.Listen = "127.0.0.1:4222" }, "", ""},
		{"three members", func(c *Config) { c.Join, c.Secret = []string{"a:4222", "b:4222", "c:4222"}, "s" }, "", ""},
		{"client", func(c *Config) { c.Role, c.Join, c.Secret = Client, []string{"a:4222"}, "s" }, "", ""},
		{"outside", func(c *Config) { c.NATS = "nats://user:password@a:4222,nats://b:4222" }, "", ""},
		{"no name", func(c *Config) { c.Name = "" }, "name", "1 to 63"},
		{"a name with a space", func(c *Config) { c.Name = "my node" }, "name", `' '`},
		{"open to all", func(c *Config) {}, "secret", ":4222"},
		{"a client without a secret", func(c *Config) { c.Role, c.Join = Client, []string{"a:4222"} }, "secret", "a:4222"},
		{"a client of nobody", func(c *Config) { c.Role = Client }, "join", "missing"},
		{"two members", func(c *Config) { c.Join, c.Secret = []string{"a:4222", "b:4222"}, "s" }, "join", "three"},
		{"join without a port", func(c *Config) { c.Join = []string{"a"} }, "join", "host:port"},
		{"listen without a port", func(c *Config) { c.Listen = "127.0.0.1" }, "listen", "host:port"},
		{"no port for the members", func(c *Config) { c.Listen = "127.0.0.1:64000" }, "listen", "2000"},
		{"not listening", func(c *Config) { c.Listen, c.Join = "", []string{"a:4222"} }, "listen", "reach"},
		{"no URL", func(c *Config) { c.NATS = "a" }, "nats", "nats://"},
		{"two engines", func(c *Config) { c.NATS, c.Join = "nats://a:4222", []string{"b:4222"} }, "join", "nats"},
		{"half a certificate", func(c *Config) { c.Cert = "node.pem" }, "cert", "together"},
		{"no network", func(c *Config) { c.Network = 0 }, "network", "125MB"},
	} {
		cfg := DefaultConfig()
		cfg.Name = "a"
		c.change(&cfg)
		err := cfg.Check()
		var wrong *stage.SettingError
		switch {
		case c.setting == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.setting != "" && (!errors.As(err, &wrong) || wrong.Setting != c.setting || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %s ... %s", c.name, err, c.setting, c.says)
		}
	}
}

// The settings are described and filled as a stage's are.
func TestConfigSettings(t *testing.T) {
	kind := stage.Kind{Settings: func() any { cfg := DefaultConfig(); return &cfg }}
	for _, s := range kind.Describe() {
		if s.Doc == "" {
			t.Errorf("%s has no description", s.Name)
		}
	}
	got, err := kind.Decode(map[string]any{
		"name": "west", "role": "client", "join": []string{"a:4222", "b:4222", "c:4222"}, "secret": "s", "network": "1GB",
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg := got.(*Config); cfg.Role != Client || len(cfg.Join) != 3 || cfg.Network != 1e9 {
		t.Errorf("filled: %+v", cfg)
	}
	if _, err := kind.Decode(map[string]any{"role": "boss"}); err == nil {
		t.Error("there is no role boss")
	}
}

func FuzzRecord(f *testing.F) {
	r := Record{Key: Key{"live/show", "b"}, Node: "b", Session: "s", Since: time.Unix(1, 0), Path: []string{"a", "b"}}
	f.Add(r.Key.encode(), r.encode())
	r = Record{Key: Key{Channel: "live/show"}, Node: "a", Session: "s", Since: time.Unix(1, 0), Origin: time.Unix(2, 0)}
	f.Add(r.Key.encode(), r.encode())
	f.Add("h.x", []byte("{"))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r, err := decodeRecord(key, value, 7, false)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.Key.encode(), r.encode(), 7, false)
		if err != nil || !again.says(r) || again.Revision != 7 {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"beat":{"node":"b","session":"s","since":"2026-11-22T20:20:31Z","load":{"cpu":0.5}}}`))
	f.Add([]byte(`{"question":{"id":"1","from":"b","topic":"viewers"}}`))
	f.Add([]byte(`{"answer":{"id":"1","from":"b","body":"e30="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := quiet(t)
		c.Message(b)
		for _, n := range c.Nodes() {
			if checkNode(n.Name) != nil {
				t.Errorf("there is a node %q", n.Name)
			}
		}
	})
}
