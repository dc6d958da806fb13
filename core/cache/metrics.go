// What the cache counts.

package cache

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	hits, misses, coalesced, fetches, fetched prometheus.Counter
	evicted                                   *prometheus.CounterVec
	bytes, objects                            prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "mediad_cache_" + name, Help: help})
		r.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mediad_cache_" + name, Help: help})
		r.MustRegister(g)
		return g
	}
	m := &metrics{
		hits:      counter("hits_total", "Batches read from memory."),
		misses:    counter("misses_total", "Batches that had to be read from upstream."),
		coalesced: counter("coalesced_total", "Batches that were waited for while another viewer had them read."),
		fetches:   counter("fetches_total", "Positions from which upstream was read."),
		fetched:   counter("fetched_bytes_total", "Bytes read from upstream."),
		bytes:     gauge("bytes", "Memory that is held."),
		objects:   gauge("objects", "Media that are known, by name and version."),
		evicted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mediad_cache_evicted_total", Help: "Batches that left memory or could not enter it (cause size), by cause.",
		}, []string{"cause"}),
	}
	r.MustRegister(m.evicted)
	return m
}
