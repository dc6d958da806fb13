// What the archiver counts.

package archive

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	frames, bytes, files, unfinished prometheus.Counter
	lost                             *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, lag func() time.Duration) *metrics {
	auto := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: "mediad_archiver_" + name, Help: help})
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "mediad_archiver_lag_seconds",
		Help: "How long the slowest recording has been behind its channel."},
		func() float64 { return lag().Seconds() })
	return &metrics{
		frames:     counter("frames_total", "Frames recorded."),
		bytes:      counter("bytes_total", "Bytes of frames recorded."),
		files:      counter("files_total", "Files begun."),
		unfinished: counter("unfinished_total", "Files that could not be finished."),
		lost: auto.NewCounterVec(prometheus.CounterOpts{Name: "mediad_archiver_lost_frames_total",
			Help: "Frames that are not in the archive, by cause."}, []string{"cause"}),
	}
}
