// A graph on paper: for people, for Graphviz, for Mermaid.

package pipeline

import (
	"fmt"
	"io"
	"strings"
)

// Draw writes the graph in a format: text, dot or mermaid. Arrows go where the
// frames go: thin ones (->) to a stage that reads, thick ones (=>) to a stage that
// is written into.
func (g *Graph) Draw(w io.Writer, format string) error {
	var b strings.Builder
	switch format {
	case "text":
		g.text(&b)
	case "dot":
		g.dot(&b)
	case "mermaid":
		g.mermaid(&b)
	default:
		return fmt.Errorf("%q is not one of text, dot, mermaid", format)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// link is an edge as it is drawn, in the direction of the frames.
type link struct {
	from, to *Stage
	push     bool
}

func (g *Graph) links() []link {
	var list []link
	for _, s := range g.Stages {
		for _, in := range s.Inputs {
			list = append(list, link{in, s, false})
		}
		if s.Output != nil {
			list = append(list, link{s, s.Output, true})
		}
	}
	return list
}

// pipelines are the stages of each pipeline, in the order of the file.
func (g *Graph) pipelines() [][]*Stage {
	var list [][]*Stage
	for i, s := range g.Stages {
		if i == 0 || s.Pipeline != g.Stages[i-1].Pipeline {
			list = append(list, nil)
		}
		list[len(list)-1] = append(list[len(list)-1], s)
	}
	return list
}

// text writes a line for each run of stages that follow each other, and after them
// the edges that are in no such line. Stages of other pipelines have their full names.
func (g *Graph) text(b *strings.Builder) {
	for _, stages := range g.pipelines() {
		var more []string
		b.WriteString(stages[0].Pipeline)
		for i, s := range stages {
			inputs := s.Inputs
			switch {
			case i > 0 && stages[i-1].Output == s:
				fmt.Fprintf(b, " => %s", s.Name)
			case i > 0 && len(inputs) > 0 && inputs[0] == stages[i-1]:
				fmt.Fprintf(b, " -> %s", s.Name)
				inputs = inputs[1:]
			case len(inputs) > 0:
				fmt.Fprintf(b, "\n  %s -> %s", inputs[0], s.Name)
				inputs = inputs[1:]
			default:
				fmt.Fprintf(b, "\n  %s", s.Name)
			}
			for _, in := range inputs {
				more = append(more, fmt.Sprintf("\n  %s -> %s", in, s.Name))
			}
			if s.Output != nil && (i+1 == len(stages) || stages[i+1] != s.Output) {
				fmt.Fprintf(b, " => %s", s.Output)
			}
		}
		fmt.Fprintln(b, strings.Join(more, ""))
	}
}

func (g *Graph) dot(b *strings.Builder) {
	b.WriteString("digraph mediad {\n\trankdir=LR\n\tnode [shape=box]\n")
	for i, stages := range g.pipelines() {
		fmt.Fprintf(b, "\tsubgraph cluster_%d {\n\t\tlabel=%q\n", i, stages[0].Pipeline)
		for _, s := range stages {
			fmt.Fprintf(b, "\t\t%q [label=\"%s\"]\n", s, label(s, `\n`))
		}
		b.WriteString("\t}\n")
	}
	for _, l := range g.links() {
		style := ""
		if l.push {
			style = " [style=bold]"
		}
		fmt.Fprintf(b, "\t%q -> %q%s\n", l.from, l.to, style)
	}
	b.WriteString("}\n")
}

func (g *Graph) mermaid(b *strings.Builder) {
	b.WriteString("flowchart LR\n")
	id := map[*Stage]int{}
	for i, stages := range g.pipelines() {
		fmt.Fprintf(b, "  subgraph p%d [%s]\n", i, stages[0].Pipeline)
		for _, s := range stages {
			id[s] = len(id)
			fmt.Fprintf(b, "    s%d[%q]\n", id[s], label(s, "<br>"))
		}
		b.WriteString("  end\n")
	}
	for _, l := range g.links() {
		arrow := "-->"
		if l.push {
			arrow = "==>"
		}
		fmt.Fprintf(b, "  s%d %s s%d\n", id[l.from], arrow, id[l.to])
	}
}

// label is the stage's name, and its kind where that is another.
func label(s *Stage, newline string) string {
	if s.Name == s.Kind.Name {
		return s.Name
	}
	return s.Name + newline + "(" + s.Kind.Name + ")"
}
