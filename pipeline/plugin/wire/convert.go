// Requests and answers as protobuf messages.

package wire

import (
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
)

func openToProto(r media.OpenRequest, input uint32) *pb.OpenRequest {
	return &pb.OpenRequest{
		Name: r.Name, From: int64(r.From), LiveOnly: r.LiveOnly, RecordedOnly: r.RecordedOnly,
		Input: input, Peer: r.Peer, Redirects: r.Redirects,
	}
}

func openFromProto(r *pb.OpenRequest) media.OpenRequest {
	return media.OpenRequest{
		Name: r.Name, From: time.Duration(r.From), LiveOnly: r.LiveOnly, RecordedOnly: r.RecordedOnly,
		Peer: r.Peer, Redirects: r.Redirects,
	}
}

func infoToProto(i media.Info) *pb.Info {
	return &pb.Info{Name: i.Name, Live: i.Live, Version: i.Version, Start: int64(i.Start), Duration: int64(i.Duration), Size: i.Size}
}

func infoFromProto(i *pb.Info) media.Info {
	return media.Info{
		Name: i.GetName(), Live: i.GetLive(), Version: i.GetVersion(),
		Start: time.Duration(i.GetStart()), Duration: time.Duration(i.GetDuration()), Size: i.GetSize(),
	}
}

func createToProto(r media.CreateRequest) *pb.Create {
	return &pb.Create{Name: r.Name, Info: infoToProto(r.Info), Append: r.Append, Takeover: r.Takeover, Linger: int64(r.Linger)}
}

func createFromProto(r *pb.Create) media.CreateRequest {
	return media.CreateRequest{
		Name: r.Name, Info: infoFromProto(r.Info), Append: r.Append, Takeover: r.Takeover, Linger: time.Duration(r.Linger),
	}
}

func costToProto(c media.Cost) *pb.CostReply {
	return &pb.CostReply{Place: c.Place, Base: c.Base, Load: c.Load, Node: c.Node, Rtt: int64(c.RTT), Depth: uint32(max(c.Depth, 0))}
}

func costFromProto(c *pb.CostReply) media.Cost {
	return media.Cost{
		Place: c.GetPlace(), Base: c.GetBase(), Load: c.GetLoad(),
		Node: c.GetNode(), RTT: time.Duration(c.GetRtt()), Depth: int(c.GetDepth()),
	}
}

func peerToProto(p stage.Peer) *pb.Peer {
	return &pb.Peer{Name: p.Name, Address: p.Address, Load: p.Load, Path: p.Path}
}

func peerFromProto(p *pb.Peer) stage.Peer {
	return stage.Peer{Name: p.Name, Address: p.Address, Load: p.Load, Path: p.Path}
}
