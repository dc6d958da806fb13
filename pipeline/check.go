// From entries to a graph: kinds, names, edges, and whether each stage has what it
// needs.

package pipeline

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mediad/mediad/core/stage"
	"gopkg.in/yaml.v3"
)

// checker makes the graph of the entries.
type checker struct {
	*parser
	graph   *Graph
	catalog Catalog
	kinds   []stage.Kind // those that are built in

	byName map[string]*node // "pipeline/stage", and "pipeline" for its last stage
	known  []string         // the keys of byName, sorted
	nodes  []*node
}

// node is a stage while it is checked.
type node struct {
	*Stage
	in, out []edge // readers that feed it; writers that it writes into
	written bool   // another stage writes into it
	// doubt is set once something about the stage or its edges is wrong, so that
	// what follows from it is not reported too.
	doubt bool
}

// edge leads to a stage that is called: read from, or written into.
type edge struct {
	to *node
	at pos // where the file makes it
}

func (c *checker) check(lines []line) {
	c.byName = map[string]*node{}
	made := make([][]*node, len(lines))
	for i, l := range lines {
		for _, e := range l.entries {
			made[i] = append(made[i], c.stage(l, e))
		}
	}
	c.known = slices.Sorted(maps.Keys(c.byName))
	for i, l := range lines {
		c.joinDown(l, made[i])
	}
	for i, l := range lines { // later, as the stage above and `from` come first
		c.joinTo(l, made[i])
	}
	for _, n := range c.nodes {
		c.complete(n)
	}
	c.order()
}

// stage makes the node of an entry, nil when the entry is no stage.
func (c *checker) stage(l line, e entry) *node {
	if e.form != isStage {
		return nil
	}
	n := &node{Stage: &Stage{Pipeline: l.name, Name: e.name, at: e.at, Given: map[string]any{}, positions: map[string]pos{}}}
	c.nodes = append(c.nodes, n)
	if e.name != "" {
		if first, ok := c.byName[n.String()]; ok {
			c.wrong(e.at, e.where, "the pipeline has a stage of this name in line %d: give this one another with name:", first.at.line)
		} else {
			c.byName[n.String()] = n
		}
	}
	c.byName[l.name] = n
	var ok bool
	if n.Kind, n.Process, ok = c.kind(e); !ok {
		n.doubt = true
		return n
	}
	with := c.flat(n.Kind, e.with, e.where)
	n.Settings = c.decode(n.Kind, with, e.use.at, e.where)
	for _, kv := range with {
		n.positions[kv.key] = at(kv.value)
		n.Given[kv.key] = asWritten(kv.value)
	}
	c.graph.Stages = append(c.graph.Stages, n.Stage)
	return n
}

// kind finds the kind of an entry, and how its stage runs out of the daemon if it
// does. A plugin runs in a process of its own; a built-in kind when `run` says so.
func (c *checker) kind(e entry) (stage.Kind, *Process, bool) {
	if e.use.text == "" {
		return stage.Kind{}, nil, false
	}
	i := slices.IndexFunc(c.kinds, func(k stage.Kind) bool { return k.Name == e.use.text })
	if i >= 0 && e.run == nil {
		return c.kinds[i], nil, true
	}
	plugins, err := c.plugins()
	if err != nil {
		c.wrong(e.use.at, e.where, "%v", err)
		return stage.Kind{}, nil, false
	}
	if i < 0 && !slices.Contains(plugins, e.use.text) {
		known := append(list(c.kinds, all), plugins...)
		c.wrong(e.use.at, e.where, "there is no kind of stage called %q%s", e.use.text, nearestOrAll(e.use.text, known))
		return stage.Kind{}, nil, false
	}
	how := e.run
	if how == nil {
		how = &Process{}
	}
	k, err := c.catalog.Process(c.graph.Plugins.Dir, e.use.text, *how)
	if err == nil && k.Name == ofDaemon && c.graph.Cluster != nil {
		err = fmt.Errorf("the kind %s claims its channels in the cluster and must run in the daemon: leave out run, sha256 and memory, or cluster", k.Name)
	}
	if err != nil {
		c.wrong(e.use.at, e.where, "%v", err)
	}
	return k, how, err == nil
}

// ofDaemon is the kind that asks more of its cluster than stage.Nodes has.
const ofDaemon = "broadcast"

// plugins are the names of the kinds in the folder of the file.
func (c *checker) plugins() ([]string, error) {
	if c.graph.Plugins.Dir == "" {
		return nil, nil
	}
	return c.catalog.Plugins(c.graph.Plugins.Dir)
}

// asWritten is a setting's value with its variables in place.
func asWritten(n *yaml.Node) any {
	if n.Kind != yaml.SequenceNode {
		return unshield.Replace(n.Value)
	}
	list := make([]string, len(n.Content))
	for i, e := range n.Content {
		list[i] = unshield.Replace(e.Value)
	}
	return list
}

// joinDown makes the edges from each stage to the one below it, and those of `from`.
func (c *checker) joinDown(l line, made []*node) {
	var above []edge
	whole := true // all that stands above could be understood
	for i, e := range l.entries {
		from := c.refs(e.from, e.where)
		switch {
		case e.form == isStage:
			n := made[i]
			n.doubt = n.doubt || !whole || len(from) < len(e.from)
			for _, up := range above {
				c.join(up.to, n, e.at, e.where)
			}
			for _, up := range from {
				c.join(up.to, n, up.at, e.where)
			}
			above, whole = []edge{{n, e.at}}, true
		case e.form == isFrom && i > 0:
			c.wrong(e.at, e.where, "from alone begins a pipeline: put it next to use, or begin another pipeline with it")
		case e.form == isFrom && len(l.entries) == 1:
			c.wrong(e.at, e.where, "from feeds the stage below it, and there is none")
		case e.form == isFrom:
			above, whole = from, len(from) > 0 && len(from) == len(e.from)
		}
	}
}

// joinTo makes the edge of the `to` at the end of a pipeline.
func (c *checker) joinTo(l line, made []*node) {
	for i, e := range l.entries {
		if e.form != isTo {
			continue
		}
		if i < len(l.entries)-1 {
			c.wrong(e.at, e.where, "to ends a pipeline, but more follows")
		}
		if i == 0 || made[i-1] == nil {
			c.wrong(e.at, e.where, "to says what the stage above feeds, and there is none")
			continue
		}
		up := made[i-1]
		if down, ok := c.ref(e.to, e.where); ok {
			c.join(up, down, e.to.at, e.where)
		} else {
			up.doubt = true
		}
	}
}

func (c *checker) refs(names []word, where string) []edge {
	var list []edge
	for _, w := range names {
		if n, ok := c.ref(w, where); ok {
			list = append(list, edge{n, w.at})
		}
	}
	return list
}

// ref finds the stage that a `from` or `to` names.
func (c *checker) ref(w word, where string) (*node, bool) {
	if n, ok := c.byName[w.text]; ok || w.text == "" {
		return n, ok
	}
	// The pipeline's name may have been left out.
	i := slices.IndexFunc(c.known, func(name string) bool { return strings.HasSuffix(name, "/"+w.text) })
	if i >= 0 {
		c.wrong(w.at, where, "there is no pipeline %q (did you mean %q?)", w.text, c.known[i])
	} else {
		c.wrong(w.at, where, "there is no stage or pipeline %q%s", w.text, nearestOrAll(w.text, c.known))
	}
	return nil, false
}

// join makes the edge by which frames go from up to down.
func (c *checker) join(up, down *node, at pos, where string) {
	if up.Kind.Name == "" || down.Kind.Name == "" {
		up.doubt, down.doubt = true, true
		return
	}
	pushes, pulls := fit(up.Kind, down.Kind)
	switch {
	case pushes && lead(up.out, down):
		c.wrong(at, where, "%s writes into %s already", up, down)
	case pushes:
		up.out = append(up.out, edge{down, at})
		down.written = true
	case pulls && lead(down.in, up):
		c.wrong(at, where, "%s reads from %s already", down, up)
	case pulls:
		down.in = append(down.in, edge{up, at})
	default:
		up.doubt, down.doubt = true, true
		c.wrong(at, where, "%s and %s do not fit together: %s", up, down, misfit(c.kinds, up.Kind, down.Kind))
	}
}

func lead(edges []edge, to *node) bool {
	return slices.ContainsFunc(edges, func(e edge) bool { return e.to == to })
}

// complete checks that a stage has what it needs, and not more.
func (c *checker) complete(n *node) {
	for _, e := range n.in {
		n.Inputs = append(n.Inputs, e.to.Stage)
	}
	if len(n.out) > 0 {
		n.Output = n.out[0].to.Stage
	}
	if len(n.in) > 1 && n.Kind.NeedsReader == stage.One {
		second := n.in[1]
		c.wrong(second.at, n.String(), "%s reads from one stage, but both %s and %s feed it (a broker above it takes many)", n.Kind.Name, n.in[0].to, second.to)
	}
	if len(n.out) > 1 {
		second := n.out[1]
		c.wrong(second.at, n.String(), "%s writes into one stage, but both %s and %s follow it", n.Kind.Name, n.out[0].to, second.to)
	}
	for _, e := range n.out {
		if lead(n.in, e.to) {
			c.wrong(e.at, n.String(), "cycle: it reads from %s and writes into it", e.to)
		}
	}
	if n.doubt {
		return
	}
	needsReader := n.Kind.NeedsReader == stage.One || n.Kind.NeedsReader == stage.Some
	switch {
	case len(n.in) > 0:
	case needsReader:
		c.wrong(n.at, n.String(), "nothing feeds it: put a stage above it that can be read from, or name one in from: (kinds: %s)", names(c.kinds, readable))
	case n.Kind.ProvidesWriter && !n.written:
		c.wrong(n.at, n.String(), "nothing feeds it: put a stage above it that writes (kinds: %s)", names(c.kinds, writing))
	}
	if n.Kind.NeedsWriter && len(n.out) == 0 {
		c.wrong(n.at, n.String(), "it has nothing to write into: put a stage below it that can be written into, or name one in to: (kinds: %s)", names(c.kinds, writable))
	}
}

// order finds the order of starting, and cycles: stages that call each other. What
// stands apart is no part of a cycle. It comes before all but what it calls, as those
// that call it mostly can.
func (c *checker) order() {
	const (
		fresh = iota
		open
		done
	)
	state := map[*Stage]int{}
	var path []string
	var visit func(n *node)
	visit = func(n *node) {
		state[n.Stage] = open
		path = append(path, n.String())
		for _, e := range slices.Concat(n.in, n.out) {
			switch {
			case e.to.Kind.Apart && e.to != n:
			case state[e.to.Stage] == fresh:
				visit(e.to)
			case state[e.to.Stage] == open:
				from := slices.Index(path, e.to.String())
				c.wrong(e.at, n.String(), "cycle: %s needs itself (%s)", e.to, strings.Join(append(path[from:len(path):len(path)], e.to.String()), " <- "))
			}
		}
		path = path[:len(path)-1]
		state[n.Stage] = done
		c.graph.order = append(c.graph.order, n.Stage)
	}
	for _, apart := range []bool{true, false} {
		for _, n := range c.nodes {
			if n.Kind.Apart == apart && state[n.Stage] == fresh {
				visit(n)
			}
		}
	}
}
