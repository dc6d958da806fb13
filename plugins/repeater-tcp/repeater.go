// Package repeatertcp is the stage kind repeater-tcp, the link between nodes: it
// serves what feeds it to other nodes over TCP, and is a reader of what they serve.
package repeatertcp

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broker"
	"github.com/mediad/mediad/core/certs"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/nowait"
	"github.com/mediad/mediad/core/stage"
)

// Settings are what may be set in pipelines.yaml.
type Settings struct {
	Listen    string   `set:"listen" doc:"host:port at which other nodes are served; empty: none are"`
	Advertise string   `set:"advertise" doc:"host:port that other nodes are told; empty: that of listen, at the address by which this machine reaches the directory when listen names none"`
	Peers     []string `set:"peers" doc:"host:port of each other node, for nodes without a cluster; empty: the cluster tells"`
	Cert      string   `set:"cert" doc:"file with the certificate of this node, in PEM; read again when it changes, as key and ca are"`
	Key       string   `set:"key" doc:"file with its key, in PEM"`
	CA        string   `set:"ca" doc:"file with the certificates that those of all nodes are signed with, in PEM"`
	Plain     bool     `set:"plain" doc:"go without certificates: neither encrypted nor checked who asks, for networks of one's own"`
	Children  int      `set:"children" doc:"nodes that may have one channel open here, if it is published here; of a channel from another node half as many, and 8 at the most"`
}

// Check implements stage.Checker.
func (s *Settings) Check() error {
	var errs []error
	addresses := append([]string{}, s.Peers...)
	for _, a := range []string{s.Listen, s.Advertise} {
		if a != "" {
			addresses = append(addresses, a)
		}
	}
	for i, a := range addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			name := "peers"
			switch {
			case i < len(s.Peers):
			case a == s.Listen:
				name = "listen"
			default:
				name = "advertise"
			}
			errs = append(errs, stage.Wrong(name, "%q is not as in host:port", a))
		}
	}
	files := map[string]string{"cert": s.Cert, "key": s.Key, "ca": s.CA}
	given := 0
	for _, file := range files {
		if file != "" {
			given++
		}
	}
	switch {
	case given == 0 && !s.Plain:
		errs = append(errs, stage.Wrong("cert", "is missing, as key and ca are: without them nothing is encrypted and anyone is served, which plain: true allows"))
	case given > 0 && s.Plain:
		errs = append(errs, stage.Wrong("plain", "is set, and certificates are too"))
	case given > 0 && given < len(files):
		for _, name := range []string{"cert", "key", "ca"} {
			if files[name] == "" {
				errs = append(errs, stage.Wrong(name, "is missing: cert, key and ca are needed together"))
			}
		}
	}
	if s.Children < 1 {
		errs = append(errs, stage.Wrong("children", "must be at least 1"))
	}
	return errors.Join(errs...)
}

// Kind describes repeater-tcp.
func Kind() stage.Kind { return Over(tcp{}) }

// Over is Kind on another network.
func Over(n Network) stage.Kind {
	return stage.Kind{
		Name:     "repeater-tcp",
		Summary:  "Serves what feeds it to other nodes over TCP, and reads what they serve.",
		Settings: func() any { return &Settings{Listen: ":4100", Children: 16} },
		Ports:    stage.Ports{ProvidesReader: true, NeedsReader: stage.Any, Apart: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return newRepeater(env, *settings.(*Settings), n)
		},
	}
}

// A repeater is the stage.
type repeater struct {
	settings Settings
	network  Network
	name     string // of the stage
	self     string // of the node
	log      hclog.Logger
	metrics  *metrics
	nodes    stage.Nodes  // nil without a cluster
	certs    *certs.Certs // nil when it is plain
	drain    time.Duration
	pace     pace

	// inputs is what peers may open: a broker over the stages that feed this one, nil without any.
	inputs interface {
		media.Reader
		media.Coster
	}
	links links

	life    context.Context // ends with Serve
	end     context.CancelFunc
	leaving atomic.Bool // Serve is to end

	mu       sync.Mutex
	stopped  bool                // run starts nothing more
	running  sync.WaitGroup      // grows under mu, while stopped is false
	fed      map[bool]int        // media that peers have open here, by whether they are live
	closed   chan struct{}       // holds one after some were closed
	channels map[string]children // that peers have open here, by name
}

func newRepeater(env stage.Env, s Settings, n Network) (*repeater, error) {
	r := &repeater{
		settings: s, network: n, name: env.Name, log: env.Log, nodes: env.Nodes, drain: env.Drain,
		pace:     usualPace,
		closed:   make(chan struct{}, 1),
		channels: map[string]children{},
		fed:      map[bool]int{},
	}
	r.links = links{r: r, of: map[string]*link{}}
	r.life, r.end = context.WithCancel(context.Background())
	if r.nodes != nil {
		r.self = r.nodes.Self()
	} else {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("what is this machine called: %w", err)
		}
		r.self = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	if err := media.CheckName(r.self); err != nil {
		return nil, fmt.Errorf("this node: %w", err)
	}
	var err error
	if !s.Plain {
		if r.certs, err = certs.Read(certs.Files{Cert: s.Cert, Key: s.Key, CA: s.CA}, env.Log); err != nil {
			return nil, stage.Wrong("cert", "%w", err)
		}
	}
	if r.metrics, err = newMetrics(env.Metrics); err != nil {
		return nil, err
	}
	if len(env.Inputs) > 0 {
		kind := broker.Kind()
		b, err := kind.New(env, kind.Settings())
		if err != nil {
			return nil, err
		}
		r.inputs = b.(interface {
			media.Reader
			media.Coster
		})
	}
	return r, nil
}

// run calls f in a goroutine that Serve waits for. It does not when Serve is over.
func (r *repeater) run(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.running.Go(f)
	return true
}

// opened counts media that peers have open, with 1 and -1.
func (r *repeater) opened(live bool, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fed[live] += n
	if n < 0 {
		signal(r.closed)
	}
}

// Serve implements stage.Stage.
func (r *repeater) Serve(ctx context.Context) error {
	err := r.serve(ctx)
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.end()
	r.running.Wait()
	return err
}

func (r *repeater) serve(ctx context.Context) error {
	for _, address := range r.settings.Peers {
		r.links.get(address) // so that the first viewer need not wait for it
	}
	failed := make(chan error, 1)
	if r.settings.Listen != "" && r.inputs != nil {
		l, err := r.network.Listen(ctx, r.settings.Listen)
		if err != nil {
			return err
		}
		defer l.Close()
		accepting := make(chan struct{})
		go func() {
			defer close(accepting)
			if err := r.accept(ctx, l); err != nil {
				failed <- err
			}
		}()
		defer func() { <-accepting }()
		defer l.Close()
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		r.log.Info("other nodes are served", "listen", l.Addr(), "tls", r.certs != nil)
		r.tell(cmp.Or(r.settings.Advertise, l.Addr().String()))
		defer r.tell("")
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		r.leave()
		return nil
	}
}

// tell tells the other nodes where this one serves them.
func (r *repeater) tell(address string) {
	if r.nodes != nil {
		r.nodes.Serves(address)
	}
}

// handover is how long peers have to find another parent for a channel when the node
// leaves. They learn of it with the next beat.
const handover = time.Second

// leave lets recorded media that peers have open end by themselves, as far as there is
// time, and gives them some to have channels from another node.
func (r *repeater) leave() {
	r.leaving.Store(true)
	r.tell("")
	moved, ended := time.NewTimer(min(handover, r.drain)), time.NewTimer(r.drain)
	defer moved.Stop()
	defer ended.Stop()
	waiting := true // for channels
	for {
		r.mu.Lock()
		channels, films := r.fed[true], r.fed[false]
		r.mu.Unlock()
		if films == 0 && (channels == 0 || !waiting) {
			return
		}
		select {
		case <-r.closed:
		case <-moved.C:
			waiting = false
		case <-ended.C:
			r.log.Info("media are still open, they are ended", "recorded", films, "live", channels)
			return
		}
	}
}

// maxConnections bounds the peers that are connected, and who tries to be one.
const maxConnections = 4096

// accept serves connections until ctx ends.
func (r *repeater) accept(ctx context.Context, l net.Listener) error {
	const shortest, longest = 5 * time.Millisecond, time.Second
	slots := make(chan struct{}, maxConnections)
	pause := shortest
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept peers: %w", err)
		case err != nil: // no descriptors are left, or the like
			r.log.Warn("peers cannot be accepted for now", "error", err)
			wait(ctx, pause)
			pause = min(2*pause, longest)
			continue
		}
		pause = shortest
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		if r.certs != nil {
			c = tls.Server(nowait.Reading(c), r.certs.Server())
		}
		peer := r.newConn(c)
		served := r.run(func() {
			defer func() { <-slots }()
			r.answer(r.life, peer)
		})
		if !served {
			c.Close()
		}
	}
}

// wait waits for d, unless ctx ends before, which it reports.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
