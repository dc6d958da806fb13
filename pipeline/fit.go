// Which kinds fit together, and how to say why two do not.

package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mediad/mediad/core/stage"
)

// fit says how frames can go from up to down: the upper pushes into the writer that
// the lower is, or the lower pulls from the reader that the upper is. Where both
// could be, it is a push.
func fit(up, down stage.Kind) (pushes, pulls bool) {
	return up.NeedsWriter && down.ProvidesWriter, up.ProvidesReader && down.NeedsReader != stage.None
}

// misfit says why two kinds do not fit, and what would.
func misfit(kinds []stage.Kind, up, down stage.Kind) string {
	below := names(kinds, func(k stage.Kind) bool { return fits(up, k) })
	above := names(kinds, func(k stage.Kind) bool { return fits(k, down) })
	return fmt.Sprintf("%s %s, %s %s (below %s fit: %s; above %s: %s)",
		up.Name, givesBelow(up), down.Name, takesFromAbove(down), up.Name, below, down.Name, above)
}

func fits(up, down stage.Kind) bool {
	pushes, pulls := fit(up, down)
	return pushes || pulls
}

func givesBelow(k stage.Kind) string {
	switch {
	case k.NeedsWriter && k.ProvidesReader:
		return "provides a reader and needs a writer below it"
	case k.NeedsWriter:
		return "needs a writer below it"
	case k.ProvidesReader:
		return "provides a reader"
	}
	return "gives nothing to a stage below it"
}

func takesFromAbove(k stage.Kind) string {
	switch {
	case k.ProvidesWriter && k.NeedsReader != stage.None:
		return "provides a writer and takes readers"
	case k.ProvidesWriter:
		return "provides a writer"
	case k.NeedsReader != stage.None:
		return "needs a reader above it"
	}
	return "takes nothing from a stage above it"
}

func all(stage.Kind) bool        { return true }
func readable(k stage.Kind) bool { return k.ProvidesReader }
func writable(k stage.Kind) bool { return k.ProvidesWriter }
func writing(k stage.Kind) bool  { return k.NeedsWriter }

// list returns the sorted names of the kinds that are wanted.
func list(kinds []stage.Kind, wanted func(stage.Kind) bool) []string {
	var list []string
	for _, k := range kinds {
		if wanted(k) {
			list = append(list, k.Name)
		}
	}
	slices.Sort(list)
	return list
}

// names is list as text.
func names(kinds []stage.Kind, wanted func(stage.Kind) bool) string {
	if l := list(kinds, wanted); len(l) > 0 {
		return strings.Join(l, ", ")
	}
	return "none"
}
