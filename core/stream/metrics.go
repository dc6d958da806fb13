// What a stage counts.

package stream

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	viewers prometheus.Gauge
	plays   prometheus.Counter
	frames  prometheus.Counter
	bytes   prometheus.Counter
	skips   prometheus.Counter
	seeks   prometheus.Counter
	pauses  prometheus.Counter
	dries   prometheus.Counter
	dropped prometheus.Counter

	redirects prometheus.Counter
	ends      *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_stream_" + name, Help: help})
	}
	m := &metrics{
		viewers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mediad_stream_viewers",
			Help: "Viewers to whom something is played, paused ones included.",
		}),
		plays:     counter("plays_total", "Plays asked for, replays and items of playlists included."),
		frames:    counter("frames_total", "Frames written to viewers."),
		bytes:     counter("bytes_total", "Bytes of frames written to viewers."),
		skips:     counter("skips_total", "Times that a slow viewer was moved to a newer keyframe."),
		seeks:     counter("seeks_total", "Seeks begun."),
		pauses:    counter("pauses_total", "Pauses."),
		dries:     counter("dries_total", "Times that a viewer was told that live media have stopped coming."),
		redirects: counter("redirects_total", "Viewers who were asked to play from another node."),
		dropped:   counter("events_dropped_total", "Commands of clients dropped because too many were waiting."),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mediad_stream_ends_total",
			Help: "Plays that ended or could not begin, by cause.",
		}, []string{"cause"}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.viewers, m.plays, m.frames, m.bytes, m.skips, m.seeks, m.pauses, m.dries, m.redirects, m.dropped, m.ends,
	} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}
