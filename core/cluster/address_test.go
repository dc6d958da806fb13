package cluster

import "testing"

func TestHost(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"a member that listens at one address", Config{Role: Member, Listen: "10.1.2.3:4222", Join: []string{"127.0.0.1:4222"}}, "10.1.2.3"},
		{"a member that listens at all", Config{Role: Member, Listen: ":4222", Join: []string{"127.0.0.1:4222"}}, "127.0.0.1"},
		{"a client", Config{Role: Client, Listen: ":4222", Join: []string{"nobody.invalid:4222", "127.0.0.1:4222"}}, "127.0.0.1"},
		{"an outside NATS", Config{Role: Member, Listen: ":4222", NATS: "nats://user:word@127.0.0.1,nats://127.0.0.2:4222"}, "127.0.0.1"},
		{"no others", Config{Role: Member, Listen: ":4222"}, ""},
	} {
		if got := c.cfg.host(t.Context()); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct{ listener, host, want string }{
		{"10.1.2.3:4100", "10.9.9.9", "10.1.2.3:4100"},
		{"a.example:4100", "10.9.9.9", "a.example:4100"},
		{"[::]:4100", "10.9.9.9", "10.9.9.9:4100"},
		{"0.0.0.0:4100", "fd00::1", "[fd00::1]:4100"},
		{":4100", "", ""},
		{"", "10.9.9.9", ""},
	} {
		if got := (&Cluster{host: c.host}).find(c.listener); got != c.want {
			t.Errorf("%q at %q is found at %q, want %q", c.listener, c.host, got, c.want)
		}
	}
}
