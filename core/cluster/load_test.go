package cluster

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
)

// quiet is a node alone that is not served.
func quiet(t *testing.T) *Cluster {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Name = "a"
	c, err := Over(NewMemory().Node("a"), cfg, hclog.NewNullLogger(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// machine is /proc after so many seconds in which everything was in use to a part.
func machine(seconds float64, use Load, quota string) fs.FS {
	const hertz, network = 100, 1e6
	busy := seconds * hertz * use.CPU
	return fstest.MapFS{
		"proc/stat": {Data: fmt.Appendf(nil, "cpu  %.0f 0 0 %.0f 0 0 0 0 0 0\ncpu0 1 2 3 4\n", busy, seconds*hertz-busy)},
		"proc/net/dev": {Data: fmt.Appendf(nil, "Inter-|   Receive  |  Transmit\n face |bytes    packets\n"+
			"    lo: 99999999999 0 0 0 0 0 0 0 99999999999 0 0 0 0 0 0 0\n  eth0: %.0f 0 0 0 0 0 0 0 1000 0 0 0 0 0 0 0\n", seconds*network*use.Network)},
		"proc/diskstats":                {Data: fmt.Appendf(nil, "   8       0 sda 1 0 8 0 1 0 8 0 0 %.0f 0 0 0 0 0\n   7       0 loop0 1 0 8 0 1 0 8 0 0 99999999 0 0\n", seconds*1000*use.Disk)},
		"proc/self/cgroup":              {Data: []byte("0::/box\n")},
		"sys/fs/cgroup/box/cpu.max":     {Data: []byte(quota)},
		"sys/fs/cgroup/box/cpu.stat":    {Data: fmt.Appendf(nil, "usage_usec %.0f\nuser_usec 1\n", seconds*1e6*use.CPU)},
		"sys/fs/cgroup/box/memory.stat": {},
	}
}

func TestLoad(t *testing.T) {
	use := Load{CPU: 0.2, Network: 0.5, Disk: 0.75}
	for _, c := range []struct {
		name, quota string
		want        Load
	}{
		{"without a quota", "max 100000\n", use},
		{"with half a processor", "50000 100000\n", Load{CPU: 0.4, Network: 0.5, Disk: 0.75}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSampler(machine(0, use, c.quota), 1e6)
				near := func(got, want float64) bool { return math.Abs(got-want) < 0.01 }
				var at time.Duration
				run := func(d time.Duration) Load {
					for end := at + d; at < end; at += beatEvery {
						time.Sleep(beatEvery)
						s.root = machine((at + beatEvery).Seconds(), use, c.quota)
						s.sample()
					}
					return s.load
				}
				s.sample()
				if got := run(smooth); !near(got.Disk, (1-1/math.E)*c.want.Disk) {
					t.Errorf("after a second the disk's load is %.3f", got.Disk)
				}
				if got := run(10 * time.Second); !near(got.CPU, c.want.CPU) || !near(got.Network, c.want.Network) || !near(got.Disk, c.want.Disk) {
					t.Errorf("load %+v, want %+v", got, c.want)
				}
				if got := s.load.Max(); !near(got, 0.75) {
					t.Errorf("the busiest resource is in use to %.3f", got)
				}
				s.root = fstest.MapFS{} // no such system
				time.Sleep(time.Minute)
				if got := s.sample(); got.Max() > 0.01 {
					t.Errorf("without /proc the load is %+v", got)
				}
			})
		})
	}
}

// This machine's files can be read.
func TestLoadHere(t *testing.T) {
	if _, err := os.Stat("/proc/stat"); err != nil {
		return // another system
	}
	s := newSampler(root, 125e6)
	s.sample()
	for start := time.Now(); time.Since(start) < smooth; {
		s.sample() // is work
	}
	if l := s.load; l.CPU <= 0 || l.Max() > 1 {
		t.Errorf("load %+v", l)
	}
}
