// stage.Nodes on the other side of a connection.

package wire

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"google.golang.org/grpc"
)

// nodesTimeout bounds the calls that have no context. They are answered from memory.
const nodesTimeout = time.Second

// Nodes asks the daemon about its cluster.
type Nodes struct {
	client pb.NodesClient
	self   string
	load   atomic.Uint64 // what was told last, as math.Float64bits
}

// NewNodes returns the nodes that the daemon on the other side of conn tells of. self
// is its own name.
func NewNodes(conn grpc.ClientConnInterface, self string) *Nodes {
	return &Nodes{client: pb.NewNodesClient(conn), self: self}
}

// Self implements stage.Nodes.
func (n *Nodes) Self() string { return n.self }

// Load implements stage.Nodes. It is as it was last while the daemon does not answer.
func (n *Nodes) Load() float64 {
	ctx, cancel := context.WithTimeout(context.Background(), nodesTimeout)
	defer cancel()
	if reply, err := n.client.Load(ctx, &pb.LoadRequest{}); err == nil {
		n.load.Store(math.Float64bits(reply.Load))
	}
	return math.Float64frombits(n.load.Load())
}

// Peers implements stage.Nodes.
func (n *Nodes) Peers(ctx context.Context, name string, live bool) ([]stage.Peer, error) {
	reply, err := n.client.Peers(ctx, &pb.PeersRequest{Name: name, Live: live})
	var list []stage.Peer
	for _, p := range reply.GetPeers() {
		list = append(list, peerFromProto(p))
	}
	return list, callError(ctx, err)
}

// Serves implements stage.Nodes. A daemon that does not answer is ending this process.
func (n *Nodes) Serves(address string) {
	ctx, cancel := context.WithTimeout(context.Background(), nodesTimeout)
	defer cancel()
	_, _ = n.client.Serves(ctx, &pb.ServesRequest{Address: address})
}

// A NodesServer tells one plugin of the cluster.
type NodesServer struct {
	pb.UnimplementedNodesServer
	Nodes stage.Nodes

	serves atomic.Bool // the plugin said so
}

// Register adds the service to r.
func (s *NodesServer) Register(r grpc.ServiceRegistrar) { pb.RegisterNodesServer(r, s) }

// Close takes back what the plugin said that it serves, once its calls are over.
func (s *NodesServer) Close() {
	if s.serves.Swap(false) {
		s.Nodes.Serves("")
	}
}

// Load implements the call.
func (s *NodesServer) Load(context.Context, *pb.LoadRequest) (*pb.LoadReply, error) {
	return &pb.LoadReply{Load: s.Nodes.Load()}, nil
}

// Peers implements the call.
func (s *NodesServer) Peers(ctx context.Context, req *pb.PeersRequest) (*pb.PeersReply, error) {
	list, err := s.Nodes.Peers(ctx, req.Name, req.Live)
	reply := &pb.PeersReply{}
	for _, p := range list {
		reply.Peers = append(reply.Peers, peerToProto(p))
	}
	return reply, ToStatus(err)
}

// Serves implements the call.
func (s *NodesServer) Serves(_ context.Context, req *pb.ServesRequest) (*pb.ServesReply, error) {
	s.serves.Store(req.Address != "")
	s.Nodes.Serves(req.Address)
	return &pb.ServesReply{}, nil
}
