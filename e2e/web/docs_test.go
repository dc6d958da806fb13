package web

import (
	"net/http"
	"os"
	"regexp"
	"testing"
)

// TestDocs asks for every URL that docs/watching.md names.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/watching.md")
	if err != nil {
		t.Fatal(err)
	}
	film(t, "demo.flv", 20, simple)
	film(t, "sample.flv", 20, simple)
	s := start(t)
	s.publish("demo", "demo")
	urls := regexp.MustCompile(`http://localhost:8080(/[^\s"'`+"`"+`)]*)`).FindAllSubmatch(text, -1)
	if len(urls) < 6 {
		t.Fatalf("there are only %d URLs", len(urls))
	}
	for _, u := range urls {
		resp, err := http.Get(s.url + string(u[1]))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", u[1], resp.Status)
		}
	}
}
