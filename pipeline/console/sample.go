// The metrics at one moment, and what they have grown by since another.

package console

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// series names a value: a metric of a stage ("" for one of the daemon), and the value of
// its own label. Without that it is the sum over the label.
type series struct{ stage, metric, label string }

// sample is all values at one time. A histogram counts as how often it was observed.
type sample struct {
	at     time.Time
	values map[series]float64
}

func takeSample(from prometheus.Gatherer) (sample, error) {
	// What could be gathered is there beside an error.
	families, err := from.Gather()
	s := sample{at: time.Now(), values: map[series]float64{}}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := series{metric: f.GetName()}
			var pipeline, stage string
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "pipeline":
					pipeline = l.GetValue()
				case "stage":
					stage = l.GetValue()
				default:
					key.label = l.GetValue()
				}
			}
			if stage != "" {
				key.stage = pipeline + "/" + stage
			}
			s.values[key] += value(m)
			if key.label != "" {
				key.label = ""
				s.values[key] += value(m)
			}
		}
	}
	return s, err
}

func value(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue() +
		float64(m.GetHistogram().GetSampleCount()+m.GetSummary().GetSampleCount())
}

// reading is a sample and the one before, whose time is 0 when there is none.
type reading struct{ now, before sample }

// over is the time between them in seconds, 0 when there is only one.
func (r reading) over() float64 {
	if r.before.at.IsZero() {
		return 0
	}
	return r.now.at.Sub(r.before.at).Seconds()
}

// rate is what a counter has grown by in a second. A counter that has begun anew was 0.
func (r reading) rate(s series) (rate float64, ok bool) {
	now, ok := r.now.values[s]
	if !ok || r.over() <= 0 {
		return 0, false
	}
	before := r.before.values[s]
	if before > now {
		before = 0
	}
	return (now - before) / r.over(), true
}

// sum adds metrics of a stage, as they are or as rates.
func (r reading) sum(stage string, metrics []string, rate bool) (sum float64, ok bool) {
	for _, m := range metrics {
		key := series{stage: stage, metric: m}
		v, has := r.now.values[key]
		if rate {
			v, has = r.rate(key)
		}
		sum, ok = sum+v, ok || has
	}
	return sum, ok
}
