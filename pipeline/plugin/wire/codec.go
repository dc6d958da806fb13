// Package wire is how media cross between the daemon and a plugin: readers and
// writers as gRPC services, as stage.proto describes them, and as values that call
// them. It is the same in both directions.
package wire

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that ours is made of
	"google.golang.org/grpc/mem"
)

// codec is gRPC's proto codec, but for messages that carry a batch: they are
// written and read here, so that bodies are not copied on the way out and only
// once on the way in. What is on the wire is protobuf all the same.
type codec struct{ encoding.CodecV2 }

// ours is not registered: it is for the connections of plugins alone.
var ours = codec{encoding.GetCodecV2("proto")}

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*outgoing); ok {
		return m.marshal(), nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*incoming)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if m.batch = nil; !carriesBatch(data) {
		return c.CodecV2.Unmarshal(data, m.other)
	}
	return m.unmarshal(data)
}

// What was found by measuring with pipeline/plugin/bench. The windows are how much
// may be under way to a reader that does not keep up.
const (
	streamWindow = 2 << 20
	connWindow   = 16 << 20
	bufferSize   = 128 << 10
	// maxMessage is the largest batch: a single frame of RTMP's 16 MiB and its table.
	maxMessage = 24 << 20
)

// DialOptions are those of a connection to a Server.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(ours),
			grpc.MaxCallRecvMsgSize(maxMessage),
			grpc.MaxCallSendMsgSize(maxMessage),
		),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(bufferSize),
		grpc.WithReadBufferSize(bufferSize),
		grpc.WithIdleTimeout(0), // the socket's file is gone, so it cannot be dialled again
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
	}
}

// ServerOptions are those of a gRPC server that has a Server.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(ours),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.WriteBufferSize(bufferSize),
		grpc.ReadBufferSize(bufferSize),
	}
}
