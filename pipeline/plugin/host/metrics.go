// What is there to see: counted of the process by the daemon, and by the stage in
// it, and what channels that has on air.

package host

import (
	"context"
	"strings"
	"time"

	"github.com/mediad/mediad/core/broadcast"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// metricsTimeout is how long a plugin may take to tell its metrics or channels.
const metricsTimeout = time.Second

type metrics struct {
	starts, failures, resumes, givenUp prometheus.Counter
}

func newMetrics() metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_plugin_" + name, Help: help})
	}
	return metrics{
		starts:   counter("starts_total", "Starts of the plugin's process."),
		failures: counter("failures_total", "Times that the plugin's process failed, whatever the reason."),
		givenUp:  counter("given_up_total", "Times that the plugin was given up, after too many failures in a short time."),
		resumes:  counter("resumes_total", "Sources and sinks that went on in a new process where they were in the old."),
	}
}

// collectors are all that is registered for a stage.
func (s *Stage) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		s.metrics.starts, s.metrics.failures, s.metrics.resumes, s.metrics.givenUp,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mediad_plugin_memory_bytes", Help: "Resident memory of the plugin's process."}, s.memory),
		remote{s},
	}
}

// memory is the resident set of the process, 0 while there is none.
func (s *Stage) memory() float64 {
	if p := s.running(); p != nil {
		return float64(resident(p.run.pid()))
	}
	return 0
}

// running is the process, nil while there is none.
func (s *Stage) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// remote collects the metrics of the stage in the process. They begin anew with
// every process, as counters may.
type remote struct{ stage *Stage }

// Describe tells nothing: what there is is known when it is collected.
func (remote) Describe(chan<- *prometheus.Desc) {}

// Collect asks the process.
func (r remote) Collect(to chan<- prometheus.Metric) {
	p := r.stage.running()
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, metricsTimeout)
	defer cancel()
	reply, err := p.stage.Metrics(ctx, &pb.MetricsRequest{})
	if err != nil {
		r.stage.log.Debug("the plugin does not tell its metrics", "error", err)
		return
	}
	for _, b := range reply.Families {
		var family dto.MetricFamily
		if err := proto.Unmarshal(b, &family); err != nil || !strings.HasPrefix(family.GetName(), "mediad_") {
			continue
		}
		desc := prometheus.NewDesc(family.GetName(), family.GetHelp(), nil, nil)
		for _, m := range family.Metric {
			to <- remoteMetric{desc, m}
		}
	}
}

// ListChannels returns the channels that the plugin has on air; none when it has no
// listing or does not answer in time.
func (s *Stage) ListChannels() []broadcast.Channel {
	p := s.running()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.ctx, metricsTimeout)
	defer cancel()
	reply, err := p.stage.Channels(ctx, &pb.ChannelsRequest{})
	if err != nil {
		if status.Code(err) != codes.Unimplemented {
			s.log.Debug("the plugin does not list its channels", "error", err)
		}
		return nil
	}
	var list []broadcast.Channel
	for _, c := range reply.Channels {
		list = append(list, broadcast.Channel{
			Name: c.Name, Since: time.Unix(0, c.Since), Publishing: c.Publishing, Video: c.Video, Audio: c.Audio,
			Bitrate: c.Bitrate, Readers: int(c.Readers), Window: c.WindowSeconds, Bytes: int(c.Bytes),
			Repeated: c.Repeated, Path: c.Path,
		})
	}
	return list
}

type remoteMetric struct {
	desc   *prometheus.Desc
	metric *dto.Metric
}

func (m remoteMetric) Desc() *prometheus.Desc { return m.desc }

func (m remoteMetric) Write(out *dto.Metric) error {
	proto.Merge(out, m.metric)
	return nil
}
