// What is counted, and the names of the causes.

package rtmp

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Why a connection has ended.
const (
	causeClient    = "client"    // the client closed it
	causeNotRTMP   = "not_rtmp"  // what came is no RTMP
	causeHandshake = "handshake" // not done in time
	causeProtocol  = "protocol"  // against the rules of RTMP
	causeTooLarge  = "too_large" // a message, or what is held of several
	causeIdle      = "idle"      // nothing published or played in time
	causeSilent    = "silent"    // a publisher has stopped sending
	causeSlow      = "slow"      // a viewer does not take what is sent
	causeRefused   = "refused"   // an app or a publication
	causeOver      = "over"      // the publication was ended, or failed
	causeKicked    = "kicked"    // a viewer, by who runs the server
	causeLimit     = "limit"     // too many connections
	causeShutdown  = "shutdown"  // of this server
	causeNetwork   = "network"   // any other error of the connection
)

type metrics struct {
	connections prometheus.Gauge
	bytes       *prometheus.CounterVec // by direction, "in" or "out"
	messages    prometheus.Counter
	away        prometheus.Counter
	unaccepted  prometheus.Counter
	closed      *prometheus.CounterVec // by cause
	dropped     *prometheus.CounterVec // by cause
}

// newMetrics registers the metrics with r, unless that is nil.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	counters := func(name, help, label string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	return &metrics{
		connections: f.NewGauge(prometheus.GaugeOpts{
			Name: "mediad_rtmp_connections", Help: "Open RTMP connections.",
		}),
		messages: f.NewCounter(prometheus.CounterOpts{
			Name: "mediad_rtmp_messages_total", Help: "RTMP messages received.",
		}),
		away: f.NewCounter(prometheus.CounterOpts{
			Name: "mediad_rtmp_sent_away_total", Help: "Clients that were asked to connect to another server.",
		}),
		unaccepted: f.NewCounter(prometheus.CounterOpts{
			Name: "mediad_rtmp_accept_errors_total", Help: "Times that no connection could be accepted, as when no descriptors are left.",
		}),
		bytes:   counters("mediad_rtmp_bytes_total", "Bytes received and sent.", "direction"),
		closed:  counters("mediad_rtmp_closed_total", "RTMP connections that have ended.", "cause"),
		dropped: counters("mediad_rtmp_dropped_total", "RTMP messages that were received and not used.", "cause"),
	}
}
