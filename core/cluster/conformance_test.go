// What every directory has to do, run over Memory in virtual time, over three NATS servers in this
// process, and over a nats-server of its own.

package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

// tests runs the tests and stops what they share.
type tests struct{ *testing.M }

func (t tests) Run() int {
	defer func() {
		for _, e := range shared {
			e.close()
		}
	}()
	return t.M.Run()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(tests{m}) }

// engine is a directory and the power over its nodes.
type engine interface {
	directory(name string) Directory
	cut(name string) // from the directory and from all nodes
	heal(name string)
	hold(name string) // as SIGSTOP does
	goOn(name string)
	lose() // the directory with all that it knows
	restore(*testing.T)
	close()
}

// overAll checks something over every engine.
func overAll(t *testing.T, check func(*testing.T, engine)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { check(t, newMemoryEngine()) })
	})
	for name, e := range map[string]engine{"members": sharedMembers(t), "outside": sharedOutside(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, e)
		})
	}
}

// shared are the engines that all tests use, since they take a while to start.
var shared = map[string]engine{}

func sharedMembers(t *testing.T) engine {
	if shared["members"] == nil {
		shared["members"] = newNATSEngine(t, 3)
	}
	return shared["members"]
}

// sharedOutside is a nats-server in a process of its own, built from the module.
func sharedOutside(t *testing.T) engine {
	if shared["outside"] == nil {
		shared["outside"] = newOutside(t)
	}
	return shared["outside"]
}

type memoryEngine struct {
	*Memory
	access map[string]*MemoryNode
}

func newMemoryEngine() *memoryEngine {
	return &memoryEngine{Memory: NewMemory(), access: map[string]*MemoryNode{}}
}

func (e *memoryEngine) directory(name string) Directory {
	e.access[name] = e.Node(name)
	return e.access[name]
}
func (e *memoryEngine) cut(name string)  { e.access[name].Cut() }
func (e *memoryEngine) heal(name string) { e.access[name].Heal() }
func (e *memoryEngine) hold(name string) { e.access[name].Stop() }
func (e *memoryEngine) goOn(name string) { e.access[name].Continue() }
func (e *memoryEngine) lose() {
	for name := range e.access {
		e.cut(name)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.records)
	e.revision = 0
}
func (e *memoryEngine) close() {}

func (e *memoryEngine) restore(*testing.T) {
	for name := range e.access {
		e.heal(name)
	}
}

// eventually waits for ok to be true.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// slow is how long anything may take that has no bound of its own: NATS may
// elect a leader, on a busy machine.
const slow = time.Minute

// observer is a Watcher that keeps the newest of what it is told.
type observer struct {
	mu        sync.Mutex
	records   map[Key]Record
	messages  []string
	snapshots int
}

func (o *observer) Snapshot(all []Record, _ bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.snapshots++
	o.records = map[Key]Record{}
	for _, r := range all {
		o.records[r.Key] = r
	}
	return true
}

func (o *observer) Update(r Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.Revision > o.records[r.Key].Revision {
		o.records[r.Key] = r
	}
}

func (o *observer) Message(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.messages = append(o.messages, string(b))
}

func (o *observer) has(r Record) func() bool {
	return func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		got := o.records[r.Key]
		got.Key = r.Key // none is one without a session
		return got.says(r)
	}
}

func (o *observer) heard(message string) func() bool {
	return func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return slices.Contains(o.messages, message)
	}
}

// watch watches a directory until the test ends, from its first snapshot.
func watch(t *testing.T, d Directory) *observer {
	t.Helper()
	o := &observer{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Watch(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, slow, "a snapshot", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.snapshots > 0
	})
	return o
}

// unique makes names that no other test of the same engine has.
func unique(t *testing.T, name string) string {
	number, _ := numbers.LoadOrStore(t, count.Add(1))
	return fmt.Sprintf("%s-%d", name, number)
}

var (
	numbers sync.Map // of the tests
	count   atomic.Int64
)

func record(t *testing.T, node string) Record {
	now := time.Now().UTC().Round(0)
	return Record{Key: Key{Channel: unique(t, "show")}, Node: node, Session: "session-" + node, Since: now, Origin: now}
}

// must claims, trying again while the engine elects a leader.
func must(t *testing.T, d Directory, r Record, over uint64) (revision uint64) {
	t.Helper()
	change(t, d, r.Key, over, func(ctx context.Context) (err error) {
		revision, err = d.Claim(ctx, r, over)
		return err
	})
	return revision
}

// release is must for the end of a record.
func release(t *testing.T, d Directory, k Key, revision uint64) {
	t.Helper()
	change(t, d, k, revision, func(ctx context.Context) error { return d.Release(ctx, k, revision) })
}

// change tries until it is done, or the record is another one. NATS may say so of the right one for a
// moment, too, when that has just been written.
func change(t *testing.T, d Directory, k Key, revision uint64, try func(context.Context) error) {
	t.Helper()
	eventually(t, slow, "a change", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := try(ctx)
		if !errors.Is(err, ErrConflict) {
			return err == nil
		}
		if r, failed := d.Lookup(ctx, k); failed == nil && r.Revision != revision {
			t.Fatal(err)
		}
		return false
	})
}

func TestDirectoryCompares(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := e.directory(unique(t, "a")), e.directory(unique(t, "b"))
		watch(t, a)
		watch(t, b)
		ra, rb := record(t, "a"), record(t, "b")
		first := must(t, a, ra, 0)
		for _, over := range []uint64{0, first + 1} {
			if _, err := b.Claim(t.Context(), rb, over); !errors.Is(err, ErrConflict) {
				t.Errorf("a claim over revision %d of %d: %v", over, first, err)
			}
		}
		second := must(t, b, rb, first)
		if second <= first {
			t.Errorf("the revision went from %d to %d", first, second)
		}
		if err := a.Release(t.Context(), ra.Key, first); !errors.Is(err, ErrConflict) {
			t.Errorf("a release of an old revision: %v", err)
		}
		release(t, b, rb.Key, second)
		if r, err := a.Lookup(t.Context(), ra.Key); err != nil || r.Session != "" || r.Revision != 0 {
			t.Errorf("after the release there is %+v, %v", r, err)
		}
		if third := must(t, a, ra, 0); third <= second {
			t.Errorf("the revision went from %d to %d", second, third)
		}
	})
}

func TestDirectoryTells(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := e.directory(unique(t, "a")), e.directory(unique(t, "b"))
		watch(t, a)
		o := watch(t, b)
		owner := record(t, "a")
		holder := Record{Key: Key{owner.Channel, "b"}, Node: "b", Session: "s", Since: owner.Since, Path: []string{"a", "b"}}
		for _, r := range []Record{owner, holder} {
			revision := must(t, a, r, 0)
			if got, err := b.Lookup(t.Context(), r.Key); err != nil || !got.says(r) || got.Revision != revision {
				t.Errorf("found %+v, %v, want %+v with revision %d", got, err, r, revision)
			}
			eventually(t, slow, "an update", o.has(r))
		}
		late := watch(t, e.directory(unique(t, "c")))
		if !late.has(owner)() || !late.has(holder)() {
			t.Errorf("the snapshot is %v", late.records)
		}
		got, _ := b.Lookup(t.Context(), owner.Key)
		release(t, a, owner.Key, got.Revision)
		eventually(t, slow, "the removal", o.has(Record{Key: owner.Key}))
	})
}

func TestDirectoryMessages(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		names := []string{unique(t, "a"), unique(t, "b"), unique(t, "c")}
		var dirs []Directory
		var watchers []*observer
		for _, name := range names {
			dirs = append(dirs, e.directory(name))
			watchers = append(watchers, watch(t, dirs[len(dirs)-1]))
		}
		eventually(t, slow, "the message to all", func() bool { // sent again: whoever connects may not be known everywhere yet
			dirs[0].Tell("", []byte("to all"))
			return !slices.ContainsFunc(watchers, func(o *observer) bool { return !o.heard("to all")() })
		})
		eventually(t, slow, "the message to one", func() bool {
			dirs[0].Tell(names[1], []byte("to b"))
			return watchers[1].heard("to b")()
		})
		if watchers[0].heard("to b")() || watchers[2].heard("to b")() {
			t.Error("others have heard it too")
		}
	})
}

func TestDirectoryMissed(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a, b := e.directory(unique(t, "a")), e.directory(unique(t, "b"))
		watch(t, a)
		o := watch(t, b)
		removed, written := record(t, "a"), record(t, "a")
		written.Channel += "-2"
		revision := must(t, a, removed, 0)
		eventually(t, slow, "an update", o.has(removed))

		e.cut(unique(t, "b"))
		release(t, a, removed.Key, revision)
		must(t, a, written, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Claim(ctx, record(t, "b"), 0); err == nil || errors.Is(err, ErrConflict) {
			t.Errorf("a claim while cut off: %v", err)
		}
		if o.has(written)() {
			t.Error("b heard of it while it was cut off")
		}

		e.heal(unique(t, "b"))
		eventually(t, slow, "what was missed", func() bool { return o.has(written)() && o.has(Record{Key: removed.Key})() })
	})
}

func TestDirectoryLost(t *testing.T) {
	overAll(t, func(t *testing.T, e engine) {
		a := e.directory(unique(t, "a"))
		o := watch(t, a)
		r := record(t, "a")
		for range 3 {
			r.Channel += "x"
			must(t, a, r, 0)
		}
		e.lose()
		e.restore(t)
		eventually(t, slow, "the loss", o.has(Record{Key: r.Key}))
		must(t, a, r, 0)
		eventually(t, slow, "the claim made anew", o.has(r))
	})
}

// join starts a node of a cluster, which leaves at the end of the test.
func join(t *testing.T, e engine, name string) *Cluster {
	t.Helper()
	c, _ := joinAndLeave(t, e, name)
	return c
}

func joinAndLeave(t *testing.T, e engine, name string) (c *Cluster, leave func()) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Name = unique(t, name)
	c, err := Over(e.directory(cfg.Name), cfg, hclog.NewNullLogger(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c.SetSampler(func() Load { return Load{CPU: 0.25} })
	c.Serves(name + ":4100")
	return c, serve(t, c)
}

// serve runs a node and waits until it hears itself.
func serve(t *testing.T, c *Cluster) (leave func()) {
	t.Helper()
	leave = run(t, c)
	eventually(t, slow, "the node hears itself", isHearing(c))
	return leave
}

func isHearing(c *Cluster) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.hearing
	}
}

// run runs a node until it leaves, or the test ends.
func run(t *testing.T, c *Cluster) (leave func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx) }()
	leave = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(leave)
	return leave
}
