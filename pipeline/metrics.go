// What a supervisor tells of its stages to Prometheus.

package pipeline

import "github.com/prometheus/client_golang/prometheus"

// A gauge collects which stages run, of those that there are at the time.
type gauge struct{ *Supervisor }

var up = prometheus.NewDesc("mediad_stage_up", "1 while the stage runs, 0 while it is being started again or has been given up.",
	[]string{"pipeline", "stage"}, nil)

// Describe implements prometheus.Collector.
func (gauge) Describe(descs chan<- *prometheus.Desc) { descs <- up }

// Collect implements prometheus.Collector.
func (g gauge) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range g.Stages() {
		value := 0.0
		if s.State == Running {
			value = 1
		}
		metrics <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, value, s.Pipeline, s.Name)
	}
}
