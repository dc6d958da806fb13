// What is counted.

package web

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	viewers   *prometheus.GaugeVec   // by form
	bytes     *prometheus.CounterVec // by form
	refused   *prometheus.CounterVec // by code
	dropped   *prometheus.CounterVec // by cause
	muxers    prometheus.Gauge
	films     prometheus.Gauge
	filmBytes prometheus.Gauge
}

// newMetrics registers the metrics with r, unless that is nil.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	counters := func(name, help, label string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "mediad_web_" + name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "mediad_web_" + name, Help: help})
	}
	return &metrics{
		viewers: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mediad_web_viewers",
			Help: "Viewers, by form: connections of flv and mp4, and of hls the clients that asked for a playlist lately.",
		}, []string{"form"}),
		bytes:     counters("bytes_total", "Bytes of media sent, by form.", "form"),
		refused:   counters("refused_total", "Requests answered with an error, by status.", "code"),
		dropped:   counters("dropped_total", "Frames that a muxer left out, by cause.", "cause"),
		muxers:    gauge("muxers", "Channels that are watched as HLS."),
		films:     gauge("films", "Recorded films whose tables are kept."),
		filmBytes: gauge("film_bytes", "Bytes of the tables of recorded films."),
	}
}
