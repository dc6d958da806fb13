package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/e2e/page"
)

var update = flag.Bool("update", false, "write docs/stages.md anew")

// TestStagesDocument keeps docs/stages.md what the kinds say of themselves.
func TestStagesDocument(t *testing.T) {
	const path = "../../docs/stages.md"
	want := stagesDocument(kinds(nil, nil))
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("docs/stages.md is not what the kinds say: go test ./cmd/mediad -run StagesDocument -update")
	}
}

func stagesDocument(kinds []stage.Kind) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "# The stages\n\nWhat may stand behind `use` in pipelines.yaml, and behind `with`. This page is made from the")
	fmt.Fprintln(&b, "stages' own descriptions (`go test ./cmd/mediad -run StagesDocument -update`).")
	for _, k := range kinds {
		fmt.Fprintf(&b, "\n## %s\n\n%s %s\n", k.Name, k.Summary, ports(k.Ports))
		settings := k.Describe()
		if len(settings) == 0 {
			continue
		}
		fmt.Fprintln(&b, "\n| setting | type | default | meaning |\n| --- | --- | --- | --- |")
		for _, s := range settings {
			def := ""
			switch {
			case s.Required:
				def = "required"
			case s.Default != "":
				def = "`" + s.Default + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.Name, s.Type, def, s.Doc)
		}
	}
	return b.Bytes()
}

// TestReadmeShowsTheShippedFile keeps the README's pipelines.yaml the real one.
func TestReadmeShowsTheShippedFile(t *testing.T) {
	file, err := os.ReadFile("../../pipelines.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(file), "version:")
	for _, b := range page.Read(t, "../../README.md") {
		if b.Language == "yaml" {
			if b.Text != "version:"+want {
				t.Errorf("%s shows another pipelines.yaml:\n%s", b, b.Text)
			}
			return
		}
	}
	t.Error("the README shows no pipelines.yaml")
}
