// How busy this machine is, as Linux tells it in /proc. On other systems the files
// are not there and the load is 0.

package cluster

import (
	"bufio"
	"bytes"
	"io/fs"
	"iter"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mediad/mediad/core/stage"
)

// Load is how much of a machine's resources is in use, each 0 to 1.
type Load struct {
	CPU     float64 `json:"cpu"`
	Network float64 `json:"network"` // of the busiest interface, in its busier direction
	Disk    float64 `json:"disk"`    // the time that the busiest disk was working
}

// Max is the use of the busiest resource.
func (l Load) Max() float64 { return max(l.CPU, l.Network, l.Disk) }

var root = os.DirFS("/")

// smooth is the time after which about two thirds of a change are seen.
const smooth = time.Second

// sampler takes the load by comparing the kernel's counters with those of the
// sample before.
type sampler struct {
	root    fs.FS
	network float64 // bytes a second
	cgroup  string  // folder of this process in the hierarchy, version 2
	before  map[string]float64
	at      time.Time
	load    Load
}

func newSampler(root fs.FS, network stage.Size) *sampler {
	s := &sampler{root: root, network: float64(network), before: map[string]float64{}}
	for fields := range s.lines("proc/self/cgroup") {
		if path, ok := strings.CutPrefix(fields[0], "0::/"); ok {
			s.cgroup = path
		}
	}
	return s
}

// sample returns the smoothed load now.
func (s *sampler) sample() Load {
	now := time.Now()
	seconds := now.Sub(s.at).Seconds()
	first := s.at.IsZero()
	if !first && seconds <= 0 {
		return s.load
	}
	s.at = now
	l := Load{CPU: max(s.cpu(), s.quota(seconds)), Network: s.net(seconds), Disk: s.disk(seconds)}
	if first {
		return s.load // nothing to compare with
	}
	weight := 1 - math.Exp(-seconds/smooth.Seconds())
	mix := func(old *float64, now float64) { *old += weight * (min(max(now, 0), 1) - *old) }
	mix(&s.load.CPU, l.CPU)
	mix(&s.load.Network, l.Network)
	mix(&s.load.Disk, l.Disk)
	return s.load
}

// grown is by how much a counter has grown since the last sample.
func (s *sampler) grown(counter string, value float64) float64 {
	old, ok := s.before[counter]
	s.before[counter] = value
	if !ok || value < old {
		return 0
	}
	return value - old
}

// cpu is the part of all processors' time that was not idle; proc_stat(5).
func (s *sampler) cpu() float64 {
	for f := range s.lines("proc/stat") {
		if f[0] != "cpu" || len(f) < 6 {
			continue
		}
		var total float64
		for _, text := range f[1:min(len(f), 9)] { // guest time is in user time
			total += number(text)
		}
		idle := s.grown("idle", number(f[4])+number(f[5]))
		if all := s.grown("cpu", total); all > 0 {
			return 1 - idle/all
		}
	}
	return 0
}

// quota is the part that was used of the processor time which a container may
// use; the kernel's cgroup-v2.rst, cpu.max and cpu.stat.
func (s *sampler) quota(seconds float64) float64 {
	var allowed float64 // seconds of processor time a second
	for f := range s.lines("sys/fs/cgroup/" + s.in("cpu.max")) {
		if len(f) == 2 && f[0] != "max" && number(f[1]) > 0 {
			allowed = number(f[0]) / number(f[1])
		}
	}
	if allowed == 0 {
		return 0
	}
	for f := range s.lines("sys/fs/cgroup/" + s.in("cpu.stat")) {
		if len(f) == 2 && f[0] == "usage_usec" {
			return s.grown("quota", number(f[1])) / 1e6 / seconds / allowed
		}
	}
	return 0
}

func (s *sampler) in(file string) string {
	if s.cgroup == "" {
		return file
	}
	return s.cgroup + "/" + file
}

// net compares with the network's speed; proc_net(5). Of a bridge and what is behind it
// only the busiest counts, so nothing counts twice.
func (s *sampler) net(seconds float64) float64 {
	var most float64
	for f := range s.lines("proc/net/dev") {
		if len(f) < 10 || !strings.HasSuffix(f[0], ":") || f[0] == "lo:" {
			continue
		}
		most = max(most, s.grown(f[0]+"in", number(f[1])), s.grown(f[0]+"out", number(f[9])))
	}
	return most / seconds / s.network
}

// disk is the time in which requests were under way; the kernel's iostats.rst, field 10.
func (s *sampler) disk(seconds float64) float64 {
	var most float64
	for f := range s.lines("proc/diskstats") {
		if len(f) < 13 || strings.HasPrefix(f[2], "loop") || strings.HasPrefix(f[2], "ram") {
			continue
		}
		most = max(most, s.grown("disk "+f[2], number(f[12])))
	}
	return most / 1000 / seconds
}

// lines yields the fields of each line of a file that is not empty, none when it cannot be read.
func (s *sampler) lines(file string) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		b, err := fs.ReadFile(s.root, file)
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
			if f := strings.Fields(lines.Text()); len(f) > 0 && !yield(f) {
				return
			}
		}
	}
}

func number(text string) float64 {
	f, _ := strconv.ParseFloat(text, 64) // what is no number counts as 0
	return f
}
