package wire

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

var (
	header = &media.Header{Meta: []byte("meta"), Video: media.Format{Codec: "h264", Config: []byte("avcC")}}
	other  = &media.Header{Audio: media.Format{Codec: "opus"}}
)

// batches are what goes over the wire in the tests.
func batches() []*media.Batch {
	b := media.NewBuilder(media.Clock{Audio: media.None, Video: -time.Second, Data: 0})
	var list []*media.Batch
	b.Copy(media.Frame{Track: media.Video, Key: true, DTS: 0, PTS: 40 * time.Millisecond, Body: []byte("key")})
	b.Copy(media.Frame{Track: media.Audio, DTS: -5 * time.Millisecond, PTS: -5 * time.Millisecond, Body: []byte("sound")})
	b.Copy(media.Frame{Track: media.Video, DTS: 40 * time.Millisecond, PTS: 20 * time.Millisecond, Body: bytes.Repeat([]byte("x"), 200)})
	list = append(list, b.Batch(header))
	b.Copy(media.Frame{Track: media.Data, DTS: 200 * 24 * time.Hour, PTS: 200 * 24 * time.Hour, Body: []byte("late")})
	list = append(list, b.Batch(header))
	b.Copy(media.Frame{Track: media.Audio, Body: []byte("a")})
	return append(list, b.Batch(other))
}

// chop divides data into buffers of n bytes, as HTTP/2 does.
func chop(data []byte, n int) mem.BufferSlice {
	var s mem.BufferSlice
	for len(data) > n {
		s = append(s, mem.SliceBuffer(data[:n]))
		data = data[n:]
	}
	return append(s, mem.SliceBuffer(data))
}

func same(t *testing.T, got, want *media.Batch) {
	t.Helper()
	if !reflect.DeepEqual(got.Frames(), want.Frames()) || !Equal(got.Header(), want.Header()) || got.Prev() != want.Prev() || got.Join() != want.Join() {
		t.Errorf("got  %+v %+v %+v\nwant %+v %+v %+v", got.Frames(), *got.Header(), got.Prev(), want.Frames(), *want.Header(), want.Prev())
	}
}

func TestThereAndBack(t *testing.T) {
	for _, size := range []int{1, 2, 7, 100, 16384} {
		out, in := &outgoing{}, &incoming{other: &pb.OpenReply{}}
		var before *media.Header
		for i, want := range batches() {
			out.batch, out.progress = want, progress{i, 2 * i, 3 * int64(i)}
			out.path = map[int]*pb.Path{0: {Nodes: []string{"a", "b"}}, 2: {}}[i] // in the second as before
			data, err := ours.Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			if err := ours.Unmarshal(chop(data.Materialize(), size), in); err != nil {
				t.Fatal(err)
			}
			same(t, in.batch, want)
			if in.progress != out.progress {
				t.Errorf("progress %v, want %v", in.progress, out.progress)
			}
			if got, want := in.path.GetNodes(), [][]string{{"a", "b"}, {"a", "b"}, nil}[i]; !slices.Equal(got, want) {
				t.Errorf("batch %d has come by %q, not %q", i, got, want)
			}
			if i == 1 && in.batch.Header() != before {
				t.Error("the header has not changed, but its pointer has")
			}
			before = in.batch.Header()
		}
	}
}

// TestIsProtobuf has protobuf's own code read what we write, and write what we read.
func TestIsProtobuf(t *testing.T) {
	out, in := &outgoing{path: &pb.Path{Nodes: []string{"a", "b"}}}, &incoming{other: &pb.OpenReply{}}
	for _, want := range batches() {
		out.batch = want
		data := out.marshal().Materialize()
		var reply pb.OpenReply
		if err := proto.Unmarshal(data, &reply); err != nil {
			t.Fatal(err)
		}
		b := reply.GetBatch()
		if len(b.GetFrames()) != len(want.Frames()) || len(b.ProtoReflect().GetUnknown()) > 0 {
			t.Fatalf("protobuf reads %v", &reply)
		}
		if !slices.Equal(b.Path.Nodes, out.path.Nodes) {
			t.Errorf("protobuf reads the path %q", b.Path.Nodes)
		}
		rest := b.Bodies
		for i, f := range want.Frames() {
			g := b.Frames[i]
			if g.Track != uint32(f.Track) || g.Key != f.Key || g.Dts != int64(f.DTS) || g.Pts != int64(f.PTS) || !bytes.HasPrefix(rest, f.Body) || int(g.Size) != len(f.Body) {
				t.Errorf("frame %d is %v, want %v", i, g, f)
			}
			rest = rest[g.Size:]
		}
		again, err := proto.Marshal(&reply)
		if err != nil {
			t.Fatal(err)
		}
		if err := ours.Unmarshal(chop(again, 100), in); err != nil {
			t.Fatal(err)
		}
		same(t, in.batch, want)
	}
	opened, err := proto.Marshal(&pb.OpenReply{What: &pb.OpenReply_Opened{Opened: &pb.Info{Name: "film"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ours.Unmarshal(chop(opened, 100), in); err != nil || in.batch != nil || in.other.(*pb.OpenReply).GetOpened().GetName() != "film" {
		t.Errorf("a message without a batch: %v, %v", in, err)
	}
}

func TestWrongBatches(t *testing.T) {
	video := &pb.Frame{Track: 9, Key: true, Size: 1}
	h := &pb.Header{}
	for name, b := range map[string]*pb.Batch{
		"no frames":        {Header: h},
		"no header":        {Frames: []*pb.Frame{video}, Bodies: []byte("x")},
		"bodies too short": {Header: h, Frames: []*pb.Frame{video, {Track: 9, Size: 1}}, Bodies: []byte("x")},
		"bodies too long":  {Header: h, Frames: []*pb.Frame{video}, Bodies: []byte("xx")},
		"no bodies":        {Header: h, Frames: []*pb.Frame{video}},
		"empty body":       {Header: h, Frames: []*pb.Frame{video, {Track: 9}}, Bodies: []byte("x")},
		"huge body":        {Header: h, Frames: []*pb.Frame{{Track: 9, Size: 1 << 31}}, Bodies: []byte("x")},
		"unknown track":    {Header: h, Frames: []*pb.Frame{{Track: 265, Size: 1}}, Bodies: []byte("x")},
		"key of sound":     {Header: h, Frames: []*pb.Frame{{Track: 8, Key: true, Size: 1}}, Bodies: []byte("x")},
		"second key":       {Header: h, Frames: []*pb.Frame{video, video}, Bodies: []byte("xx")},
	} {
		data, err := proto.Marshal(&pb.OpenReply{What: &pb.OpenReply_Batch{Batch: b}})
		if err != nil {
			t.Fatal(err)
		}
		if err := ours.Unmarshal(chop(data, 100), &incoming{other: &pb.OpenReply{}}); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}

// FuzzUnmarshal feeds anything. What is taken keeps the rules of batches, and
// protobuf's own code takes it too.
func FuzzUnmarshal(f *testing.F) {
	out := &outgoing{path: &pb.Path{Nodes: []string{"a", "b"}}}
	for _, b := range batches() {
		out.batch = b
		f.Add(out.marshal().Materialize(), 100)
	}
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		in := &incoming{other: &pb.OpenReply{}, header: header}
		if err := ours.Unmarshal(chop(data, max(1, size)), in); err != nil || in.batch == nil {
			return
		}
		bytes := 0
		for i, f := range in.batch.Frames() {
			if err := check(f, len(f.Body), i); err != nil {
				t.Error(err)
			}
			bytes += media.Headroom + len(f.Body)
		}
		if bytes != len(in.batch.Slab()) {
			t.Errorf("the slab has %d bytes, want %d", len(in.batch.Slab()), bytes)
		}
	})
}
