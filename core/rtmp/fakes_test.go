// A publisher that records and a player that plays what was recorded: the least
// that a real client can be tried on.

package rtmp

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/ingest"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A recorder is an ingest.Publisher that keeps one publication.
type recorder struct {
	refuse error // what Publish fails with

	mu       sync.Mutex
	requests []ingest.Request
	messages []Message // as they came
	batches  []*media.Batch
	done     chan struct{}
	err      error
	closed   chan struct{} // when the publication has been closed
}

func newRecorder() *recorder {
	return &recorder{done: make(chan struct{}), closed: make(chan struct{})}
}

func (r *recorder) Publish(_ context.Context, req ingest.Request) (ingest.Publication, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, req)
	if r.refuse != nil {
		return nil, r.refuse
	}
	return &recording{r: r, builder: media.NewBuilder(media.NoClock)}, nil
}

// request is the last request.
func (r *recorder) request() ingest.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests[len(r.requests)-1]
}

// end ends the publication from the server's side.
func (r *recorder) end(err error) {
	r.err = err
	close(r.done)
}

func (r *recorder) recorded() []*media.Batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.batches
}

func (r *recorder) received() []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages
}

type recording struct {
	r       *recorder
	now     int64 // the last timestamp, without the wraps
	state   flv.State
	builder *media.Builder
}

func (p *recording) Write(_ context.Context, t media.Track, timestamp uint32, slab []byte) error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	body := slab[media.Headroom:]
	p.r.messages = append(p.r.messages, Message{Track: t, Time: timestamp, Body: append([]byte(nil), body...)})
	p.now += int64(int32(timestamp - uint32(p.now)))
	f, ok, err := p.state.Push(t, ms(p.now), body)
	if err != nil || !ok {
		return nil
	}
	p.builder.Take(f, slab)
	p.r.batches = append(p.r.batches, p.builder.Batch(p.state.Header()))
	return nil
}

func (p *recording) Done() <-chan struct{} { return p.r.done }
func (p *recording) Err() error            { return p.r.err }
func (p *recording) Close(context.Context) error {
	close(p.r.closed)
	return nil
}

// A listPlayer plays what a function returns, as a player of recorded media does.
type listPlayer struct {
	v      stream.Viewer
	zero   time.Duration // the client's time 0
	list   func(stream.Request) []*media.Batch
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	calls []any
}

func (p *listPlayer) called(call any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, call)
}

func (p *listPlayer) Play(req stream.Request) {
	p.called(req)
	ctx, cancel := context.WithCancel(p.v.Context())
	p.cancel = cancel
	p.wg.Go(func() { p.play(ctx, req) })
}

func (p *listPlayer) play(ctx context.Context, req stream.Request) {
	batches := p.list(req)
	if len(batches) == 0 {
		_ = p.v.Status(stream.Status{Level: "error", Code: "NetStream.Play.StreamNotFound", Description: "no " + req.Name})
		return
	}
	last := batches[len(batches)-1]
	err := errors.Join(
		p.v.Event(stream.Recorded),
		p.v.Event(stream.Begin),
		p.v.Status(stream.Status{Level: "status", Code: "NetStream.Play.Reset"}),
		p.v.Status(stream.Status{Level: "status", Code: "NetStream.Play.Start"}),
		p.v.Access(),
	)
	p.v.Timeline(p.zero)
	for len(batches) > 0 && err == nil && ctx.Err() == nil {
		n := min(3, len(batches))
		err = p.v.Write(batches[:n])
		batches = batches[n:]
	}
	if err == nil && ctx.Err() == nil {
		_ = p.v.Event(stream.EOF)
		_ = p.v.Complete(last.DTS(), 1)
		_ = p.v.Status(stream.Status{Level: "status", Code: "NetStream.Play.Stop"})
	}
}

func (p *listPlayer) Pause(on bool, at time.Duration) { p.called([]any{"pause", on, at}) }
func (p *listPlayer) Seek(to time.Duration)           { p.called([]any{"seek", to}) }
func (p *listPlayer) Buffer(d time.Duration)          { p.called(d) }
func (p *listPlayer) Receive(t media.Track, on bool)  { p.called([]any{t, on}) }
func (p *listPlayer) Close() {
	if p.cancel != nil {
		p.cancel()
	}
	p.wg.Wait()
}

// A testServer is a server with the app live on a port of this machine.
type testServer struct {
	*Server
	url  string // of the app
	addr string
	stop func() // ends it and waits; the end of the test does so too
}

func serve(t testing.TB, o Options, pub ingest.Publisher, newPlayer func(stream.Viewer) stream.Player) testServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := testServer{addr: l.Addr().String(), url: "rtmp://" + l.Addr().String() + "/live"}
	s.Server, s.stop = serveOn(t, l, o, pub, newPlayer)
	return s
}

func serveOn(t testing.TB, l net.Listener, o Options, pub ingest.Publisher, newPlayer func(stream.Viewer) stream.Player) (s *Server, stop func()) {
	t.Helper()
	if o.Drain == 0 {
		o.Drain = time.Millisecond
	}
	s = New(o)
	if pub != nil {
		if _, err := s.HandlePublish("live", pub); err != nil {
			t.Fatal(err)
		}
	}
	if newPlayer != nil {
		if _, err := s.HandlePlay("live", newPlayer); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

// A pipeListener accepts what dial makes, and fails before as often as it has errors.
type pipeListener struct {
	conns  chan net.Conn
	errors chan error
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), errors: make(chan error), closed: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case err := <-l.errors:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects a client.
func dial(t testing.TB, url string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// until reads messages up to the status with a code, and returns them all.
func until(t testing.TB, c *Client, code string) (list []Message) {
	t.Helper()
	for {
		m, err := c.Next(t.Context())
		if err != nil {
			t.Fatalf("waiting for %s: %v, after %v", code, err, list)
		}
		list = append(list, m)
		if m.Status.Code == code {
			return list
		}
	}
}

// closedBy checks that the connection is closed.
func closedBy(t testing.TB, c *Client) {
	t.Helper()
	for {
		if _, err := c.Next(t.Context()); err != nil {
			if t.Context().Err() != nil {
				t.Error("the connection was not closed")
			}
			return
		}
	}
}

// counted checks that a connection has ended for a cause, and that it is the only one.
func (s testServer) counted(t testing.TB, cause string) {
	t.Helper()
	s.stop()
	counts(t, s.Server, cause)
}

func counts(t testing.TB, s *Server, cause string) {
	t.Helper()
	if n := testutil.ToFloat64(s.metrics.closed.WithLabelValues(cause)); n != 1 || testutil.CollectAndCount(s.metrics.closed) != 1 {
		t.Errorf("%v connections have ended by %s, of causes: %d", n, cause, testutil.CollectAndCount(s.metrics.closed))
	}
}
