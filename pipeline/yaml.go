// YAML nodes, and what the parser asks of them: keys, words, positions.

package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// MaxFile is the largest file that is read, in bytes.
const MaxFile = 1 << 20

// parser gathers what is wrong with a file while it is read and checked.
type parser struct {
	file     string
	env      func(string) (string, bool)
	problems Problems
}

// pos is a position in the file, both from 1.
type pos struct{ line, col int }

func at(n *yaml.Node) pos { return pos{n.Line, n.Column} }

func (p *parser) wrong(at pos, where, format string, args ...any) {
	p.problems = append(p.problems, Problem{p.file, at.line, at.col, where, fmt.Sprintf(format, args...)})
}

// document returns the one node that the file consists of, nil when there is none.
func (p *parser) document(text []byte) *yaml.Node {
	start := pos{1, 1}
	switch {
	case len(text) > MaxFile:
		p.wrong(start, "", "the file has more than %d bytes", MaxFile)
		return nil
	case !utf8.Valid(text):
		p.wrong(start, "", "the file is not UTF-8 text")
		return nil
	}
	var doc, next yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(shieldVariables(text)))
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && isEmpty(doc.Content[0]) {
		p.wrong(start, "", "the file is empty: it needs version and pipelines")
		return nil
	}
	if err == nil {
		err = decoder.Decode(&next)
	}
	switch {
	case err == nil:
		p.wrong(at(&next), "", "a second document begins here: a file has one")
	case !errors.Is(err, io.EOF):
		p.notYAML(text, err)
	default:
		return doc.Content[0]
	}
	return nil
}

var yamlMessage = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// notYAML reports what the YAML package found. The line that it names is often the
// one where a block began that is broken much later.
func (p *parser) notYAML(text []byte, err error) {
	what := unshield.Replace(err.Error())
	where := pos{1, 1}
	if m := yamlMessage.FindStringSubmatch(what); m != nil {
		what = strings.TrimPrefix(what, m[0])
		if n, err := strconv.Atoi(m[1]); err == nil {
			where.line = n
		}
	}
	if len(text) <= maxSearched {
		where.line = brokenLine(text)
	}
	lines := strings.SplitAfter(string(text), "\n")
	indent := lines[min(where.line, len(lines))-1]
	indent = indent[:len(indent)-len(strings.TrimLeft(indent, " \t"))]
	if i := strings.IndexByte(indent, '\t'); i >= 0 {
		where.col, what = i+1, "a tab, but YAML is indented with spaces"
	}
	p.wrong(where, "", "not YAML: %s", what)
}

// maxSearched is the size up to which the broken line is looked for: it takes as
// many parses as there are lines.
const maxSearched = 32 << 10

// brokenLine is the line after the longest part of text that can be parsed.
func brokenLine(text []byte) int {
	lines := bytes.SplitAfter(text, []byte("\n"))
	end := len(text)
	for n := len(lines) - 1; n > 0; n-- {
		end -= len(lines[n])
		if yaml.Unmarshal(shieldVariables(text[:end]), new(yaml.Node)) == nil {
			return n + 1
		}
	}
	return 1
}

func isEmpty(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// shape says what a node is, for messages.
func shape(n *yaml.Node) string {
	switch {
	case isEmpty(n):
		return "empty"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias, which is not supported (write it out)"
	}
	return "a single value"
}

// pair is one key of a mapping with its value.
type pair struct {
	key   string
	at    pos // of the key
	value *yaml.Node
}

// pairs returns the keys of a mapping in their order, without those that are
// doubled or not known. When none are known, any will do.
func (p *parser) pairs(n *yaml.Node, where, what string, known ...string) []pair {
	if n.Kind != yaml.MappingNode {
		p.wrong(at(n), where, "%s is %s, but keys with values are wanted", what, shape(n))
		return nil
	}
	var list []pair
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := unshield.Replace(key.Value)
		line, doubled := lines[name]
		switch {
		case key.Kind != yaml.ScalarNode:
			p.wrong(at(key), where, "a key is %s, but a name is wanted", shape(key))
			continue
		case doubled:
			p.wrong(at(key), where, "%s is given twice, first in line %d", name, line)
			continue
		case len(known) > 0 && !slices.Contains(known, name):
			p.wrong(at(key), where, "unknown key %q%s", name, nearestOrAll(name, known))
		default:
			list = append(list, pair{name, at(key), value})
		}
		lines[name] = key.Line
	}
	return list
}

// find returns the pair with the key.
func find(pairs []pair, key string) (pair, bool) {
	for _, kv := range pairs {
		if kv.key == key {
			return kv, true
		}
	}
	return pair{}, false
}

// word is a single value, its variables replaced.
type word struct {
	text string
	at   pos
}

// word reads a single value; what names it in messages.
func (p *parser) word(n *yaml.Node, where, what string) (w word, ok bool) {
	w.at = at(n)
	if n.Kind != yaml.ScalarNode || isEmpty(n) {
		p.wrong(w.at, where, "%s is %s, but a single value is wanted", what, shape(n))
		return w, false
	}
	var err error
	if w.text, err = expand(unshield.Replace(n.Value), p.env); err != nil {
		p.wrong(w.at, where, "%s: %v", what, err)
	}
	return w, err == nil
}

// words reads a single value or a list of them.
func (p *parser) words(n *yaml.Node, where, what string) (list []word, ok bool) {
	nodes, ok := []*yaml.Node{n}, true
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	for _, n := range nodes {
		w, good := p.word(n, where, what)
		if good {
			list = append(list, w)
		}
		ok = ok && good
	}
	return list, ok
}
