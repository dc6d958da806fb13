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
	"github.com/mediad/mediad/e2e/page"
	"gopkg.in/yaml.v3"
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
      with: {url: %[1]q}
    - use: stream
      with: {app: far, access: {callback: %[1]q}}
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

// TestMetrics looks at the metrics of a daemon that has done a bit of everything: all that the queries of
// docs/grafana.json and the alerts of docs/metrics.md ask for are there, with all labels, and all that are there
// are in the document. That these are all there can be is seen to by cmd/mediad.
func TestMetrics(t *testing.T) {
	files := http.FileServer(http.Dir(built))
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost { // which asks who may watch: all
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(origin.Close)
	d := start(t, fmt.Sprintf(busy, origin.URL+"/"))
	doABitOfEverything(t, d)
	for name, queries := range map[string]func(*testing.T) []query{"grafana": dashboard, "alerts": alerts} {
		t.Run(name, func(t *testing.T) {
			list := queries(t)
			if len(list) == 0 {
				t.Fatal("there is no query")
			}
			lab.Await(t, "all metrics are there", func() error {
				text, err := d.get("/metrics")
				if err != nil {
					return err
				}
				labels := labelsOf(text)
				var missing []string
				for _, q := range list {
					for _, m := range lacks(q.expr, q.legend, labels) {
						missing = append(missing, q.title+": "+m)
					}
				}
				if len(missing) > 0 {
					return fmt.Errorf("%s", strings.Join(missing, "\n"))
				}
				return nil
			})
		})
	}
	t.Run("document", func(t *testing.T) {
		text, err := d.get("/metrics")
		if err != nil {
			t.Fatal(err)
		}
		page, err := os.ReadFile(metricsPage)
		if err != nil {
			t.Fatal(err)
		}
		if wrong := undocumented(text, string(page)); len(wrong) > 0 {
			t.Errorf("docs/metrics.md: %s", strings.Join(wrong, "\n"))
		}
	})
}

const metricsPage = "../../docs/metrics.md"

// A query is one of a dashboard or an alert.
type query struct{ title, expr, legend string }

func dashboard(t *testing.T) (list []query) {
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
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			list = append(list, query{p.Title, target.Expr, target.LegendFormat})
		}
	}
	return list
}

func alerts(t *testing.T) (list []query) {
	for _, b := range page.Read(t, metricsPage) {
		if b.File != "alerts.yml" {
			continue
		}
		var file struct {
			Groups []struct {
				Rules []struct{ Alert, Expr string }
			}
		}
		if err := yaml.Unmarshal([]byte(b.Text), &file); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		for _, g := range file.Groups {
			for _, r := range g.Rules {
				if !strings.HasPrefix(r.Expr, "up{") { // which is Prometheus' own
					list = append(list, query{title: r.Alert, expr: r.Expr})
				}
			}
		}
	}
	return list
}

var (
	typed     = regexp.MustCompile(`(?m)^# TYPE (mediad_\S+) (\S+)$`)
	documents = regexp.MustCompile("(?m)^\\| `(mediad_[a-z_]+)` \\| ([a-z]+) \\| (.*?) \\|")
	valued    = regexp.MustCompile(`(?:cause|reason|answer|form|state|direction)="([^"]*)"`)
)

// undocumented says what metrics have that a page has not: their names and types, their labels, and what those say.
func undocumented(metrics, page string) (wrong []string) {
	types, labels := map[string]string{}, map[string]string{}
	for _, m := range documents.FindAllStringSubmatch(page, -1) {
		types[m[1]], labels[m[1]] = m[2], m[3]
	}
	for _, m := range typed.FindAllStringSubmatch(metrics, -1) {
		if types[m[1]] != m[2] {
			wrong = append(wrong, fmt.Sprintf("%s is a %s, not a %q", m[1], m[2], types[m[1]]))
		}
	}
	for name, has := range labelsOf(metrics) {
		for l := range has {
			if strings.HasPrefix(name, "mediad_") && !strings.Contains(labels[name], "`"+l+"`") {
				wrong = append(wrong, name+" has the label "+l)
			}
		}
	}
	for _, m := range valued.FindAllStringSubmatch(metrics, -1) {
		if !strings.Contains(page, "`"+m[1]+"`") {
			wrong = append(wrong, fmt.Sprintf("a label is %q", m[1]))
		}
	}
	return wrong
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

func TestMetrics_Lacks(t *testing.T) {
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

func TestMetrics_Undocumented(t *testing.T) {
	page := "| `mediad_a_total` | counter | `cause` | A. `x` |\n"
	for metrics, want := range map[string]int{
		"# TYPE mediad_a_total counter\nmediad_a_total{cause=\"x\"} 1\n":                            0,
		"# TYPE mediad_a_total gauge\nmediad_a_total{cause=\"y\",stage=\"z\"} 1\n":                  3,
		"# TYPE mediad_b gauge\nmediad_b 1\n# TYPE go_b gauge\ngo_b 1\n":                            1,
		"# TYPE mediad_c histogram\nmediad_c_bucket{le=\"1\"} 1\n# TYPE mediad_d gauge\nmediad_d 1": 3,
	} {
		if got := undocumented(metrics, page); len(got) != want {
			t.Errorf("%s: %q, want %d", metrics, got, want)
		}
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
