package console

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/api"
	"github.com/mediad/mediad/pipeline/console"
	"github.com/prometheus/client_golang/prometheus"
)

const hostile = `<img src=x onerror="document.title='taken'">`

// evil is a stage that has hostile texts wherever it has a text.
type evil struct{ stage.Passive }

func (evil) App() string { return hostile }
func (evil) ListChannels() []broadcast.Channel {
	return []broadcast.Channel{{Name: hostile, Repeated: true, Path: []string{hostile, "here"}, Video: hostile}}
}
func (evil) Decisions() []media.Decision {
	return []media.Decision{{Time: time.Now(), Name: hostile, Error: hostile, Candidates: []media.Candidate{{Source: hostile, Note: hostile}}}}
}
func (evil) List(context.Context) ([]media.Entry, error) {
	return []media.Entry{{Name: hostile}}, errors.New(hostile)
}

// TestT17_PageOfHostileTexts shows texts that no check has seen, on a node among others.
func TestT17_PageOfHostileTexts(t *testing.T) {
	source := &pipeline.Stage{Pipeline: hostile, Name: "source", Kind: stage.Kind{Name: hostile}}
	player := &pipeline.Stage{Pipeline: hostile, Name: hostile, Kind: stage.Kind{Name: "x"}, Inputs: []*pipeline.Stage{source}}
	c := console.New(console.Options{
		Host:    hostile,
		Metrics: prometheus.NewRegistry(),
		Stages: func() []pipeline.Status {
			return []pipeline.Status{
				{Stage: source, Made: evil{}, State: pipeline.Failed, Err: errors.New(hostile)},
				{Stage: player, Made: evil{}, State: pipeline.Running},
			}
		},
		Nodes: func() ([]api.Node, error) {
			trip := 1.5
			return []api.Node{
				{Node: cluster.Node{Name: "west", Self: true, State: cluster.Alive, Load: cluster.Load{CPU: 0.25}}, Owns: 3},
				{Node: cluster.Node{Name: hostile, State: cluster.State(hostile), HTTP: hostile}, RTT: &trip},
			}, errors.New(hostile)
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() { defer close(served); c.Serve(ctx) }()
	page := httptest.NewServer(c.Handler())
	t.Cleanup(func() {
		cancel()
		<-served
		page.Close()
	})
	b := open(t, page.URL)
	b.until(`document.querySelectorAll('#nodes tbody tr').length === 2`)
	b.until(`document.querySelectorAll('#recordings tbody tr').length === 1`)
	for _, where := range []string{"h1", "#problem", "#channels tbody", "#graph tbody", "#drawing", "#brokers tbody", "#recordings tbody", "#nodes tbody"} {
		var text string
		b.ask(fmt.Sprintf("return page.evaluate(() => document.querySelector(%q).textContent)", where), &text)
		if !strings.Contains(text, "<img src=x") {
			t.Errorf("%s does not show it as it is: %s", where, text)
		}
	}
	var images int
	var title string
	b.ask(`return page.evaluate(() => document.querySelectorAll('img').length)`, &images)
	b.ask(`return page.title()`, &title)
	if images > 0 || title != "mediad" {
		t.Errorf("a text has become markup: %d images, the title %q", images, title)
	}
	if row := b.text("#nodes tbody tr:first-child"); !strings.Contains(row, "west (this one)") || !strings.Contains(row, "25 %") {
		t.Errorf("the node is shown as %q", row)
	}
	b.shot("nodes")
}
