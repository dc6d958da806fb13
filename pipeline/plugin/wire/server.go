// The services Reader and Writer, in front of readers and a writer in this process.

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stuckAfter is how long after the end of its context a reader's call may go on.
const stuckAfter = 5 * time.Second

// closeTimeout is how long a sink may take to commit when its writer has gone.
const closeTimeout = 10 * time.Second

// A Server serves the readers and the writer of this process to the other.
type Server struct {
	pb.UnimplementedReaderServer
	pb.UnimplementedWriterServer
	// Readers and Writer tell what there is; both may be nil, and answer nil.
	Readers func() []media.Reader
	Writer  func() media.Writer
	// Stuck, which may be nil, is told of a call of a reader that goes on though its
	// context has ended: nothing here can end it.
	Stuck func(call string)
}

// watch watches over a call until the function that it returns is called.
func (s *Server) watch(ctx context.Context, call string) (returned func()) {
	if s.Stuck == nil {
		return func() {}
	}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(stuckAfter)
		defer timer.Stop()
		select {
		case <-over:
		case <-timer.C:
			s.Stuck(call)
		}
	})
	return func() {
		stop()
		close(over)
	}
}

// Register adds the services to s.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	pb.RegisterReaderServer(r, s)
	pb.RegisterWriterServer(r, s)
}

func (s *Server) reader(input uint32) (media.Reader, error) {
	if s.Readers != nil {
		if list := s.Readers(); int(input) < len(list) && list[input] != nil {
			return list[input], nil
		}
	}
	return nil, status.Errorf(codes.FailedPrecondition, "there is no reader %d", input)
}

// The abilities that a source, a reader and a sink may have besides those of core/media.
type (
	skipper interface { // a live source; see core/broadcast
		Skips() int
		Missed() int64
	}
	watcher interface {
		Watch() (names []string, changed <-chan struct{})
	}
	resumer interface {
		Resume() (at time.Duration, ok bool)
	}
	loser interface {
		Done() <-chan struct{}
		Err() error
	}
)

// Open implements the call.
func (s *Server) Open(req *pb.OpenRequest, stream grpc.ServerStreamingServer[pb.OpenReply]) error {
	r, err := s.reader(req.Input)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	defer s.watch(ctx, "Open or Next of "+req.Name)()
	src, err := r.Open(ctx, openFromProto(req))
	if err != nil {
		return ToStatus(err)
	}
	defer src.Close()
	buffered, _ := src.(media.Buffered)
	skips, _ := src.(skipper)
	routed, _ := src.(media.Routed)
	opened := &pb.OpenReply{What: &pb.OpenReply_Opened{Opened: infoToProto(src.Info())}}
	if routed != nil {
		opened.Path = &pb.Path{Nodes: routed.Path()}
	}
	if err := stream.Send(opened); err != nil {
		return err
	}
	out := &outgoing{}
	path := opened.Path.GetNodes()
	for {
		b, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return ToStatus(err)
		}
		out.batch = b
		if buffered != nil {
			out.buffered = max(buffered.Buffered(), 0)
		}
		if skips != nil {
			out.skips, out.missed = skips.Skips(), skips.Missed()
		}
		if out.path = nil; routed != nil {
			if now := routed.Path(); !slices.Equal(now, path) {
				path, out.path = now, &pb.Path{Nodes: now}
			}
		}
		if err := stream.SendMsg(out); err != nil {
			return err
		}
	}
}

// Cost implements the call.
func (s *Server) Cost(ctx context.Context, req *pb.OpenRequest) (*pb.CostReply, error) {
	r, err := s.reader(req.Input)
	if err != nil {
		return nil, err
	}
	c, ok := r.(media.Coster)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "this reader knows no costs")
	}
	defer s.watch(ctx, "Cost of "+req.Name)()
	cost, err := c.Cost(ctx, openFromProto(req))
	return costToProto(cost), ToStatus(err)
}

// Explain implements the call.
func (s *Server) Explain(ctx context.Context, req *pb.OpenRequest) (*pb.ExplainReply, error) {
	r, err := s.reader(req.Input)
	if err != nil {
		return nil, err
	}
	e, ok := r.(media.Explainer)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "this reader does not explain itself")
	}
	defer s.watch(ctx, "Explain of "+req.Name)()
	list, err := e.Explain(ctx, openFromProto(req))
	reply := &pb.ExplainReply{}
	for _, c := range list {
		reply.Candidates = append(reply.Candidates,
			&pb.Candidate{Source: c.Source, Cost: costToProto(c.Cost), Total: c.Total, Chosen: c.Chosen, Note: c.Note})
	}
	return reply, ToStatus(err)
}

// Watch implements the call.
func (s *Server) Watch(req *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchReply]) error {
	r, err := s.reader(req.Input)
	if err != nil {
		return err
	}
	w, ok := r.(watcher)
	if !ok {
		return status.Error(codes.Unimplemented, "this reader has no listing")
	}
	for {
		names, changed := w.Watch()
		if err := stream.Send(&pb.WatchReply{Names: names}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// Create implements the call.
func (s *Server) Create(stream grpc.BidiStreamingServer[pb.CreateRequest, pb.CreateReply]) error {
	var w media.Writer
	if s.Writer != nil {
		w = s.Writer()
	}
	if w == nil {
		return status.Error(codes.FailedPrecondition, "there is no writer")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	create := first.GetCreate()
	if create == nil {
		return status.Error(codes.InvalidArgument, "the first request is not Create")
	}
	ctx := stream.Context()
	sink, err := w.Create(ctx, createFromProto(create))
	if err != nil {
		return ToStatus(err)
	}
	created := &pb.Created{}
	if r, ok := sink.(resumer); ok {
		if at, ok := r.Resume(); ok {
			ns := int64(at)
			created.Resume = &ns
		}
	}
	out := sender{stream: stream}
	err = out.send(&pb.CreateReply{What: &pb.CreateReply_Created{Created: created}})
	over := make(chan struct{})
	var told sync.WaitGroup
	if l, ok := sink.(loser); ok {
		told.Go(func() {
			select {
			case <-l.Done():
				// When it cannot be sent, the stream is over anyway.
				_ = out.send(&pb.CreateReply{What: &pb.CreateReply_Lost{Lost: toProto(l.Err())}})
			case <-over:
			}
		})
	}
	closed := false
	if err == nil {
		closed, err = take(ctx, stream, &out, sink)
	}
	close(over)
	told.Wait()
	if !closed {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, sink.Close(ctx))
	}
	return ToStatus(err)
}

// take gives what comes over the stream to sink, until Close or the first error.
func take(ctx context.Context, stream grpc.BidiStreamingServer[pb.CreateRequest, pb.CreateReply], out *sender, sink media.Sink) (closed bool, err error) {
	written := &pb.CreateReply{What: &pb.CreateReply_Written{Written: &pb.Written{}}}
	in := &incoming{}
	for {
		other := &pb.CreateRequest{}
		in.other = other
		if err := stream.RecvMsg(in); err != nil {
			if errors.Is(err, io.EOF) {
				return false, nil
			}
			return false, err
		}
		switch {
		case in.batch != nil:
			if err := sink.Write(ctx, in.batch); err != nil {
				return false, err
			}
			if err := out.send(written); err != nil {
				return false, err
			}
		case other.GetClose() != nil:
			return true, sink.Close(ctx)
		default:
			return false, fmt.Errorf("a request is neither Batch nor Close")
		}
	}
}

// sender lets two goroutines send.
type sender struct {
	mu     sync.Mutex
	stream grpc.BidiStreamingServer[pb.CreateRequest, pb.CreateReply]
}

func (s *sender) send(r *pb.CreateReply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(r)
}
