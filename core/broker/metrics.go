// What the broker counts.

package broker

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	opens, errors      *prometheus.CounterVec
	fallbacks, resumes prometheus.Counter
	redirects          prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		opens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mediad_broker_opens_total", Help: "Sources opened, by input.",
		}, []string{"input"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mediad_broker_errors_total", Help: "Opens and reads that an input failed, by cause.",
		}, []string{"input", "cause"}),
		fallbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_broker_fallbacks_total", Help: "Opens that went on to the next input.",
		}),
		resumes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_broker_resumes_total", Help: "Sources that failed in the middle and were resumed.",
		}),
		redirects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_broker_redirects_total", Help: "Clients that were sent to another node.",
		}),
	}
	r.MustRegister(m.opens, m.errors, m.fallbacks, m.resumes, m.redirects)
	return m
}
