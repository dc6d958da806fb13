// A media.Reader on the other side of a connection.

package wire

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/mediad/mediad/core/media"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// depth is how many batches a source has ready besides those on the wire.
const depth = 2

// A Reader opens media from the other process. It always is a media.Coster and a
// media.Explainer; of a reader that is not, its cost is as the broker takes it to be.
type Reader struct {
	ctx    context.Context
	client pb.ReaderClient
	input  uint32
	name   string
	watch  listing
}

// NewReader returns the reader number input on the other side of conn, 0 of a
// plugin. ctx is the life of the connection, name that of the stage which it is.
func NewReader(ctx context.Context, conn grpc.ClientConnInterface, input int, name string) *Reader {
	r := &Reader{ctx: ctx, client: pb.NewReaderClient(conn), input: uint32(input), name: name}
	r.watch.changed = make(chan struct{})
	return r
}

// Open implements media.Reader.
func (r *Reader) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	s, err := r.OpenAfter(ctx, req, nil)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// OpenAfter is Open for what follows batches under the header h, so that its
// pointer is kept as long as the configuration is the same.
func (r *Reader) OpenAfter(ctx context.Context, req media.OpenRequest, h *media.Header) (*Source, error) {
	life, cancel := context.WithCancel(r.ctx)
	opened := context.AfterFunc(ctx, cancel)
	s, err := r.open(life, req)
	if !opened() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	s.cancel = cancel
	go s.receive(h)
	return s, nil
}

func (r *Reader) open(life context.Context, req media.OpenRequest) (*Source, error) {
	stream, err := r.client.Open(life, openToProto(req, r.input))
	if err != nil {
		return nil, FromStatus(err)
	}
	first, err := stream.Recv()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the plugin ended an Open without an answer")
		}
		return nil, FromStatus(err)
	}
	opened, ok := first.What.(*pb.OpenReply_Opened)
	if !ok {
		return nil, errors.New("the plugin's first answer to Open is not Opened")
	}
	s := &Source{
		stream: stream,
		info:   infoFromProto(opened.Opened),
		queue:  make(chan arrival, depth),
		closed: make(chan struct{}),
		done:   make(chan struct{}),
	}
	s.path.Store(first.Path)
	return s, nil
}

// Cost implements media.Coster.
func (r *Reader) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	cost, err := r.client.Cost(ctx, openToProto(req, r.input))
	if status.Code(err) == codes.Unimplemented {
		return media.Cost{Place: media.PlaceUnknown, Base: media.CostHTTP}, nil
	}
	return costFromProto(cost), callError(ctx, err)
}

// Explain implements media.Explainer.
func (r *Reader) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	reply, err := r.client.Explain(ctx, openToProto(req, r.input))
	if status.Code(err) == codes.Unimplemented {
		cost, err := r.Cost(ctx, req)
		return []media.Candidate{{Source: r.name, Cost: cost, Total: cost.Total(), Chosen: err == nil}}, err
	}
	var list []media.Candidate
	for _, c := range reply.GetCandidates() {
		list = append(list, media.Candidate{
			Source: c.Source, Cost: costFromProto(c.Cost), Total: c.Total, Chosen: c.Chosen, Note: c.Note})
	}
	return list, callError(ctx, err)
}

// callError is the error of a call that ctx bounds.
func callError(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return FromStatus(err)
}

// listing is what is on air on the other side, as it was told last.
type listing struct {
	start   sync.Once
	mu      sync.Mutex
	names   []string
	changed chan struct{}
}

// Watch returns the names that are on air, and a channel that is closed when they
// change. It asks from the first call on, and knows of none before the answer,
// which counts as a change.
func (r *Reader) Watch() (names []string, changed <-chan struct{}) {
	r.watch.start.Do(func() { go r.follow() })
	r.watch.mu.Lock()
	defer r.watch.mu.Unlock()
	return r.watch.names, r.watch.changed
}

// follow ends with the connection, or with a reader that has no listing.
func (r *Reader) follow() {
	stream, err := r.client.Watch(r.ctx, &pb.WatchRequest{Input: r.input})
	for err == nil {
		var reply *pb.WatchReply
		if reply, err = stream.Recv(); err == nil {
			r.watch.set(reply.Names)
		}
	}
	r.watch.set(nil)
}

func (l *listing) set(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names = names
	close(l.changed)
	l.changed = make(chan struct{})
}

// A Source is open media on the other side.
type Source struct {
	stream grpc.ServerStreamingClient[pb.OpenReply]
	cancel context.CancelFunc
	info   media.Info
	queue  chan arrival
	err    error // why the queue has ended; set before it is closed
	ready  atomic.Int64

	once   sync.Once
	closed chan struct{}
	done   chan struct{} // closed when receive has ended

	path     atomic.Pointer[pb.Path] // as of the last batch
	progress                         // for the goroutine that calls Next
}

type arrival struct {
	batch *media.Batch
	path  *pb.Path
	progress
}

// receive moves batches from the stream to the queue.
func (s *Source) receive(h *media.Header) {
	defer close(s.done)
	defer close(s.queue)
	in := &incoming{other: &pb.OpenReply{}, header: h, path: s.path.Load()}
	for {
		if err := s.stream.RecvMsg(in); err != nil {
			if !errors.Is(err, io.EOF) {
				err = FromStatus(err)
			}
			s.err = err
			return
		}
		if in.batch == nil {
			s.err = errors.New("the plugin sent something that is no batch")
			s.cancel()
			return
		}
		s.ready.Store(int64(in.buffered))
		select {
		case s.queue <- arrival{in.batch, in.path, in.progress}:
		case <-s.closed:
			return
		}
	}
}

// Info implements media.Source.
func (s *Source) Info() media.Info { return s.info }

// Next implements media.Source.
func (s *Source) Next(ctx context.Context) (*media.Batch, error) {
	select {
	case <-s.closed:
		return nil, media.ErrClosed
	default:
	}
	select {
	case a, ok := <-s.queue:
		if !ok {
			return nil, s.err
		}
		s.path.Store(a.path)
		s.progress = a.progress
		return a.batch, nil
	case <-s.closed:
		return nil, media.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Buffered implements media.Buffered.
func (s *Source) Buffered() int { return len(s.queue) + int(s.ready.Load()) }

// Skips is how often the source was moved forward because it was read too
// slowly, past Missed frames.
func (s *Source) Skips() int { return s.skips }

// Missed is how many frames it was moved past.
func (s *Source) Missed() int64 { return s.missed }

// Path implements media.Routed, as of the batch that was read last.
func (s *Source) Path() []string { return s.path.Load().GetNodes() }

// Close implements media.Source.
func (s *Source) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.cancel()
	})
	<-s.done
	return nil
}
