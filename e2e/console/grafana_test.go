package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/mediad/mediad/e2e/lab"
)

// busy is a daemon of which each stage has something to do, and some something to
// complain of.
const busy = `drain: 1s
cluster: {name: solo, listen: ""}
pipelines:
  on-demand:
    - use: reader-disk
      with: {root: ./media}
    - use: cache
      with: {memory: 4MiB}
    - use: broker
    - use: stream
      with: {app: vod}
  origin:
    - use: reader-http
      with: {url: %q}
    - use: stream
      with: {app: far}
  live:
    - use: ingest
      with: {app: live, key: secret}
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
      with: {root: ./recordings}
  apart:
    - use: reader-disk
      run: process
      with: {root: ./media}
    - use: stream
      with: {app: apart}
`

var (
	metricNames = regexp.MustCompile(`\b(?:mediad|process|go)_[a-z0-9_]+`)
	grouped     = regexp.MustCompile(`\b(?:by|without) \(([a-z_, ]+)\)`)
	matched     = regexp.MustCompile(`[{,]\s*([a-z_]+)\s*(?:=|!=|=~|!~)"`)
	shown       = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)
	series      = regexp.MustCompile(`(?m)^([a-z0-9_]+)(?:\{(.*)\})? \S+$`)
	label       = regexp.MustCompile(`([a-z_]+)="`)
)

// TestGrafana checks each query of docs/grafana.json against the metrics of a daemon that has
// done a bit of everything: all its metrics are there, with all labels it asks for.
func TestGrafana(t *testing.T) {
	origin := httptest.NewServer(http.FileServer(http.Dir(built)))
	t.Cleanup(origin.Close)
	d := start(t, fmt.Sprintf(busy, origin.URL+"/"))
	doABitOfEverything(t, d)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	text, err := os.ReadFile("../../docs/grafana.json")
	if err == nil {
		err = json.Unmarshal(text, &dashboard)
	}
	if err != nil || len(dashboard.Panels) == 0 {
		t.Fatal(err, "no panels")
	}
	lab.Await(t, "all metrics are there", func() error {
		text, err := d.get("/metrics")
		if err != nil {
			return err
		}
		labels := labelsOf(text)
		var missing []string
		for _, p := range dashboard.Panels {
			for _, target := range p.Targets {
				for _, m := range lacks(target.Expr, target.LegendFormat, labels) {
					missing = append(missing, p.Title+": "+m)
				}
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%s", strings.Join(missing, "\n"))
		}
		return nil
	})
}

// labelsOf lists the labels of each metric in the text format.
func labelsOf(text string) map[string]map[string]bool {
	all := map[string]map[string]bool{}
	for _, m := range series.FindAllStringSubmatch(text, -1) {
		if all[m[1]] == nil {
			all[m[1]] = map[string]bool{}
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			all[m[1]][l[1]] = true
		}
	}
	return all
}

// lacks says what a query asks for and there is not.
func lacks(expr, legend string, labels map[string]map[string]bool) (missing []string) {
	var wanted []string
	for _, m := range grouped.FindAllStringSubmatch(expr, -1) {
		wanted = append(wanted, strings.Split(strings.ReplaceAll(m[1], " ", ""), ",")...)
	}
	for _, m := range append(matched.FindAllStringSubmatch(expr, -1), shown.FindAllStringSubmatch(legend, -1)...) {
		wanted = append(wanted, m[1])
	}
	names := metricNames.FindAllString(expr, -1)
	if len(names) == 0 {
		return []string{"no metric in " + expr}
	}
	for _, name := range names {
		if labels[name] == nil {
			missing = append(missing, name)
			continue
		}
		for _, l := range wanted {
			if !labels[name][l] {
				missing = append(missing, name+" has no label "+l)
			}
		}
	}
	return missing
}

func TestGrafana_Lacks(t *testing.T) {
	labels := labelsOf("# HELP mediad_a_total A.\nmediad_a_total{pipeline=\"x\",cause=\"}\"} 1\ngo_b 2e+06\n")
	for expr, want := range map[string]int{
		`sum by (cause) (rate(mediad_a_total{pipeline="x"}[5m]))`: 0,
		`go_b`:                            0,
		`sum by (pipeline, of) (go_b)`:    2,
		`mediad_a_total{stage=~"x"}`:      1,
		`mediad_b_total / mediad_a_total`: 1,
		`up`:                              1,
	} {
		if got := lacks(expr, "", labels); len(got) != want {
			t.Errorf("%s lacks %q, want %d", expr, got, want)
		}
	}
	if got := lacks("go_b", "{{cause}}", labels); len(got) != 1 {
		t.Errorf("the legend lacks %q", got)
	}
}

func doABitOfEverything(t *testing.T, d *daemon) {
	t.Helper()
	if err := os.WriteFile(d.Path("recordings", "blocked"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"news?key=secret", "blocked?key=secret", "refused"} {
		d.publish(name)
	}
	lab.Await(t, "the channels are on air", func() error {
		text, err := d.get("/api/channels")
		if err == nil && strings.Count(text, `"h264"`) != 2 {
			err = fmt.Errorf("channels: %s", text)
		}
		return err
	})
	for _, args := range [][]string{
		{"-t", "2", "-i", "rtmp://" + d.RTMP + "/live/news"},
		{"-i", d.url("/vod/film.flv.flv")},
		{"-t", "2", "-i", d.url("/live/news.mp4")},
		{"-i", d.url("/far/film.flv.flv")},
		{"-i", d.url("/apart/film.flv.mp4")},
	} {
		args = append(append([]string{"-loglevel", "error"}, args...), "-c", "copy", "-f", "null", "-")
		if out, err := exec.Command("ffmpeg", args...).CombinedOutput(); err != nil {
			t.Errorf("ffmpeg %q: %v\n%s", args, err, out)
		}
	}
	for _, path := range []string{"/vod/nothing.flv", "/vod/nothing.mp4"} {
		if _, err := d.get(path); err == nil {
			t.Errorf("%s is there", path)
		}
	}
	for _, pid := range d.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
