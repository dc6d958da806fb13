// The directory over NATS: one bucket of JetStream KV in memory, on three servers
// where there are as many. Its changes are followed by a plain subscription to what the
// bucket republishes, since a consumer would die with the server that it is on; whenever
// one may have been missed, the whole bucket is read, from its leader.

package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	askLimit    = time.Second // nobody answers what is asked while there is no leader, later neither
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
	var home *server
	var failed <-chan error
	if d.cfg.NATS == "" && d.cfg.Role == Member {
		var err error
		if home, err = startServer(d.cfg, d.tls, d.log); err != nil {
			return err
		}
		defer home.stop()
		failed = home.failed
	}
	err := d.watch(ctx, w, home, failed)
	for errors.Is(err, errStoodStill) {
		// The server in this process has stood still as well, and it takes a second or more until the
		// others talk to it again: from now on this member is a client of theirs.
		err = d.watch(ctx, w, nil, failed)
	}
	return err
}

// watch is Watch over one connection: to home, or to any server that the settings name. When a member with
// others finds that its process was stopped, the error is errStoodStill.
func (d *natsDirectory) watch(ctx context.Context, w Watcher, home *server, failed <-chan error) error {
	f := &follower{
		d:           d,
		w:           w,
		failed:      failed,
		reconnected: make(chan struct{}, 1),
		reads:       make(chan reading, 1),
		whole:       true,
	}
	// Many changes may come while a snapshot is applied; when there are more, the gap is noticed.
	messages := make(chan *nats.Msg, 1<<16)
	conn, err := d.connect(home, f.reconnected)
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
	return f.follow(ctx, messages)
}

var errStoodStill = errors.New("this process stood still")

// connect returns at once; the connection is made in the background, and made again as often
// as it is lost.
func (d *natsDirectory) connect(home *server, connected chan<- struct{}) (*nats.Conn, error) {
	var last string      // error; the handlers are called one after another
	leave := home == nil // this node's own server for another one, once
	again := func(conn *nats.Conn) {
		last = ""
		if leave && conn.ConnectedServerName() == d.cfg.Name {
			leave = false
			_ = conn.ForceReconnect()
			return
		}
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
	if home != nil {
		servers = ""
		opts = append(opts, nats.InProcessServer(home))
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

	failed      <-chan error // by the server in this process
	reconnected chan struct{}
	reads       chan reading
	background  sync.WaitGroup
	busy        bool      // the bucket is being read
	whole       bool      // all of it has to be, whatever its last change is
	next        time.Time // when it is looked at whatever happens
	soonest     time.Time // before which it isn't
	strange     time.Time // since when it seems to have less than before; zero while it does not
	recent      []Record  // what has come since the reading began
	last        string    // the error that was logged
}

// reading is what was read of the bucket.
type reading struct {
	bucket  jetstream.KeyValue
	last    uint64   // the change that came last before it was read
	whole   bool     // all was read, because it had to be or last was not what was seen
	records []Record // then or later
	newest  uint64   // of their revisions
	err     error
}

// follow tells the watcher what happens until ctx ends.
func (f *follower) follow(ctx context.Context, messages <-chan *nats.Msg) error {
	defer f.background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const checkEvery = 100 * time.Millisecond
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	at := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-f.failed:
			return err
		case m := <-messages:
			f.take(m)
		case <-f.reconnected:
			f.whole = true
			f.look(ctx)
		case r := <-f.reads:
			f.took(r)
		case <-tick.C:
			now := time.Now()
			if f.failed != nil && len(f.d.cfg.Join) > 1 && wall(now).Sub(wall(at)) > deadAfter {
				return errStoodStill
			}
			if at = now; f.due(now) {
				f.look(ctx)
			}
		}
	}
}

// wall is t without its monotonic reading, which may have stood still too.
func wall(t time.Time) time.Time { return t.Round(0) }

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
	return !f.busy && (f.whole || f.d.doubt || now.After(f.next)) && now.After(f.soonest)
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
	stream, err := f.find(ctx)
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
	r.whole = true
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(bucketKeys+">"))
	if err != nil {
		return reading{err: fmt.Errorf("the list of the directory: %w", err)}
	}
	r.last = info.State.LastSeq
	r.records, r.err = readAll(ctx, stream, slices.Collect(maps.Keys(info.State.Subjects)))
	for _, record := range r.records {
		r.newest = max(r.newest, record.Revision)
	}
	return r
}

// readAll asks the bucket's leader for each record. A consumer would be quicker, but has to be made
// by a leader of its own, and may be given a replica that lags behind.
func readAll(ctx context.Context, stream jetstream.Stream, subjects []string) ([]Record, error) {
	const atOnce = 128
	parts := slices.Collect(slices.Chunk(subjects, max(1, (len(subjects)+atOnce-1)/atOnce)))
	records, errs := make([][]Record, len(parts)), make([]error, len(parts))
	var reading sync.WaitGroup
	for i, part := range parts {
		reading.Go(func() { records[i], errs[i] = readPart(ctx, stream, part) })
	}
	reading.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return nil, errs[i]
	}
	return slices.Concat(records...), nil
}

// readPart reads one record after the other. What cannot be read as one is no record.
func readPart(ctx context.Context, stream jetstream.Stream, subjects []string) ([]Record, error) {
	var records []Record
	for _, subject := range subjects {
		m, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // the mark of a removal, which has ended since
		}
		if err != nil {
			return nil, fmt.Errorf("the reading of the directory: %w", err)
		}
		key := strings.TrimPrefix(subject, bucketKeys)
		if r, err := decodeRecord(key, m.Data, m.Sequence, m.Header.Get("KV-Operation") != ""); err == nil {
			records = append(records, r)
		}
	}
	return records, nil
}

// find asks for the bucket.
func (f *follower) find(ctx context.Context) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return f.js.Stream(ctx, "KV_"+bucketName)
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
	const retry = 250 * time.Millisecond
	if r.err != nil {
		f.whole, f.soonest = true, now.Add(retry)
		f.complain(r.err)
		return
	}
	f.last, f.next = "", now.Add(probeEvery)
	refresh(r.records, recent)
	if r.whole && !f.believe(r, now) {
		f.whole, f.soonest = true, now.Add(retry)
	}
	f.d.mu.Lock()
	f.d.bucket = r.bucket
	seen := f.d.seen
	f.d.mu.Unlock()
	for _, record := range recent {
		if record.Session != "" || record.Channel != "" {
			f.w.Update(record) // again, since a snapshot may not have it
		}
		if record.Revision > seen {
			f.follows(record.Revision)
		}
	}
}

// refresh puts what has come meanwhile in the place of what was read.
func refresh(records, recent []Record) {
	newer := map[Key]Record{}
	for _, r := range recent {
		newer[r.Key] = r
	}
	for i, r := range records {
		if n, ok := newer[r.Key]; ok && n.Revision > r.Revision {
			records[i] = n
		}
	}
}

// believe hands on all that was read, and reports false if it does not. The bucket may have less than before since it
// was lost, but also for a moment after its leader stood still and goes on, not knowing yet that there
// is another: only what stays so is believed.
func (f *follower) believe(r reading, now time.Time) bool {
	sure := !f.strange.IsZero() && now.Sub(f.strange) > deadAfter
	f.d.mu.Lock()
	back := f.d.seen > 0 && (r.last < f.d.seen || r.newest < r.last)
	f.d.mu.Unlock()
	if !sure && back || !f.w.Snapshot(r.records, sure) {
		if f.strange.IsZero() {
			f.strange = now
		}
		return false
	}
	f.strange = time.Time{}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.seen, f.d.awaited = r.last, 0
	return true
}

// complain logs an error that is not the same as the last.
func (f *follower) complain(err error) {
	if err.Error() != f.last {
		f.last = err.Error()
		f.d.log.Warn("cannot read the directory, will go on trying", "reason", err)
	}
}
