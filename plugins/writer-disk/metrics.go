// What the writer counts.

package writerdisk

import (
	"errors"
	"io/fs"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	bytes, files, repaired, removed, slow prometheus.Counter
	errors                                *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, lag func() time.Duration) *metrics {
	auto := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: "mediad_writer_disk_" + name, Help: help})
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "mediad_writer_disk_sync_lag_seconds",
		Help: "How long the oldest media that may not be on the disk yet have waited."},
		func() float64 { return lag().Seconds() })
	return &metrics{
		bytes:    counter("bytes_total", "Bytes written."),
		files:    counter("files_total", "Recordings begun."),
		repaired: counter("repaired_total", "Recordings that a crash had cut short, repaired."),
		removed:  counter("removed_total", "Recordings removed because they were beyond what is kept."),
		slow:     counter("slow_syncs_total", "Times that the disk took longer than a second for an fsync."),
		errors: auto.NewCounterVec(prometheus.CounterOpts{Name: "mediad_writer_disk_errors_total",
			Help: "Failures, by cause."}, []string{"cause"}),
	}
}

// failed counts err.
func (m *metrics) failed(err error) { m.errors.WithLabelValues(cause(err)).Inc() }

// cause names what err comes from, for a label.
func cause(err error) string {
	for _, c := range []struct {
		err  error
		name string
	}{
		{syscall.ENOSPC, "full"}, {syscall.EDQUOT, "quota"}, {syscall.EIO, "io"}, {syscall.EROFS, "read-only"},
		{fs.ErrPermission, "permission"}, {fs.ErrNotExist, "not found"},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "other"
}
