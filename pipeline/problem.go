// What is wrong with a file, where, and what may have been meant.

package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is one mistake in a file.
type Problem struct {
	File  string `json:"file"`
	Line  int    `json:"line"` // from 1, as Col
	Col   int    `json:"column"`
	Where string `json:"where,omitempty"` // "pipeline/stage", or "" when it is about the file itself
	Text  string `json:"text"`            // what is wrong, and what to do
}

func (p Problem) Error() string {
	if p.Where == "" {
		return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s: %s", p.File, p.Line, p.Col, p.Where, p.Text)
}

// Problems are all the mistakes of a file, in the order in which they stand there.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

// sort puts p into the order of the file and returns it as an error, nil when
// there is none.
func (p Problems) sort() error {
	if len(p) == 0 {
		return nil
	}
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return p
}

// A file may have any number of names: this many are compared, or listed in one line.
const (
	maxCompared = 200
	maxListed   = 30
)

// didYouMean returns ` (did you mean "x"?)` for the known name that is nearest to
// word, or "" when none is near.
func didYouMean(word string, known []string) string {
	best, limit := "", max(1, len(word)/3)
	for _, name := range known[:min(len(known), maxCompared)] {
		if abs(len(name)-len(word)) > limit {
			continue
		}
		if d := distance(word, name); d <= limit {
			best, limit = name, d-1
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// nearestOrAll is didYouMean, or the list of what there is when nothing is near.
func nearestOrAll(word string, known []string) string {
	if near := didYouMean(word, known); near != "" || len(known) == 0 || len(known) > maxListed {
		return near
	}
	return " (there are: " + strings.Join(known, ", ") + ")"
}

// distance is the number of letters to add, drop, change or swap with the next to
// make a into b (optimal string alignment).
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(last[j]+change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

func abs(n int) int { return max(n, -n) }
