package host

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestReaderOverTheWire(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	stagetest.TestReader(t, stagetest.Reader{Reader: s, Name: "film", Missing: "none"})
}

func TestErrorsOverTheWire(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	for name, want := range map[string]error{
		"none": media.ErrNotFound, "denied": media.ErrDenied, "unavailable": media.ErrUnavailable,
	} {
		if _, err := s.Open(t.Context(), media.OpenRequest{Name: name}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	_, err := s.Open(t.Context(), media.OpenRequest{Name: "elsewhere"})
	var redirect *media.RedirectError
	if !errors.As(err, &redirect) || redirect.URL != "rtmp://other/vod/film" {
		t.Errorf("elsewhere: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Open(ctx, media.OpenRequest{Name: "wait"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	cost, err := s.Cost(t.Context(), media.OpenRequest{Name: "film"})
	if want := (media.Cost{Place: "disk", Base: media.CostDisk, Load: 0.5}); err != nil || cost != want {
		t.Errorf("Cost: %+v, %v", cost, err)
	}
	if list, err := s.Explain(t.Context(), media.OpenRequest{Name: "film"}); err != nil || len(list) != 1 || list[0].Cost != cost {
		t.Errorf("Explain: %+v, %v", list, err)
	}
	eventually(t, "the listing has live", func() bool {
		names, _ := s.Watch()
		return len(names) == 1 && names[0] == "live"
	})
}

func TestHeaderIsKept(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	src := open(t, s, "film")
	var h *media.Header
	for {
		b, err := src.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h != nil && b.Header() != h {
			t.Fatal("the header is another, but the configuration is the same")
		}
		h = b.Header()
	}
}

func TestMetricsOverTheWire(t *testing.T) {
	s := run(t, Binary{}, quick, stage.Env{}, nil)
	open(t, s, "film")
	want := `
# HELP mediad_film_opens_total Opens.
# TYPE mediad_film_opens_total counter
mediad_film_opens_total{name="film",stage="film"} 1
# HELP mediad_plugin_starts_total Starts of the plugin's process.
# TYPE mediad_plugin_starts_total counter
mediad_plugin_starts_total{stage="film"} 1
`
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(want), "mediad_film_opens_total", "mediad_plugin_starts_total"); err != nil {
		t.Error(err)
	}
}
