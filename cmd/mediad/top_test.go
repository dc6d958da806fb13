package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/console"
	"github.com/spf13/cobra"
)

func topSnapshot() console.Snapshot {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	began := now.Add(-90 * time.Second)
	return console.Snapshot{
		Time: now, Host: "east", Over: 1,
		Stages: []console.Stage{
			{Pipeline: "live", Name: "ingest", Kind: "ingest", State: pipeline.Running, Since: began},
			{Pipeline: "live", Name: "broadcast", Kind: "broadcast", State: pipeline.Running, Since: began, Figures: []console.Figure{{Name: "from memory", Value: 75, Unit: "%"}}},
			{Pipeline: "vod", Name: "reader", Kind: "reader-disk", State: pipeline.Failed, Since: began, Error: "no \x1b[2Jdisk\nat all"},
		},
		Edges: []console.Edge{{From: "live/ingest", To: "live/broadcast", Push: true, Rate: &console.Rate{Value: 1e6, Unit: "B/s"}}},
		Channels: []console.Channel{
			{Stage: "live/broadcast", Channel: broadcast.Channel{Name: "news", Publishing: true, Video: "h264", Audio: "aac", Bitrate: 2_500_000, Readers: 7, Since: began}, Viewers: map[string]int{"rtmp": 5, "flv": 1}},
			{Node: "west", Channel: broadcast.Channel{Name: "sport"}},
		},
		Viewers: map[string]int{"rtmp": 5, "flv": 2, "hls": 0},
		Brokers: []console.Broker{{Stage: "vod/broker", Decisions: []media.Decision{
			{Time: now.Add(-time.Second), Name: "film", Candidates: []media.Candidate{
				{Source: "vod/cache", Chosen: true, Total: 1, Cost: media.Cost{Place: "memory"}}, {Source: "vod/disk", Total: 10},
			}},
			{Time: now, Name: "gone", Error: "not found"},
		}}},
	}
}

func TestTop_Frame(t *testing.T) {
	var b bytes.Buffer
	if err := printTop(&b, topSnapshot()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`^mediad at east, \S+: 2 of 3 stages run\n`,
		`(?m)^viewers: 2 by flv, 5 by rtmp$`,
		`(?m)^ +news +h264,aac +2.5 Mbit/s +7: 1 by flv, 5 by rtmp +published here +1m30s$`,
		`(?m)^ +sport +- .* on air at west +-$`,
		`(?m)^ +live/broadcast +running +1m30s +live/ingest 8 Mbit/s +from memory 75.0%$`,
		`(?m)^! +vod/reader +failed +1m30s +- +no \?\[2Jdisk\?at all$`,
		`(?m)^ +film +vod/cache +1.0 memory +1s +vod/disk: 10.0$`,
		`(?m)^! +gone +not found +- +0s +-$`,
	} {
		if !regexp.MustCompile(want).Match(b.Bytes()) {
			t.Errorf("no %s in\n%s", want, &b)
		}
	}
	if got := coloured("a\n! b\n"); got != "a\n"+red+"! b"+plain+"\n" {
		t.Errorf("%q", got)
	}
}

// runTop runs the command against a daemon whose answers to each request are these.
func runTop(t *testing.T, args []string, answers ...func(http.ResponseWriter)) (string, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/events" {
			t.Errorf("asked for %s", r.URL)
		}
		if len(answers) == 0 {
			cancel()
			return
		}
		answers[0](w)
		answers = answers[1:]
	}))
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	defer daemon.Close()
	root := &cobra.Command{SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(topCommand())
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(append([]string{"top", "--api", daemon.URL}, args...))
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

func topEvent(s console.Snapshot) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		text, _ := json.Marshal(s)
		fmt.Fprintf(w, "retry: 1000\ndata: %s\n\n", text)
	}
}

func TestTop_Once(t *testing.T) {
	s := topSnapshot()
	out, err := runTop(t, []string{"--once"}, func(w http.ResponseWriter) {
		first := s
		first.Over, first.Host = 0, "without rates"
		topEvent(first)(w)
		topEvent(s)(w)
	})
	if err != nil || strings.Count(out, "mediad at") != 1 || !strings.Contains(out, "mediad at east") || strings.Contains(out, "\x1b") {
		t.Errorf("%v: %q", err, out)
	}
	for what, answer := range map[string]func(http.ResponseWriter){
		"has ended":     func(http.ResponseWriter) {},
		"is it mediad":  func(w http.ResponseWriter) { fmt.Fprint(w, "data: hello\n\n") },
		"too many":      func(w http.ResponseWriter) { w.WriteHeader(503); fmt.Fprint(w, `{"error": "too many"}`) },
		"is it mediad?": func(w http.ResponseWriter) { w.WriteHeader(404) },
	} {
		if out, err := runTop(t, []string{"--once"}, answer); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v: %s", what, err, out)
		}
	}
}

// TestTop_ComesBack loses the daemon once, and is then ended itself.
func TestTop_ComesBack(t *testing.T) {
	out, err := runTop(t, nil, topEvent(topSnapshot()), topEvent(topSnapshot()))
	if err != nil || strings.Count(out, clearScreen+"mediad at east") != 2 || strings.Count(out, "does not answer") < 1 {
		t.Errorf("%v: %q", err, out)
	}
}
