// What the nodes tell one another: beats, questions and answers, as JSON.

package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// message is one of these.
type message struct {
	Beat     *beat     `json:"beat,omitempty"`
	Question *question `json:"question,omitempty"`
	Answer   *answer   `json:"answer,omitempty"`
	Taken    *taken    `json:"taken,omitempty"`
}

// beat is what a node tells of itself four times a second.
type beat struct {
	Node     string    `json:"node"`
	Session  string    `json:"session"`
	Since    time.Time `json:"since"` // the start of the session
	Load     Load      `json:"load"`
	Repeater string    `json:"repeater,omitempty"`
	RTMP     string    `json:"rtmp,omitempty"`
	HTTP     string    `json:"http,omitempty"`
	Member   bool      `json:"member,omitempty"`
	Draining bool      `json:"draining,omitempty"`
	Gone     bool      `json:"gone,omitempty"` // the last beat of the session
}

// differs says that b and o, of one session, differ in what changes seldom.
func (b beat) differs(o beat) bool {
	b.Load, b.Since = o.Load, o.Since
	return b != o
}

// taken is what a node tells one that was dead when it took a name from it: the record, as it
// stands in the directory.
type taken struct {
	Key      string `json:"key"`
	Record   []byte `json:"record"`
	Revision uint64 `json:"revision"`
}

type question struct {
	ID    string `json:"id"`
	From  string `json:"from"`
	Topic string `json:"topic"`
}

type answer struct {
	ID   string `json:"id"`
	From string `json:"from"`
	Body []byte `json:"body,omitempty"`
	Err  string `json:"error,omitempty"`
}

// tell sends m. That it cannot be sent shows in this node's own beats, which don't
// come back.
func (c *Cluster) tell(to string, m message) {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // plain structs
	}
	if err := c.dir.Tell(to, b); err != nil {
		c.metrics.untold.Inc()
	}
}

// Message implements Watcher.
func (c *Cluster) Message(b []byte) {
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		c.metrics.refused.Inc()
		return
	}
	switch {
	case m.Beat != nil && checkNode(m.Beat.Node) == nil && m.Beat.Session != "":
		c.hears(*m.Beat)
	case m.Question != nil:
		if m.Question.From == c.name {
			return // it has answered itself
		}
		select {
		case c.questions <- *m.Question:
		default:
			c.metrics.refused.Inc()
		}
	case m.Answer != nil:
		c.mu.Lock()
		defer c.mu.Unlock()
		select {
		case c.asked[m.Answer.ID] <- *m.Answer:
		default: // nobody waits for it any more
		}
	case m.Taken != nil:
		r, err := decodeRecord(m.Taken.Key, m.Taken.Record, m.Taken.Revision, false)
		if err != nil {
			c.metrics.refused.Inc()
			return
		}
		c.Update(r)
	default:
		c.metrics.refused.Inc()
	}
}

// hears takes a beat of any node.
func (c *Cluster) hears(b beat) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case b.Node != c.name:
	case b.Session == c.session:
		if c.hear(now) {
			c.log.Info("the cluster can be heard")
			c.assert(now)
		}
	case !b.Gone && !c.twin && b.Since.After(c.self.Since):
		c.twin = true
		c.log.Error("another mediad has the name of this node: give each a name of its own", "name", c.name)
	}
	if n, ok := c.nodes[b.Node]; ok && n.Session == b.Session && n.shown == Dead {
		c.confront(b.Node, b.Session)
	}
	if c.beats(b, now) {
		c.look(now)
		c.notify()
	}
}

// confront tells a node that was dead and is heard again which names this one has taken from it: the directory
// would tell it too, but later. The caller holds mu.
func (c *Cluster) confront(node, session string) {
	for name, claim := range c.claims {
		r := c.known(Key{Channel: name}).Record
		if claim.over == session && r.Session == c.session {
			c.tell(node, message{Taken: &taken{r.Key.encode(), r.encode(), r.Revision}})
		}
	}
}

// Answer lets f answer what other nodes Ask about a topic: soon, and with some KB.
func (c *Cluster) Answer(topic string, f func() ([]byte, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[topic] = f
}

// Ask asks all living nodes, this one too, about a topic, and returns their answers by the
// node's name. It waits for 2 seconds at the most. The error says who has
// not answered; the others' answers are there.
func (c *Cluster) Ask(ctx context.Context, topic string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	q := question{ID: rand.Text(), From: c.name, Topic: topic}

	c.mu.Lock()
	now := time.Now()
	waiting := map[string]bool{}
	for name, n := range c.nodes {
		if s := c.state(n, now); name != c.name && (s == Alive || s == Draining) {
			waiting[name] = true
		}
	}
	got := make(chan answer, len(waiting)+1)
	c.asked[q.ID] = got
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.asked, q.ID)
		c.mu.Unlock()
	}()

	if len(waiting) > 0 {
		c.tell("", message{Question: &q})
	}
	got <- c.answer(q)
	waiting[c.name] = true
	bodies := map[string][]byte{}
	var errs []error
	for len(waiting) > 0 {
		select {
		case a := <-got:
			switch {
			case !waiting[a.From]:
				continue
			case a.Err != "":
				errs = append(errs, fmt.Errorf("node %s: %s", a.From, a.Err))
			default:
				bodies[a.From] = a.Body
			}
			delete(waiting, a.From)
		case <-ctx.Done():
			names := slices.Sorted(maps.Keys(waiting))
			errs = append(errs, fmt.Errorf("no answer from %s: %w", strings.Join(names, ", "), ctx.Err()))
			return bodies, errors.Join(errs...)
		}
	}
	return bodies, errors.Join(errs...)
}

// answerAll answers the other nodes' questions until ctx ends.
func (c *Cluster) answerAll(ctx context.Context) {
	for {
		select {
		case q := <-c.questions:
			a := c.answer(q)
			c.tell(q.From, message{Answer: &a})
		case <-ctx.Done():
			return
		}
	}
}

func (c *Cluster) answer(q question) answer {
	a := answer{ID: q.ID, From: c.name}
	c.mu.Lock()
	f := c.answers[q.Topic]
	c.mu.Unlock()
	if f == nil {
		a.Err = fmt.Sprintf("has no answer about %q", q.Topic)
		return a
	}
	body, err := f()
	if a.Body = body; err != nil {
		a.Body, a.Err = nil, err.Error()
	}
	return a
}
