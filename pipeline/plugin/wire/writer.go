// A media.Writer on the other side of a connection.

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"google.golang.org/grpc"
)

// A Writer puts media into the other process.
type Writer struct {
	ctx    context.Context
	client pb.WriterClient
}

// NewWriter returns the writer on the other side of conn, whose life is ctx.
func NewWriter(ctx context.Context, conn grpc.ClientConnInterface) *Writer {
	return &Writer{ctx: ctx, client: pb.NewWriterClient(conn)}
}

// Create implements media.Writer.
func (w *Writer) Create(ctx context.Context, req media.CreateRequest) (media.Sink, error) {
	life, cancel := context.WithCancel(w.ctx)
	created := context.AfterFunc(ctx, cancel)
	s, err := w.create(life, req)
	if !created() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	s.cancel = cancel
	go s.receive()
	return s, nil
}

func (w *Writer) create(life context.Context, req media.CreateRequest) (*Sink, error) {
	stream, err := w.client.Create(life)
	if err != nil {
		return nil, FromStatus(err)
	}
	// What is wrong with sending is told by Recv.
	_ = stream.Send(&pb.CreateRequest{What: &pb.CreateRequest_Create{Create: createToProto(req)}})
	reply, err := stream.Recv()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the plugin ended a Create without an answer")
		}
		return nil, FromStatus(err)
	}
	created := reply.GetCreated()
	if created == nil {
		return nil, errors.New("the plugin's first answer to Create is not Created")
	}
	return &Sink{
		stream:  stream,
		created: created,
		written: make(chan struct{}, 1),
		done:    make(chan struct{}),
		ended:   make(chan struct{}),
	}, nil
}

// A Sink is an open sink on the other side. At most one batch is under way: Write
// returns when the other side's sink has taken it, as if it were here.
type Sink struct {
	stream  grpc.BidiStreamingClient[pb.CreateRequest, pb.CreateReply]
	cancel  context.CancelFunc
	created *pb.Created
	out     outgoing
	pending *media.Batch // sent, but ctx ended before it was known to be written

	written chan struct{}

	lost sync.Once
	done chan struct{}
	err  error // set before done is closed

	ended chan struct{} // closed when the stream is over
	final error         // its error, io.EOF when all is well; set before ended is closed

	closing sync.Once
}

// receive takes the answers. It ends with the stream.
func (s *Sink) receive() {
	defer close(s.ended)
	for {
		reply, err := s.stream.Recv()
		if err != nil {
			s.final = FromStatus(err)
			if errors.Is(err, io.EOF) {
				s.final = io.EOF
				err = media.ErrClosed
			}
			s.lose(FromStatus(err))
			return
		}
		switch what := reply.What.(type) {
		case *pb.CreateReply_Written:
			select {
			case s.written <- struct{}{}:
			default: // an answer that was not asked for
			}
		case *pb.CreateReply_Lost:
			s.lose(fromProto(what.Lost))
		}
	}
}

func (s *Sink) lose(err error) {
	s.lost.Do(func() {
		s.err = err
		close(s.done)
	})
}

// Write implements media.Sink.
func (s *Sink) Write(ctx context.Context, b *media.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.pending != nil {
		again := s.pending == b
		if err := s.wait(ctx); err != nil || again {
			return err
		}
	}
	s.out.batch = b
	if err := s.stream.SendMsg(&s.out); err != nil && !errors.Is(err, io.EOF) {
		return FromStatus(err)
	}
	s.pending = b
	return s.wait(ctx)
}

// wait waits until the pending batch is written.
func (s *Sink) wait(ctx context.Context) error {
	select {
	case <-s.written:
		s.pending = nil
		return nil
	case <-s.ended:
		if errors.Is(s.final, io.EOF) {
			return fmt.Errorf("the plugin ended the writing: %w", media.ErrClosed)
		}
		return s.final
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Resume is where the timeline goes on of media that were on air before.
func (s *Sink) Resume() (at time.Duration, ok bool) {
	if s.created.Resume == nil {
		return 0, false
	}
	return time.Duration(*s.created.Resume), true
}

// Done is closed when the sink is over without its writer's doing, or by Close.
func (s *Sink) Done() <-chan struct{} { return s.done }

// Err says why Done is closed.
func (s *Sink) Err() error {
	<-s.done
	return s.err
}

// Close implements media.Sink.
func (s *Sink) Close(ctx context.Context) (err error) {
	s.closing.Do(func() { err = s.close(ctx) })
	return err
}

func (s *Sink) close(ctx context.Context) error {
	defer func() {
		s.cancel()
		<-s.ended
		s.lose(media.ErrClosed)
	}()
	// What is wrong with sending is told by the stream's end.
	_ = s.stream.Send(&pb.CreateRequest{What: &pb.CreateRequest_Close{Close: &pb.Close{}}})
	_ = s.stream.CloseSend()
	select {
	case <-s.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(s.final, io.EOF) {
		return nil
	}
	return s.final
}
