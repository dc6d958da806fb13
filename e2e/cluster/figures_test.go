// The figures in docs/cluster-figures.md.

package lab

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const figures = "../../docs/cluster-figures.md"

// writing says that the page is to be written anew.
var writing = os.Getenv("MEDIAD_FIGURES") == "write"

// figure prints a table, the first row of which is its head. With MEDIAD_FIGURES=write it takes the place
// of that in docs/cluster-figures.md, which must have one under its title.
func figure(t *testing.T, title, about string, rows [][]string) {
	t.Helper()
	var s strings.Builder
	fmt.Fprintf(&s, "## %s\n\n%s:\n\n", title, about)
	for i, row := range rows {
		fmt.Fprintf(&s, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(&s, "|%s\n", strings.Repeat(" --- |", len(row)))
		}
	}
	fmt.Print("\n", s.String(), "\n")
	page, err := os.ReadFile(figures)
	if err != nil {
		t.Error(err)
		return
	}
	before, rest, found := strings.Cut(string(page), "## "+title+"\n")
	if !found {
		t.Errorf("%s has no section %q", figures, title)
		return
	}
	if !writing || t.Failed() {
		return
	}
	if _, after, more := strings.Cut(rest, "\n## "); more {
		s.WriteString("\n## " + after)
	}
	if err := os.WriteFile(figures, []byte(before+s.String()), 0o644); err != nil {
		t.Error(err)
	}
}
