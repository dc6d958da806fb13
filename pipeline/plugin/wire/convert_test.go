package wire

import (
	"reflect"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
)

// TestConversions sends values with all that they have there and back: a field that is
// new in core must not be lost here.
func TestConversions(t *testing.T) {
	info := media.Info{Name: "a", Live: true, Version: "v", Start: -time.Second, Duration: time.Hour, Size: 1 << 40}
	open := media.OpenRequest{Name: "a", From: media.Newest, LiveOnly: true, RecordedOnly: true, Peer: "west", Redirects: true}
	create := media.CreateRequest{Name: "a", Info: info, Append: true, Takeover: true, Linger: time.Second}
	cost := media.Cost{Place: "disk", Base: 10, Load: 0.5, Node: "east", RTT: time.Millisecond, Depth: 2}
	peer := stage.Peer{Name: "east", Address: "east:4100", Load: 0.5, Path: []string{"west", "east"}}
	for _, test := range []struct{ want, got any }{
		{info, infoFromProto(infoToProto(info))},
		{open, openFromProto(openToProto(open, 3))},
		{create, createFromProto(createToProto(create))},
		{cost, costFromProto(costToProto(cost))},
		{peer, peerFromProto(peerToProto(peer))},
	} {
		if !reflect.DeepEqual(test.got, test.want) {
			t.Errorf("got  %+v\nwant %+v", test.got, test.want)
		}
		v := reflect.ValueOf(test.want)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s has the field %s, which is not tested", v.Type(), v.Type().Field(i).Name)
			}
		}
	}
	if input := openToProto(open, 3).Input; input != 3 {
		t.Errorf("input %d", input)
	}
	if far := costFromProto(costToProto(media.Cost{Depth: -1})); far.Depth != 0 {
		t.Errorf("depth %d", far.Depth)
	}
	if none := costFromProto((*pb.CostReply)(nil)); none != (media.Cost{}) {
		t.Errorf("nothing costs %+v", none)
	}
}
