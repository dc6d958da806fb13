// The HTTP service that is asked who may, and told who has left.

package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	askTimeout = 3 * time.Second
	// maxAnswers is how many answers are kept, maxTold how many ends wait to be told.
	maxAnswers, maxTold = 10_000, 1000
	maxMessage          = 200 // bytes of a refusal that a client is shown
	// firstRest is how long the callback is left alone after a failure; it doubles up to maxRest.
	firstRest, maxRest = 500 * time.Millisecond, 30 * time.Second
)

// message is what the callback is sent.
type message struct {
	Action   Action              `json:"action"` // publish, play, done
	Was      Action              `json:"was,omitempty"`
	Protocol string              `json:"protocol"`
	App      string              `json:"app"`
	Name     string              `json:"name"`
	Address  string              `json:"address"`
	Params   map[string][]string `json:"params,omitempty"`
	Bytes    int64               `json:"bytes,omitempty"`
	Seconds  float64             `json:"seconds,omitempty"`
}

// An answer grants or refuses. It is kept as long as the callback says
// (Cache-Control: max-age), and no longer than it must be otherwise.
type answer struct {
	ready   chan struct{} // closed once what follows is known
	err     error
	until   time.Time // it holds
	honours time.Time // it holds if the callback fails
	before  *answer   // to the same question, until ready
}

// callback asks one service. Clients with equal questions share one request.
type callback struct {
	url    string
	grace  time.Duration
	log    hclog.Logger
	client *http.Client
	told   chan message

	asking sync.WaitGroup

	asked, dropped *prometheus.CounterVec

	mu      sync.Mutex
	answers map[string]*answer
	rest    time.Duration // 0 while the callback answers
	resting time.Time     // it is not asked before
}

func newCallback(url string, grace time.Duration, log hclog.Logger) *callback {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mediad_access_" + name, Help: help}, []string{label})
	}
	return &callback{
		url:   url,
		grace: grace,
		log:   log,
		client: &http.Client{
			Timeout: askTimeout,
			// An answer is the callback's own; it sends nobody elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		told:    make(chan message, maxTold),
		answers: map[string]*answer{},
		asked:   counter("callbacks_total", "Answers to callbacks: granted, refused, failed; cached and honoured are those given from memory.", "answer"),
		dropped: counter("callbacks_dropped_total", "Ends of clients that the callback was not told of, by reason.", "reason"),
	}
}

func (c *callback) register(m prometheus.Registerer) error {
	return errors.Join(m.Register(c.asked), m.Register(c.dropped))
}

// ask returns nil when the callback grants r.
func (c *callback) ask(ctx context.Context, r Request) error {
	m := message{Action: r.Action, Protocol: r.Protocol, App: r.App, Name: r.Name, Address: r.Address.String(), Params: r.Params}
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("%w: the request cannot be told to the callback: %w", media.ErrDenied, err)
	}
	a, mine := c.find(string(body))
	if mine {
		// In the background, as others wait for it too: one who leaves takes no answer from them.
		c.asking.Go(func() { c.fetch(a, body) })
	}
	select {
	case <-a.ready:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// find returns the answer to a question, and whether the caller is to fetch it.
func (c *callback) find(question string) (_ *answer, mine bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.answers[question]
	if old != nil {
		select {
		case <-old.ready:
			if now.Before(old.until) {
				c.asked.WithLabelValues("cached").Inc()
				return old, false
			}
		default:
			return old, false
		}
	}
	a := &answer{ready: make(chan struct{})}
	if now.Before(c.resting) {
		a.err = c.fallback(old, now)
		close(a.ready)
		return a, false
	}
	a.before = old
	if len(c.answers) >= maxAnswers {
		c.forget(now)
	}
	c.answers[question] = a
	return a, true
}

// fallback is the answer while the callback fails: that which it gave before, as long
// as that may be honoured.
func (c *callback) fallback(before *answer, now time.Time) error {
	if before != nil && now.Before(before.honours) {
		c.asked.WithLabelValues("honoured").Inc()
		return before.err
	}
	return fmt.Errorf("%w: the service that decides does not answer, try again later", media.ErrUnavailable)
}

// forget drops answers that hold no more, or any when all do.
func (c *callback) forget(now time.Time) {
	for q, a := range c.answers {
		select {
		case <-a.ready:
			if now.After(a.honours) {
				delete(c.answers, q)
			}
		default:
		}
	}
	for q := range c.answers {
		if len(c.answers) < maxAnswers {
			return
		}
		delete(c.answers, q)
	}
}

// fetch asks the callback and makes a ready. It takes askTimeout at the most.
func (c *callback) fetch(a *answer, body []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	verdict, age, err := c.post(ctx, body)
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(a.ready)
	if err != nil {
		c.asked.WithLabelValues("failed").Inc()
		a.err = c.fallback(a.before, now)
		if a.before != nil {
			a.honours, a.before = a.before.honours, nil
		}
		if c.rest == 0 {
			c.log.Warn("the callback fails; what it said last is honoured for a while, and new clients are refused", "url", c.url, "error", err, "grace", c.grace)
		}
		c.rest = min(max(2*c.rest, firstRest), maxRest)
		c.resting = now.Add(c.rest/2 + rand.N(c.rest/2))
		return
	}
	if c.rest > 0 {
		c.log.Info("the callback answers again", "url", c.url)
	}
	c.rest, c.resting = 0, time.Time{}
	a.before = nil
	a.err, a.until, a.honours = verdict, now.Add(age), now.Add(age+c.grace)
	if verdict == nil {
		c.asked.WithLabelValues("granted").Inc()
		return
	}
	c.asked.WithLabelValues("refused").Inc()
}

var maxAge = regexp.MustCompile(`(?i)(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])`)

// post sends one message. The verdict is nil for 2xx and wraps media.ErrDenied for
// 4xx; everything else is an error.
func (c *callback) post(ctx context.Context, body []byte) (verdict error, age time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	said, err := io.ReadAll(io.LimitReader(res.Body, maxMessage))
	if err != nil {
		return nil, 0, err
	}
	if m := maxAge.FindStringSubmatch(res.Header.Get("Cache-Control")); m != nil {
		seconds, _ := strconv.Atoi(m[1]) // the pattern has digits alone
		age = time.Duration(seconds) * time.Second
	}
	switch res.StatusCode / 100 {
	case 2:
		return nil, age, nil
	case 4:
		return fmt.Errorf("%w: %s", media.ErrDenied, reason(said, res.Status)), age, nil
	}
	return nil, 0, fmt.Errorf("it answered %s", res.Status)
}

// reason is what a client is shown of a refusal: one line of printable text.
func reason(said []byte, status string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
	line = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, line)
	if line == "" {
		return status
	}
	return line
}

// tell hands the end of a client to serve.
func (c *callback) tell(r Request, bytes int64, took time.Duration) {
	m := message{Action: "done", Was: r.Action, Protocol: r.Protocol, App: r.App, Name: r.Name, Address: r.Address.String(),
		Params: r.Params, Bytes: bytes, Seconds: took.Seconds()}
	select {
	case c.told <- m:
	default:
		c.dropped.WithLabelValues("queue_full").Inc()
	}
}

// serve sends what was told, until ctx ends and nothing is left, or for
// askTimeout after that.
func (c *callback) serve(ctx context.Context) {
	defer c.asking.Wait()
	for ctx.Err() == nil {
		select {
		case m := <-c.told:
			c.send(context.WithoutCancel(ctx), m)
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	for {
		select {
		case m := <-c.told:
			c.send(last, m)
		default:
			return
		}
	}
}

func (c *callback) send(ctx context.Context, m message) {
	body, err := json.Marshal(m)
	if err == nil {
		_, _, err = c.post(ctx, body)
	}
	if err != nil {
		c.dropped.WithLabelValues("failed").Inc()
	}
}
