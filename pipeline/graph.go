// Package pipeline turns pipelines.yaml into a checked graph of stages, and runs
// it. It knows the stages by their description alone.
package pipeline

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/stage"
)

// A Graph is a file that was found to be right: the stages, and which reads from
// and writes into which.
type Graph struct {
	File    string
	Listen  Listen
	Log     Log
	Plugins Plugins
	Cluster *cluster.Config // nil when the daemon is alone
	Drain   time.Duration   // how long a stage may take to finish at the end
	Pprof   bool
	// Stages are in the order of the file.
	Stages []*Stage
	// order is the order of starting: each stage stands after those it calls, but
	// for some that stand apart (stage.Ports.Apart), which may call it too.
	order []*Stage
}

// A Stage is one stage of a graph.
type Stage struct {
	Pipeline, Name string
	Kind           stage.Kind
	// Process says how the stage runs out of the daemon, nil when it runs in it.
	Process  *Process
	Settings any // what Kind.New takes
	// Given is what the file sets, as it is written there: variables are not
	// replaced. A value is a string or a []string.
	Given map[string]any
	// Inputs are the stages it reads from, Output the one it writes into.
	Inputs []*Stage
	Output *Stage

	at        pos
	positions map[string]pos // of the settings
}

// String is "pipeline/stage".
func (s *Stage) String() string { return s.Pipeline + "/" + s.Name }

// calls are the stages whose Reader or Writer s uses.
func (s *Stage) calls() []*Stage {
	if s.Output == nil {
		return s.Inputs
	}
	return append(s.Inputs[:len(s.Inputs):len(s.Inputs)], s.Output)
}

// Load reads and checks a file. What is wrong with its content is returned as
// Problems. env is os.LookupEnv or what stands in for it.
func Load(path string, kinds Catalog, env func(string) (string, bool)) (*Graph, error) {
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, text, kinds, env)
}

// ReadListen returns where a file says to listen, whatever else is wrong with it.
func ReadListen(path string, env func(string) (string, bool)) Listen {
	text, err := read(path)
	if err != nil {
		return Listen{}
	}
	g, _ := (&parser{file: path, env: env}).parse(text)
	return g.Listen
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// Parse is Load for a text that was read already.
func Parse(path string, text []byte, kinds Catalog, env func(string) (string, bool)) (*Graph, error) {
	p := parser{file: path, env: env}
	g, lines := p.parse(text)
	c := checker{parser: &p, graph: g, catalog: kinds, kinds: kinds.BuiltIn()}
	c.check(lines)
	if err := p.problems.sort(); err != nil {
		return nil, err
	}
	return g, nil
}
