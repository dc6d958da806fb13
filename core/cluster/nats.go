// The directory over NATS: one bucket of JetStream KV in memory, on three servers
// where there are as many. Its changes are followed by a plain subscription to what the
// bucket republishes, since a consumer would die with the server that it is on; whenever
// one may have been missed, the whole bucket is read.

package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	bucketName = "mediad"
	bucketKeys = "$KV." + bucketName + "." // then the key
	republish  = "mediad.kv."              // then the key
	toAll      = "mediad.all"
	toNode     = "mediad.node." // then its name in base64

	unseenAfter = 700 * time.Millisecond // a change that the directory has and that didn't come
	probeEvery  = 10 * time.Second
	readLimit   = 5 * time.Second
)

// natsDirectory implements Directory.
type natsDirectory struct {
	cfg  Config
	tls  *tls.Config
	dial nats.CustomDialer // for tests
	log  hclog.Logger

	mu     sync.Mutex
	conn   *nats.Conn         // nil before Watch and after
	bucket jetstream.KeyValue // nil until it was found

	seen    uint64    // the last change that came, or is in the last snapshot
	awaited uint64    // a change that is in the bucket and has to come
	since   time.Time // that it is awaited
	doubt   bool      // the bucket has to be looked at
}

func newNATS(cfg Config, log hclog.Logger) (*natsDirectory, error) {
	tls, err := cfg.tlsConfig()
	return &natsDirectory{cfg: cfg, tls: tls, log: log}, err
}

var errNotReady = errors.New("the directory has not been found yet")

// kv is the bucket.
func (d *natsDirectory) kv() (kv jetstream.KeyValue, seen uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bucket == nil || !d.conn.IsConnected() {
		return nil, 0, errNotReady
	}
	return d.bucket, d.seen, nil
}

// Claim implements Directory.
func (d *natsDirectory) Claim(ctx context.Context, r Record, over uint64) (revision uint64, err error) {
	kv, seen, err := d.kv()
	if err != nil {
		return 0, err
	}
	if over == 0 {
		revision, err = kv.Create(ctx, r.Key.encode(), r.encode()) // also where it was removed
	} else {
		revision, err = kv.Update(ctx, r.Key.encode(), r.encode(), over)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case conflicts(err):
		d.doubt = true
		return 0, fmt.Errorf("%s: %w", r.Channel, ErrConflict)
	case err != nil:
		return 0, fmt.Errorf("%s: %w", r.Channel, err)
	case revision <= seen:
		d.doubt = true // the bucket was lost and made anew
	default:
		d.await(revision)
	}
	return revision, nil
}

// await has the bucket read when a change does not come. The caller holds mu.
func (d *natsDirectory) await(revision uint64) {
	if revision > d.seen && d.awaited <= d.seen {
		d.awaited, d.since = revision, time.Now()
	}
}

// conflicts tells what JetStream answers when the revision is another one: the second
// code while a change of the key is on its way to the replicas.
func conflicts(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// Release implements Directory. The mark that it leaves ends by itself.
func (d *natsDirectory) Release(ctx context.Context, k Key, revision uint64) error {
	kv, _, err := d.kv()
	if err != nil {
		return err
	}
	err = kv.Purge(ctx, k.encode(), jetstream.LastRevision(revision), jetstream.PurgeTTL(lately))
	if conflicts(err) {
		return fmt.Errorf("%s: %w", k.Channel, ErrConflict)
	}
	return err
}

// Lookup implements Directory. The bucket's leader answers.
func (d *natsDirectory) Lookup(ctx context.Context, k Key) (Record, error) {
	kv, _, err := d.kv()
	if err != nil {
		return Record{}, err
	}
	e, err := kv.Get(ctx, k.encode())
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // or deleted, which wraps it
		return Record{Key: k}, nil
	case err != nil:
		return Record{}, err
	}
	return decodeRecord(e.Key(), e.Value(), e.Revision(), false)
}

// Tell implements Directory.
func (d *natsDirectory) Tell(to string, message []byte) error {
	d.mu.Lock()
	conn := d.conn
	d.mu.Unlock()
	if conn == nil {
		return errNotReady
	}
	subject := toAll
	if to != "" {
		subject = nodeSubject(to)
	}
	return conn.Publish(subject, message)
}

func nodeSubject(node string) string { return toNode + base64url.EncodeToString([]byte(node)) }

// Watch implements Directory.
func (d *natsDirectory) Watch(ctx context.Context, w Watcher) error {
	var embedded *server
	var failed <-chan error
	if d.cfg.NATS == "" && d.cfg.Role == Member {
		var err error
		if embedded, err = startServer(d.cfg, d.tls, d.log); err != nil {
			return err
		}
		defer embedded.stop()
		failed = embedded.failed
	}
	f := &follower{
		d:           d,
		w:           w,
		reconnected: make(chan struct{}, 1),
		reads:       make(chan reading, 1),
		whole:       true,
	}
	// Many changes may come while a snapshot is applied; when there are more, the gap is noticed.
	messages := make(chan *nats.Msg, 1<<16)
	conn, err := d.connect(embedded, f.reconnected)
	if err != nil {
		return err
	}
	defer func() {
		d.mu.Lock()
		d.conn, d.bucket = nil, nil
		d.mu.Unlock()
		conn.Close()
	}()
	for _, subject := range []string{toAll, nodeSubject(d.cfg.Name), republish + ">"} {
		if _, err := conn.ChanSubscribe(subject, messages); err != nil {
			return err
		}
	}
	if f.js, err = jetstream.New(conn); err != nil {
		return err
	}
	d.mu.Lock()
	d.conn = conn
	d.mu.Unlock()
	return f.follow(ctx, messages, failed)
}

// connect returns at once; the connection is made in the background, and made again as often
// as it is lost.
func (d *natsDirectory) connect(embedded *server, connected chan<- struct{}) (*nats.Conn, error) {
	var last string // error; the handlers are called one after another
	again := func(conn *nats.Conn) {
		last = ""
		d.log.Info("connected to the directory", "server", conn.ConnectedServerName())
		wake(connected)
	}
	opts := []nats.Option{
		nats.Name(d.cfg.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1), // what could not be sent is old when it can
		nats.Timeout(2 * time.Second),
		nats.PingInterval(500 * time.Millisecond),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(again),
		nats.ReconnectHandler(again),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil && err.Error() != last {
				last = err.Error()
				d.log.Warn("cannot connect to the directory, will go on trying", "reason", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			d.log.Debug("directory", "error", err)
		}),
	}
	servers := d.cfg.NATS
	if servers == "" {
		servers = strings.Join(d.cfg.Join, ",")
		if d.cfg.Secret != "" {
			opts = append(opts, nats.UserInfo(user, d.cfg.Secret))
		}
	}
	if embedded != nil {
		servers = ""
		opts = append(opts, nats.InProcessServer(embedded))
	} else if d.tls != nil {
		opts = append(opts, nats.Secure(d.tls.Clone()))
	}
	if d.dial != nil {
		opts = append(opts, nats.SetCustomDialer(d.dial))
	}
	return nats.Connect(servers, opts...)
}

// follower is the state of one Watch, for its goroutine.
type follower struct {
	d  *natsDirectory
	js jetstream.JetStream
	w  Watcher

	reconnected chan struct{}
	reads       chan reading
	background  sync.WaitGroup
	busy        bool      // the bucket is being read
	whole       bool      // all of it has to be, whatever its last change is
	next        time.Time // when it is looked at next
	recent      []Record  // what has come since the reading began
	doubted     uint64    // a last change that was in no reading
	last        string    // the error that was logged
}

// reading is what was read of the bucket.
type reading struct {
	bucket  jetstream.KeyValue
	last    uint64   // the change that came last before it was read
	whole   bool     // all was read, because it had to be or last was not what was seen
	records []Record // then
	newest  uint64   // of their revisions
	err     error
}

// follow tells the watcher what happens until ctx ends.
func (f *follower) follow(ctx context.Context, messages <-chan *nats.Msg, failed <-chan error) error {
	defer f.background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const checkEvery = 100 * time.Millisecond
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case m := <-messages:
			f.take(m)
		case <-f.reconnected:
			f.whole = true
			f.look(ctx)
		case r := <-f.reads:
			f.took(r)
		case <-tick.C:
			if f.due(time.Now()) {
				f.look(ctx)
			}
		}
	}
}

// take hands on a message or a change.
func (f *follower) take(m *nats.Msg) {
	key, ok := strings.CutPrefix(m.Subject, republish)
	if !ok {
		f.w.Message(m.Data)
		return
	}
	revision, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		f.whole = true
		return
	}
	r, err := decodeRecord(key, m.Data, revision, m.Header.Get("KV-Operation") != "")
	if err != nil {
		f.complain(err)
	} else {
		f.w.Update(r)
	}
	if f.busy {
		f.recent = append(f.recent, r)
		return
	}
	f.follows(revision)
}

// follows notes the next change. One that is not the next means that others were missed.
func (f *follower) follows(revision uint64) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if revision != f.d.seen+1 {
		f.whole = true
		return
	}
	f.d.seen = revision
}

// due says whether the bucket has to be looked at.
func (f *follower) due(now time.Time) bool {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.awaited > f.d.seen && now.Sub(f.d.since) > unseenAfter {
		f.whole = true
	}
	return !f.busy && (f.whole || f.d.doubt || now.After(f.next)) && (f.last == "" || now.After(f.next))
}

// look has the bucket read in the background.
func (f *follower) look(ctx context.Context) {
	if f.busy {
		return
	}
	f.d.mu.Lock()
	seen, whole := f.d.seen, f.whole
	f.d.doubt = false
	f.d.mu.Unlock()
	f.busy, f.whole, f.recent = true, false, nil
	f.background.Go(func() { f.reads <- f.read(ctx, seen, whole) })
}

// read looks whether the last change of the bucket is the one that was seen. If it is not, or
// whole is set, it reads all.
func (f *follower) read(ctx context.Context, seen uint64, whole bool) (r reading) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	stream, err := f.js.Stream(ctx, "KV_"+bucketName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = f.create(ctx)
	}
	if err != nil {
		return reading{err: err}
	}
	r.last = stream.CachedInfo().State.LastSeq
	if r.bucket, r.err = f.js.KeyValue(ctx, bucketName); r.err != nil || !whole && r.last == seen {
		return r
	}
	all, err := r.bucket.WatchAll(ctx)
	if err != nil {
		return reading{err: err}
	}
	defer func() { _ = all.Stop() }() // the server forgets it by itself if it cannot be told
	r.whole = true
	for {
		select {
		case e, ok := <-all.Updates():
			switch {
			case !ok:
				return reading{err: errors.New("the reading of the directory broke off")}
			case e == nil:
				return r
			}
			r.newest = max(r.newest, e.Revision())
			if record, err := decodeRecord(e.Key(), e.Value(), e.Revision(), e.Operation() != jetstream.KeyValuePut); err == nil {
				r.records = append(r.records, record)
			}
		case <-ctx.Done():
			return reading{err: fmt.Errorf("the reading of the directory: %w", ctx.Err())}
		}
	}
}

// create makes the bucket: on three servers if there are as many.
func (f *follower) create(ctx context.Context) (jetstream.Stream, error) {
	config := jetstream.StreamConfig{
		Name:              "KV_" + bucketName,
		Subjects:          []string{bucketKeys + ">"},
		MaxMsgsPerSubject: 1,
		Storage:           jetstream.MemoryStorage,
		Replicas:          3,
		Discard:           jetstream.DiscardNew,
		AllowRollup:       true,
		AllowMsgTTL:       true,
		DenyDelete:        true,
		// Not AllowDirect: a replica that lags would tell who had a name.
		RePublish: &jetstream.RePublish{Source: bucketKeys + ">", Destination: republish + ">"},
	}
	if f.d.cfg.NATS == "" && len(f.d.cfg.Join) < 3 {
		config.Replicas = 1
	}
	stream, err := f.js.CreateStream(ctx, config)
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == replicasNotSupported && f.d.cfg.NATS != "" {
		config.Replicas = 1
		stream, err = f.js.CreateStream(ctx, config)
	}
	return stream, err
}

// replicasNotSupported is JetStream's answer when a server is no cluster: JSStreamReplicasNotSupportedErr.
const replicasNotSupported = 10074

// took hands on what was read.
func (f *follower) took(r reading) {
	f.busy = false
	recent := f.recent
	f.recent = nil
	now := time.Now()
	if r.err != nil {
		const retry = 500 * time.Millisecond
		f.whole, f.next = true, now.Add(retry)
		f.complain(r.err)
		return
	}
	f.next, f.last = now.Add(probeEvery), ""
	f.d.mu.Lock()
	f.d.bucket = r.bucket
	if r.whole {
		f.d.seen, f.d.awaited = r.last, 0
		// The last change is missing from what a lagging replica tells, but also when it was the mark
		// of a removal and has ended: it is read once more.
		if r.newest < r.last && f.doubted != r.last {
			f.doubted = r.last
			f.d.seen = r.newest
			f.d.await(r.last)
		}
	}
	seen := f.d.seen
	f.d.mu.Unlock()
	if r.whole {
		f.w.Snapshot(r.records)
	}
	for _, record := range recent {
		if record.Session != "" || record.Channel != "" {
			f.w.Update(record) // again, since a snapshot may be older
		}
		if record.Revision > seen {
			f.follows(record.Revision)
		}
	}
}

// complain logs an error that is not the same as the last.
func (f *follower) complain(err error) {
	if err.Error() != f.last {
		f.last = err.Error()
		f.d.log.Warn("cannot read the directory, will go on trying", "reason", err)
	}
}
