package pipeline

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what was found into testdata")

const divider = "----------\n"

// testEnv is the environment that the goldens see.
func testEnv(name string) (string, bool) {
	value, ok := map[string]string{"MEDIA": "/srv/media", "KEY": "abc: {def}", "EMPTY": ""}[name]
	return value, ok
}

// Each file of testdata is a file of pipelines and what is expected of it: the
// mistakes, or how it is drawn.
func TestT66_T67_Goldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no goldens", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(text), divider)
			var got bytes.Buffer
			g, err := Parse("pipelines.yaml", []byte(input), new(stages).kinds(), testEnv)
			if err != nil {
				fmt.Fprintln(&got, err)
			} else if err := g.Draw(&got, "text"); err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(file, []byte(input+divider+got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != want {
				t.Errorf("got:\n%swant:\n%s", &got, want)
			}
		})
	}
}

func TestT68_AliasBombAndBigFile(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("version: 1\nbomb:\n  - &a0 [x, x]\n")
	for i := range 40 {
		fmt.Fprintf(&bomb, "  - &a%d [*a%d, *a%d, *a%d]\n", i+1, i, i, i)
	}
	bomb.WriteString("pipelines: *a40\n")
	for name, test := range map[string]struct{ text, want string }{
		"aliases":  {bomb.String(), "pipelines is an alias"},
		"big file": {strings.Repeat("# nothing here\n", 10<<20/15), "more than 1048576 bytes"},
		"depth":    {"version: " + strings.Repeat("[", 500_000), "max depth"},
	} {
		_, err := Parse("pipelines.yaml", []byte(test.text), new(stages).kinds(), testEnv)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load("testdata/missing", Kinds(nil), testEnv); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	big := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(big, bytes.Repeat([]byte("#\n"), MaxFile), 0o600); err != nil {
		t.Fatal(err)
	}
	var problems Problems
	if _, err := Load(big, Kinds(nil), testEnv); !errors.As(err, &problems) {
		t.Error(err)
	}
}

func TestExpand(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                "plain",
		"${MEDIA}/x":           "/srv/media/x",
		"${MEDIA}${MEDIA}":     "/srv/media/srv/media",
		"${NONE:-a-b}":         "a-b",
		"${NONE:-}":            "",
		"${EMPTY}":             "",
		"${EMPTY:-full}":       "full",
		"$$":                   "$",
		"$${MEDIA}":            "${MEDIA}",
		"$$${MEDIA}":           "$/srv/media",
		"$MEDIA costs 5$":      "$MEDIA costs 5$",
		"${MEDIA:-http://h:1}": "/srv/media",
	} {
		if got, err := expand(in, testEnv); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"${NONE}", "${", "${}", "${a b}", "${MEDIA:+x}", "${A:-${MEDIA}}"} {
		if got, err := expand(in, testEnv); err == nil {
			t.Errorf("%s: got %q, want an error", in, got)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"cache", "cache", 0}, {"cahce", "cache", 1},
		{"chache", "cache", 1}, {"cash", "cache", 2}, {"use", "name", 3},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%s, %s: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		input, _, _ := strings.Cut(string(text), divider)
		f.Add([]byte(input))
	}
	kinds := new(stages).kinds()
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := Parse("f", text, kinds, testEnv)
		var problems Problems
		switch {
		case err == nil:
			for _, format := range []string{"text", "dot", "mermaid"} {
				if err := g.Draw(new(bytes.Buffer), format); err != nil {
					t.Fatal(err)
				}
			}
			if len(g.order) != len(g.Stages) || len(g.Stages) == 0 {
				t.Fatalf("%d of %d stages in order", len(g.order), len(g.Stages))
			}
			before := stopOrder(g)
			for _, st := range g.order {
				earlier := map[*Stage]bool{}
				if flood(st, before, earlier); earlier[st] {
					t.Fatalf("%s would stop after itself", st)
				}
			}
		case !errors.As(err, &problems):
			t.Fatal(err)
		default:
			for _, p := range problems {
				if p.Line < 1 || p.Col < 1 || p.Text == "" {
					t.Fatalf("%+v", p)
				}
			}
		}
	})
}
