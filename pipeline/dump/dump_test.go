package dump_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/mediad/mediad/pipeline/dump"
	"github.com/mediad/mediad/pipeline/stagetest"
)

// TestPrinterGolden keeps the readable form what it is.
func TestPrinterGolden(t *testing.T) {
	var got bytes.Buffer
	p := dump.NewPrinter(&got)
	for _, b := range stagetest.Film(2, 60)[:1] {
		if err := p.Print(b); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/film.frames")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s", got.String())
	}
}

func TestJSONThereAndBack(t *testing.T) {
	film := stagetest.Film(3, 60)
	var text bytes.Buffer
	w := dump.NewJSONWriter(&text)
	for _, b := range film {
		if err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(text.String(), `"header"`); n != 1 {
		t.Errorf("the header stands in %d lines", n)
	}
	written := text.String()
	back, err := dump.ReadJSON(&text)
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	w = dump.NewJSONWriter(&again)
	for _, b := range back {
		if err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if len(back) != len(film) || again.String() != written {
		t.Error("other batches came back")
	}
	for _, wrong := range []string{"{", `{"frames":[{"track":"smell"}]}`, "flv"} {
		if _, err := dump.ReadJSON(strings.NewReader(wrong)); err == nil {
			t.Errorf("%s was read", wrong)
		}
	}
}
