// pipelines.yaml as it is written: the daemon's settings, and pipelines of entries
// with their positions. What the entries mean is found out in check.go.

package pipeline

import (
	"fmt"
	"regexp"

	"github.com/mediad/mediad/core/cluster"
	"gopkg.in/yaml.v3"
)

const version = "1"

// line is one pipeline of the file.
type line struct {
	name    string
	at      pos
	entries []entry
}

// entry is one entry of a pipeline: a stage, or `from` or `to` alone.
type entry struct {
	at    pos
	where string // "pipeline/stage", for messages
	form  form
	use   word // empty when it is missing or wrong
	name  string
	with  []pair
	from  []word
	to    word
	run   *Process // nil in the daemon; the catalog may know better
}

// form is which of the three an entry is.
type form int

const (
	isStage form = iota // it has, or should have, `use`
	isFrom              // `from` alone
	isTo                // `to` alone
)

// parse reads the text of a file as far as it can be understood.
func (p *parser) parse(text []byte) (*Graph, []line) {
	g := &Graph{File: p.file}
	root := p.document(text)
	if root == nil {
		return g, nil
	}
	top := p.pairs(root, "", "the file", "version", "listen", "plugins", "cluster", "pipelines", "drain", "log", "pprof")
	if root.Kind != yaml.MappingNode {
		return g, nil
	}
	misspelt := len(p.problems) > 0
	p.version(top, at(root))

	g.Listen = *p.decode(listenKind, p.section(top, "listen"), at(root), "listen").(*Listen)
	g.Plugins = *p.decode(pluginsKind, p.section(top, "plugins"), at(root), "plugins").(*Plugins)
	g.Log = *p.decode(logKind, p.section(top, "log"), at(root), "log").(*Log)
	if kv, ok := find(top, "cluster"); ok {
		g.Cluster = p.decode(clusterKind, p.settings(kv.value, "", "cluster"), kv.at, "cluster").(*cluster.Config)
	}
	var own []pair
	for _, key := range []string{"drain", "pprof"} {
		if kv, ok := find(top, key); ok {
			own = append(own, kv)
		}
	}
	general := p.decode(generalKind, own, at(root), "").(*general)
	g.Drain, g.Pprof = general.Drain, general.Pprof
	if kv, _ := find(top, "pprof"); g.Pprof && !Loopback(g.Listen.HTTP) {
		p.wrong(kv.at, "", `pprof is for a loopback address only: write listen: {http: "127.0.0.1:8080"}, or leave pprof out`)
	}

	kv, ok := find(top, "pipelines")
	if !ok {
		if !misspelt {
			p.wrong(at(root), "", "pipelines is missing")
		}
		return g, nil
	}
	return g, p.lines(kv)
}

func (p *parser) version(top []pair, start pos) {
	kv, ok := find(top, "version")
	if !ok {
		p.wrong(start, "", "version is missing: write version: %s", version)
		return
	}
	if v, ok := p.word(kv.value, "", "version"); ok && v.text != version {
		p.wrong(v.at, "", "version %s is not known: this mediad reads version %s", v.text, version)
	}
}

func (p *parser) section(top []pair, key string) []pair {
	kv, ok := find(top, key)
	if !ok {
		return nil
	}
	return p.settings(kv.value, "", key)
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (p *parser) checkName(name string, at pos, where string) {
	if !goodName.MatchString(name) {
		p.wrong(at, where, "%q is no name: a name has letters, digits, dots, dashes and underscores, and starts with a letter or digit", name)
	}
}

func (p *parser) lines(pipelines pair) []line {
	if isEmpty(pipelines.value) || pipelines.value.Kind == yaml.MappingNode && len(pipelines.value.Content) == 0 {
		p.wrong(pipelines.at, "", "there are no pipelines")
		return nil
	}
	var lines []line
	for _, kv := range p.pairs(pipelines.value, "", "pipelines") {
		p.checkName(kv.key, kv.at, "")
		l := line{name: kv.key, at: kv.at}
		switch {
		case isEmpty(kv.value) || kv.value.Kind == yaml.SequenceNode && len(kv.value.Content) == 0:
			p.wrong(kv.at, kv.key, "the pipeline has no stages")
		case kv.value.Kind != yaml.SequenceNode:
			p.wrong(at(kv.value), kv.key, "the pipeline is %s, but a list of stages is wanted", shape(kv.value))
		default:
			for i, n := range kv.value.Content {
				l.entries = append(l.entries, p.entry(n, kv.key, i+1))
			}
		}
		lines = append(lines, l)
	}
	return lines
}

func (p *parser) entry(n *yaml.Node, pipeline string, number int) entry {
	e := entry{at: at(n), where: fmt.Sprintf("%s: entry %d", pipeline, number)}
	if n.Kind != yaml.MappingNode {
		p.wrong(e.at, e.where, "an entry is %s, but keys with values are wanted, such as use: reader-disk", shape(n))
		return e
	}
	e.where = nameOf(n, pipeline, e.where)
	before := len(p.problems)
	pairs := p.pairs(n, e.where, "an entry", "use", "with", "name", "from", "to", "run", "sha256", "memory")
	for _, kv := range pairs {
		switch kv.key {
		case "use":
			e.use, _ = p.word(kv.value, e.where, "use")
		case "name":
			if w, ok := p.word(kv.value, e.where, "name"); ok {
				p.checkName(w.text, w.at, e.where)
				e.name = w.text
			}
		case "with":
			e.with = p.settings(kv.value, e.where, "with")
		case "from":
			e.from, _ = p.words(kv.value, e.where, "from")
		case "to":
			e.to, _ = p.word(kv.value, e.where, "to")
		}
	}
	e.run = p.run(pairs, e.where)
	if e.name == "" {
		e.name = e.use.text
	}
	_, hasUse := find(pairs, "use")
	_, hasFrom := find(pairs, "from")
	to, hasTo := find(pairs, "to")
	switch {
	case hasTo && len(pairs) > 1:
		p.wrong(to.at, e.where, "to stands alone, in an entry of its own after the last stage")
	case hasTo:
		e.form = isTo
	case hasFrom && len(pairs) == 1:
		e.form = isFrom
	case !hasUse && len(p.problems) == before: // else it may be misspelt
		p.wrong(e.at, e.where, "use is missing: it says which kind of stage this is")
	}
	return e
}

// run reads where a stage runs. A stage with a pin or a bound on its memory runs
// in a process of its own, whatever `run` says, but that must not contradict.
func (p *parser) run(pairs []pair, where string) *Process {
	var how *Process
	for _, key := range []string{"run", "sha256", "memory"} {
		kv, ok := find(pairs, key)
		if !ok {
			continue
		}
		w, ok := p.word(kv.value, where, key)
		if !ok {
			continue
		}
		if how == nil && (key != "run" || w.text == "process") {
			how = &Process{}
		}
		switch key {
		case "run":
			if w.text != "process" && w.text != "daemon" {
				p.wrong(w.at, where, "run: %q is not one of daemon, process%s", w.text, didYouMean(w.text, []string{"daemon", "process"}))
			}
		case "sha256":
			how.SHA256 = w.text
			if !goodSum.MatchString(w.text) {
				p.wrong(w.at, where, "sha256: %q is not the 64 hexadecimal digits of a SHA-256", w.text)
			}
		case "memory":
			if err := how.Memory.UnmarshalText([]byte(w.text)); err != nil {
				p.wrong(w.at, where, "memory: %v", err)
			}
		}
	}
	if kv, ok := find(pairs, "run"); ok && kv.value.Value == "daemon" && how != nil {
		p.wrong(at(kv.value), where, "run: daemon does not go with sha256 or memory, which are for a stage in a process of its own")
	}
	return how
}

var goodSum = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)

// nameOf finds the stage's name before the entry is read, as it belongs into the
// messages about it.
func nameOf(n *yaml.Node, pipeline, otherwise string) string {
	where := otherwise
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1].Value
		if !goodName.MatchString(value) {
			continue
		}
		if key == "name" {
			return pipeline + "/" + value
		}
		if key == "use" {
			where = pipeline + "/" + value
		}
	}
	return where
}
