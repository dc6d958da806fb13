package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/api"
	"github.com/prometheus/client_golang/prometheus"
)

// everyKind is a file with every kind of stage, and one that runs as a plugin.
const everyKind = `version: 1
listen: {rtmp: ":1935", http: ":8080"}
plugins: {dir: %[1]q}
cluster: {name: solo, listen: ""}
pipelines:
  films:
    - use: reader-disk
      with: {root: .}
    - use: cache
    - use: broker
    - use: stream
      with: {app: vod}
  origin:
    - use: reader-http
      with: {url: "http://origin.example/"}
    - use: stream
      with: {app: far}
  live:
    - use: ingest
      with: {app: live, access: {callback: "http://127.0.0.1:9000/"}}
    - use: broadcast
    - use: stream
      with: {app: live}
  between:
    - from: live/broadcast
    - use: repeater-tcp
      with: {listen: "127.0.0.1:0", plain: true}
  archive:
    - from: live/broadcast
    - use: archiver
    - use: writer-disk
      with: {root: %[1]q}
  demo:
    - from: films/broker
    - use: playout
      with: {play: [x.flv], as: demo}
    - to: live/broadcast
  apart:
    - use: reader-apart
      with: {root: .}
    - use: stream
      with: {app: apart}
`

// A recorder notes what is registered with it, whether or not there is anything to be counted yet.
type recorder struct{ list []prometheus.Collector }

func (r *recorder) Register(c prometheus.Collector) error  { r.list = append(r.list, c); return nil }
func (r *recorder) Unregister(prometheus.Collector) bool   { return true }
func (r *recorder) MustRegister(c ...prometheus.Collector) { r.list = append(r.list, c...) }

// description are the parts of a prometheus.Desc, which has them as text only.
var description = regexp.MustCompile(`^Desc\{fqName: "(.*)", help: "(.*)", unit: ".*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// TestMetricsDocument keeps the table of docs/metrics.md what the code registers.
func TestMetricsDocument(t *testing.T) {
	const path, begin, end = "../../docs/metrics.md", "<!-- begin: made by go test ./cmd/mediad -run MetricsDocument -update -->\n", "<!-- end -->\n"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(got), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between %q and %q", path, begin, end)
	}
	want := before + begin + metricsTable(t) + end + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(got) != want {
		t.Error("docs/metrics.md is not what is registered: go test ./cmd/mediad -run MetricsDocument -update")
	}
}

// metricsTable lists what a daemon with every kind of stage has to tell.
func metricsTable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	apart := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q plugin reader-disk\n", asMediad, os.Args[0])
	if err := os.WriteFile(filepath.Join(dir, "reader-apart"), []byte(apart), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(everyKind, dir)
	g, err := pipeline.Parse("every.yaml", []byte(text), newCatalog(quiet()), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	log, all := hclog.NewNullLogger(), &recorder{}
	d, err := newDaemon(g, log, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.pages.Close(); err != nil {
			t.Error(err)
		}
	})
	api.New(api.Options{Metrics: struct {
		*recorder
		prometheus.Gatherer
	}{all, nil}, Log: log})
	ctx, cancel := context.WithCancel(t.Context())
	d.stages.Start()
	cancel()
	if err := d.stages.Wait(ctx); err != nil {
		t.Error(err)
	}
	lines := map[string]bool{}
	for _, c := range all.list {
		descs := make(chan *prometheus.Desc, 10)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			m := description.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("%s is not understood", d)
			}
			labels := strings.Split(strings.Trim(m[3]+","+m[4], ","), ",")
			for i, l := range labels {
				labels[i], _, _ = strings.Cut(l, "=")
				if labels[i] != "" {
					labels[i] = "`" + labels[i] + "`"
				}
			}
			kind := "gauge"
			if strings.HasSuffix(m[1], "_total") { // e2e/console sees whether that is so
				kind = "counter"
			}
			lines[fmt.Sprintf("| `%s` | %s | %s | %s |\n", m[1], kind, strings.Join(labels, ", "), m[2])] = true
		}
	}
	return "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n" + strings.Join(slices.Sorted(maps.Keys(lines)), "")
}
