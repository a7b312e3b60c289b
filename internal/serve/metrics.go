package serve

import (
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics count what a server does. They have no device or address in them: who asked is in the
// log.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	running  prometheus.Gauge
}

// NewMetrics returns metrics for [Handler.Metrics]. They include how long the repository's
// metadata is still good for, which is worth an alarm.
func NewMetrics(h *Handler) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eos_serve_requests_total", Help: "Requests answered, by what was asked for and status.",
		}, []string{"file", "status"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eos_serve_sent_bytes_total", Help: "Bytes of answers sent, headers not counted.",
		}, []string{"file"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "eos_serve_request_seconds", Help: "Time from a request to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 11), // to 500 s: images on slow links
		}, []string{"file"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "eos_serve_requests_running", Help: "Requests that are being answered.",
		}),
	}
	m.registry.MustRegister(m.requests, m.bytes, m.seconds, m.running,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "eos_serve_metadata_expiry_timestamp_seconds",
			Help: "When the repository's timestamp expires, as Unix time; 0 if there is none.",
		}, func() float64 {
			at, err := h.Expires()
			if err != nil {
				return 0
			}
			return float64(at.Unix())
		}))
	return m
}

// ServeHTTP hands the metrics out in Prometheus' text format.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

// observe counts one request.
func (m *Metrics) observe(file string, status int, bytes int64, took time.Duration) {
	kind := kindOf(file, status)
	m.requests.WithLabelValues(kind, strconv.Itoa(status)).Inc()
	m.bytes.WithLabelValues(kind).Add(float64(bytes))
	m.seconds.WithLabelValues(kind).Observe(took.Seconds())
}

// kindOf says what a path asked for, in few words: a label with the path itself would have as many
// values as there are files, or as somebody makes up.
func kindOf(file string, status int) string {
	name, _ := strings.CutPrefix(file, "/")
	switch {
	case status == http.StatusNotFound || !visible(name):
		return "other"
	case strings.HasPrefix(name, "metadata/"):
		return "metadata"
	}
	switch ext := path.Ext(name); ext {
	case ".blob", ".index", ".manifest":
		return ext[1:]
	}
	return "other"
}
