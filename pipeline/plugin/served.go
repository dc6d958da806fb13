// The service Stage in front of a kind.

package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"github.com/mediad/mediad/pipeline/plugin/wire"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// served is the one stage of this process.
type served struct {
	pb.UnimplementedStageServer
	kind stage.Kind
	log  hclog.Logger

	ctx   context.Context // of the stage's Serve; ended by stop
	stop  context.CancelFunc
	ended chan struct{} // closed when the stage's Serve has returned

	metrics *prometheus.Registry

	mu    sync.Mutex
	made  stage.Stage
	began bool
}

// Describe implements the call.
func (s *served) Describe(context.Context, *pb.DescribeRequest) (*pb.Kind, error) {
	k := &pb.Kind{
		Name:    s.kind.Name,
		Summary: s.kind.Summary,
		Ports: &pb.Ports{
			ProvidesReader: s.kind.ProvidesReader,
			ProvidesWriter: s.kind.ProvidesWriter,
			NeedsReader:    pb.Need(s.kind.NeedsReader),
			NeedsWriter:    s.kind.NeedsWriter,
			Apart:          s.kind.Apart,
		},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		k.Version = info.Main.Version
	}
	for _, set := range s.kind.Describe() {
		k.Settings = append(k.Settings, &pb.Setting{
			Name: set.Name, Type: set.Type, Default: set.Default, Doc: set.Doc, Required: set.Required})
	}
	return k, nil
}

// Make implements the call.
func (s *served) Make(ctx context.Context, req *pb.MakeRequest) (*pb.MakeReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made != nil {
		return nil, status.Error(codes.FailedPrecondition, "the stage is made already")
	}
	settings, err := s.kind.Decode(s.values(req.Settings))
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	env := stage.Env{
		Name:    req.Name,
		Log:     s.log,
		Metrics: s.metrics,
		Drain:   time.Duration(req.Drain),
	}
	if req.Daemon != "" {
		conn, err := dial(ctx, req.Daemon)
		if err != nil {
			return nil, err
		}
		for i, name := range req.Inputs {
			env.Inputs = append(env.Inputs, stage.Input{Name: name, Reader: wire.NewReader(context.Background(), conn, i, name)})
		}
		if req.Output {
			env.Output = wire.NewWriter(context.Background(), conn)
		}
		if req.Node != "" {
			env.Nodes = wire.NewNodes(conn, req.Node)
		}
	}
	made, err := s.kind.New(env, settings)
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	s.made = made
	return &pb.MakeReply{}, nil
}

// values returns settings as Decode takes them: a list where a list is wanted.
func (s *served) values(set map[string]*pb.Value) map[string]any {
	lists := map[string]bool{}
	for _, d := range s.kind.Describe() {
		lists[d.Name] = strings.HasPrefix(d.Type, "list of ")
	}
	values := map[string]any{}
	for name, v := range set {
		if lists[name] || len(v.Text) != 1 {
			values[name] = v.Text
		} else {
			values[name] = v.Text[0]
		}
	}
	return values
}

// dial connects to the daemon's Reader, Writer and Nodes, before its socket is removed.
func dial(ctx context.Context, socket string) (*grpc.ClientConn, error) {
	opts := append(wire.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}))
	conn, err := grpc.NewClient("passthrough:daemon", opts...)
	if err != nil {
		return nil, err
	}
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return nil, errors.Join(fmt.Errorf("the daemon's socket %s cannot be reached: %w", socket, ctx.Err()), conn.Close())
		}
	}
	return conn, nil
}

// Serve implements the call.
func (s *served) Serve(ctx context.Context, _ *pb.ServeRequest) (*pb.ServeReply, error) {
	s.mu.Lock()
	made, began := s.made, s.began
	s.began = made != nil
	s.mu.Unlock()
	if made == nil || began {
		return nil, status.Error(codes.FailedPrecondition, "Serve comes once, after Make")
	}
	defer close(s.ended)
	defer context.AfterFunc(ctx, s.stop)()
	err := made.Serve(s.ctx)
	if err == nil && s.ctx.Err() == nil {
		err = errors.New("the stage has ended by itself")
	}
	return &pb.ServeReply{}, wire.ToStatus(err)
}

// serving reports whether Serve has begun.
func (s *served) serving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began
}

// Stop implements the call.
func (s *served) Stop(context.Context, *pb.StopRequest) (*pb.StopReply, error) {
	s.stop()
	return &pb.StopReply{}, nil
}

// Metrics implements the call.
func (s *served) Metrics(context.Context, *pb.MetricsRequest) (*pb.MetricsReply, error) {
	families, err := s.metrics.Gather()
	if err != nil {
		return nil, err
	}
	reply := &pb.MetricsReply{}
	for _, f := range families {
		b, err := proto.Marshal(f)
		if err != nil {
			return nil, err
		}
		reply.Families = append(reply.Families, b)
	}
	return reply, nil
}

// lister is a stage that has channels, as core/broadcast has.
type lister interface{ ListChannels() []broadcast.Channel }

// Channels implements the call.
func (s *served) Channels(context.Context, *pb.ChannelsRequest) (*pb.ChannelsReply, error) {
	s.mu.Lock()
	l, ok := s.made.(lister)
	s.mu.Unlock()
	if !ok {
		return nil, status.Error(codes.Unimplemented, "this stage has no channels")
	}
	reply := &pb.ChannelsReply{}
	for _, c := range l.ListChannels() {
		reply.Channels = append(reply.Channels, &pb.Channel{
			Name: c.Name, Since: c.Since.UnixNano(), Publishing: c.Publishing, Video: c.Video, Audio: c.Audio,
			Bitrate: c.Bitrate, Readers: int64(c.Readers), WindowSeconds: c.Window, Bytes: int64(c.Bytes),
			Repeated: c.Repeated, Path: c.Path,
		})
	}
	return reply, nil
}

func (s *served) readers() []media.Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.made.(media.Reader)
	if !ok {
		return nil
	}
	return []media.Reader{r}
}

func (s *served) writer() media.Writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.made.(media.Writer)
	if !ok {
		return nil
	}
	return w
}
