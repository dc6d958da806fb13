// The same protocol by gRPC and protobuf as they come.

package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/mediad/mediad/core/media"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

type plainServer struct{ pb.UnimplementedReaderServer }

func servePlain(socket string) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	pb.RegisterReaderServer(g, plainServer{})
	return g.Serve(l)
}

func (plainServer) Open(req *pb.OpenRequest, stream grpc.ServerStreamingServer[pb.OpenReply]) error {
	src := (&reader{}).open(req.Name)
	for {
		b, err := src.Next(stream.Context())
		if err != nil {
			return err
		}
		m := &pb.Batch{}
		for _, f := range b.Frames() {
			m.Frames = append(m.Frames, &pb.Frame{
				Track: uint32(f.Track), Key: f.Key, Dts: int64(f.DTS), Pts: int64(f.PTS), Size: uint32(len(f.Body))})
			m.Bodies = append(m.Bodies, f.Body...)
		}
		if err := stream.Send(&pb.OpenReply{What: &pb.OpenReply_Batch{Batch: m}}); err != nil {
			return err
		}
	}
}

// plainSource makes batches of what it receives.
type plainSource struct {
	stream grpc.ServerStreamingClient[pb.OpenReply]
	close  func()
}

func (*plainSource) Info() media.Info { return media.Info{} }
func (s *plainSource) Close() error   { s.close(); return nil }
func (s *plainSource) Next(context.Context) (*media.Batch, error) {
	reply, err := s.stream.Recv()
	if err != nil {
		return nil, err
	}
	m := reply.GetBatch()
	if m == nil {
		return nil, errPlain
	}
	b := media.NewBuilder(media.NoClock)
	b.Reserve(len(m.Frames), len(m.Bodies))
	rest := m.Bodies
	for _, f := range m.Frames {
		b.Copy(media.Frame{Track: media.Track(f.Track), Key: f.Key, DTS: time.Duration(f.Dts), PTS: time.Duration(f.Pts), Body: rest[:f.Size]})
		rest = rest[f.Size:]
	}
	return b.Batch(header), nil
}

func startPlain(name string) (media.Source, func(), error) {
	dir, err := os.MkdirTemp("", "mediad-bench-")
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	socket := filepath.Join(dir, "plain")
	cmd := exec.CommandContext(context.Background(), self, "plain", socket)
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewReaderClient(conn).Open(ctx, &pb.OpenRequest{Name: name})
	stop := func() {
		_ = conn.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}
	return &plainSource{stream, cancel}, stop, err
}
