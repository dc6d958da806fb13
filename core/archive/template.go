// The names of files, and the times at which they change.

package archive

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A template is the parts of a path setting.
type template []part

// A part is plain text, a layout of the time, or the channel when both are empty.
type part struct{ text, layout string }

// parseTemplate reads a path such as {channel}/{2006-01-02}/{15-04-05}.flv. In a cluster the
// name of the node is in it, wherever {node} stands or else at the end: when a channel moves, or is
// published on two sides of a cut, neither side writes over the other's files on a disk they share.
func parseTemplate(s, node string) (template, error) {
	if node != "" && !strings.Contains(s, "{node}") {
		ext := path.Ext(s)
		s = strings.TrimSuffix(s, ext) + "_{node}" + ext
	}
	var t template
	for rest := s; rest != ""; {
		text, after, open := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, fmt.Errorf("%q has a } without its {", s)
		}
		if text != "" {
			t = append(t, part{text: text})
		}
		if !open {
			break
		}
		name, after, closed := strings.Cut(after, "}")
		if !closed {
			return nil, fmt.Errorf("%q has a { without its }", s)
		}
		rest = after
		switch {
		case name == "channel":
			t = append(t, part{})
			continue
		case name == "node" && node == "":
			continue
		case name == "node":
			t = append(t, part{text: node})
			continue
		}
		if sample.Format(name) == name {
			return nil, fmt.Errorf("{%s} is neither {channel}, {node} nor a time in Go's layout, such as {2006-01-02} or {15-04-05}", name)
		}
		t = append(t, part{layout: name})
	}
	if err := media.CheckName(t.name("channel", sample)); err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	return t, nil
}

// sample is a time that no layout is equal to.
var sample = time.Date(2033, 11, 28, 22, 47, 39, 0, time.UTC)

// name returns the name of a channel's file that begins at a time.
func (t template) name(channel string, at time.Time) string {
	var b strings.Builder
	for _, p := range t {
		switch {
		case p.text != "":
			b.WriteString(p.text)
		case p.layout != "":
			b.WriteString(at.Format(p.layout))
		default:
			b.WriteString(channel)
		}
	}
	return b.String()
}

// boundary returns the first multiple of d on the clock of t's zone that is after
// t. When the clock is put back or forward, an hour or less is counted as it
// passes, so that no part becomes longer than that; more as the clock shows.
func boundary(t time.Time, d time.Duration) time.Time {
	_, offset := t.Zone()
	shift := time.Duration(offset) * time.Second
	next := t.Add(shift).Truncate(d).Add(d).Add(-shift)
	if d <= time.Hour {
		return next
	}
	_, then := next.Zone()
	if fixed := next.Add(shift - time.Duration(then)*time.Second); fixed.After(t) {
		return fixed
	}
	return next
}
