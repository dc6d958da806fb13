// mediad top: what the console's page shows, in a terminal.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline"
	"github.com/mediad/mediad/pipeline/console"
	"github.com/spf13/cobra"
)

// topDecisions is how many decisions of each broker are shown.
const topDecisions = 5

// How a terminal is told to go to its first line and clear the rest, and to
// write a line in red.
const (
	clearScreen = "\x1b[H\x1b[J"
	red, plain  = "\x1b[31m", "\x1b[0m"
)

func topCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what the running daemon does, each second: channels, stages, rates, decisions",
		Args:  cobra.NoArgs,
	}
	daemon := clientFlags(cmd)
	once := cmd.Flags().Bool("once", false, "print one frame, with rates over a second, and end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out := cmd.OutOrStdout()
		if *once {
			return daemon.watch(cmd, func(s console.Snapshot) (bool, error) {
				if s.Over == 0 {
					return true, nil
				}
				return false, printTop(out, s)
			})
		}
		return daemon.top(cmd, out)
	}
	return cmd
}

// top shows frames until the command is ended. A daemon that goes away is waited for, one
// that was not there is an error.
func (c client) top(cmd *cobra.Command, out io.Writer) error {
	seen := false
	for {
		err := c.watch(cmd, func(s console.Snapshot) (bool, error) {
			seen = true
			var frame bytes.Buffer
			if err := printTop(&frame, s); err != nil {
				return false, err
			}
			_, err := io.WriteString(out, clearScreen+coloured(frame.String()))
			return true, err
		})
		if cmd.Context().Err() != nil {
			return nil
		}
		if !seen {
			return err
		}
		if _, err := fmt.Fprintf(out, "\n%sThe daemon does not answer, what you see is from before: %s%s\n", red, clean(err.Error()), plain); err != nil {
			return failure{err}
		}
		select {
		case <-time.After(time.Second):
		case <-cmd.Context().Done():
			return nil
		}
	}
}

// watch gives show the daemon's snapshots as they come, until it wants no more. The
// end of the daemon is an error.
func (c client) watch(cmd *cobra.Command, show func(console.Snapshot) (more bool, err error)) error {
	body, err := c.ask(cmd, http.MethodGet, "/api/events")
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		var s console.Snapshot
		if err := json.Unmarshal(data, &s); err != nil {
			return failure{fmt.Errorf("%s gave an answer that is not understood: is it mediad? %w", c.url(), err)}
		}
		if more, err := show(s); err != nil || !more {
			return err
		}
	}
	return failure{cmp.Or(lines.Err(), errors.New("the daemon has ended"))}
}

// coloured writes the lines that are marked with a ! in red.
func coloured(frame string) string {
	var b strings.Builder
	for line := range strings.Lines(frame) {
		if strings.HasPrefix(line, "!") {
			line = red + strings.TrimSuffix(line, "\n") + plain + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

func printTop(w io.Writer, s console.Snapshot) error {
	running := 0
	for _, st := range s.Stages {
		if st.State == pipeline.Running {
			running++
		}
	}
	t := &topTable{Writer: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), now: s.Time}
	fmt.Fprintf(t, "mediad at %s, %s: %d of %d stages run\n", clean(s.Host), s.Time.Local().Format(time.TimeOnly), running, len(s.Stages))
	if s.Error != "" {
		fmt.Fprintf(t, "! %s\n", clean(s.Error))
	}
	t.channels(s)
	t.stages(s)
	t.brokers(s)
	if len(s.Nodes) > 0 {
		fmt.Fprintln(t)
		if err := t.Flush(); err != nil {
			return failure{err}
		}
		return printNodes(w, s.Nodes)
	}
	if err := t.Flush(); err != nil {
		return failure{err}
	}
	return nil
}

// topTable is a frame that is being written.
type topTable struct {
	*tabwriter.Writer
	now time.Time // the daemon's
}

// row writes cells, the first of which is a mark.
func (t *topTable) row(cells ...string) {
	for i := range cells {
		cells[i] = clean(cells[i])
	}
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}

func (t *topTable) ago(past time.Time) string {
	if past.IsZero() {
		return "-"
	}
	return max(0, t.now.Sub(past)).Round(time.Second).String()
}

func (t *topTable) channels(s console.Snapshot) {
	fmt.Fprintf(t, "\nviewers: %s\n", clean(orDash(protocols(s.Viewers))))
	t.row("", "CHANNEL", "CODECS", "BITRATE", "READERS", "FROM", "ON AIR")
	for _, c := range s.Channels {
		mark, from := "", "published here"
		switch {
		case c.Node != "":
			from = "on air at " + c.Node
		case c.Repeated && len(c.Path) > 1:
			from = strings.Join(c.Path, " > ")
		case c.Repeated:
			mark, from = "!", "repeated, no source now"
		case !c.Publishing:
			mark, from = "!", "the publisher is away"
		}
		readers := strconv.Itoa(c.Readers)
		if by := protocols(c.Viewers); by != "" {
			readers += ": " + by
		}
		codecs := strings.Trim(c.Video+","+c.Audio, ",")
		t.row(mark, c.Name, orDash(codecs), scaled(float64(c.Bitrate), "bit/s"), readers, from, t.ago(c.Since))
	}
	if s.More > 0 {
		fmt.Fprintf(t, "and %d more channels\n", s.More)
	}
}

// protocols says how many watch by each.
func protocols(by map[string]int) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		if by[name] > 0 {
			list = append(list, fmt.Sprintf("%d by %s", by[name], name))
		}
	}
	return strings.Join(list, ", ")
}

func (t *topTable) stages(s console.Snapshot) {
	fmt.Fprintln(t)
	t.row("", "STAGE", "STATE", "FOR", "GETS FROM", "FIGURES, OR THE ERROR")
	for _, st := range s.Stages {
		mark := ""
		if st.State != pipeline.Running {
			mark = "!"
		}
		var from, figures []string
		for _, e := range s.Edges {
			if e.To != st.String() {
				continue
			}
			rate := "-"
			if e.Rate != nil {
				rate = quantity(e.Rate.Value, e.Rate.Unit)
			}
			from = append(from, e.From+" "+rate)
		}
		for _, f := range st.Figures {
			figures = append(figures, f.Name+" "+quantity(f.Value, f.Unit))
		}
		if st.Error != "" {
			figures = []string{st.Error}
		}
		t.row(mark, st.String(), string(st.State), t.ago(st.Since), orDash(strings.Join(from, ", ")), strings.Join(figures, ", "))
	}
}

func (t *topTable) brokers(s console.Snapshot) {
	for _, b := range s.Brokers {
		if len(b.Decisions) == 0 {
			continue
		}
		fmt.Fprintf(t, "\nlast decisions of %s\n", clean(b.Stage))
		t.row("", "NAME", "OPENED FROM", "COST", "AGO", "INSTEAD OF")
		for _, d := range b.Decisions[:min(len(b.Decisions), topDecisions)] {
			mark, from, cost := "!", cmp.Or(d.Error, "nowhere"), "-"
			var others []string
			for _, c := range d.Candidates {
				if c.Chosen {
					mark, from, cost = "", c.Source, fmt.Sprintf("%.1f %s", c.Total, c.Cost.Place)
					continue
				}
				others = append(others, otherCandidate(c))
			}
			t.row(mark, d.Name, from, cost, t.ago(d.Time), orDash(strings.Join(others, "; ")))
		}
	}
}

func otherCandidate(c media.Candidate) string {
	return c.Source + ": " + cmp.Or(c.Note, fmt.Sprintf("%.1f", c.Total))
}

// quantity writes a figure or a rate of a snapshot.
func quantity(v float64, unit string) string {
	switch unit {
	case "B":
		return scaled(v, "B")
	case "B/s":
		return scaled(8*v, "bit/s")
	case "%", "s":
		return fmt.Sprintf("%.1f%s", v, unit)
	}
	return strings.TrimSpace(fmt.Sprintf("%.4g %s", v, unit))
}

// scaled writes a number with a prefix of its unit.
func scaled(v float64, unit string) string {
	prefixes := []string{"", "k", "M", "G", "T"}
	for v >= 999.5 && len(prefixes) > 1 {
		v, prefixes = v/1000, prefixes[1:]
	}
	return fmt.Sprintf("%.3g %s%s", v, prefixes[0], unit)
}

// clean takes away what a terminal would obey: names and errors come from outside.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
