package api

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/pipeline"
)

// people is a stage that has clients.
type people struct {
	app
	clients []access.Client
	kicked  *[]int64
}

func (p people) Clients() []access.Client { return p.clients }

func (p people) Kick(which func(access.Client) bool) (n int) {
	for _, c := range p.clients {
		if which(c) && c.Kickable {
			*p.kicked = append(*p.kicked, c.ID)
			n++
		}
	}
	return n
}

func TestClients(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var publishers, viewers []int64
	h := newTest(func(o *Options) {
		o.Stages = func() []pipeline.Status {
			stages := testStages()
			stages[0].Made = people{kicked: &publishers, clients: []access.Client{{ID: 1, Action: access.Publish, Name: "live/show", Address: a, Kickable: true}}}
			stages[2].Made = people{kicked: &viewers, clients: []access.Client{
				{ID: 1, Action: access.Play, Name: "live/show", Address: a, Kickable: true},
				{ID: 2, Action: access.Play, Name: "live/show", Address: b, Kickable: true},
				{ID: 3, Action: access.Play, Name: "live/show", Address: b, Protocol: "hls"},
			}}
			return stages
		}
	})
	for _, test := range []struct{ query, want string }{
		{"", "live/in:1 vod/stream:1 vod/stream:2 vod/stream:3"},
		{"?name=live/show&action=play", "vod/stream:1 vod/stream:2 vod/stream:3"},
		{"?address=::ffff:192.0.2.1", "live/in:1 vod/stream:1"},
		{"?id=live/in:1&id=vod/stream:2", "live/in:1 vod/stream:2"},
		{"?name=live/other", ""},
	} {
		var list []Client
		if code, body := get(h, "/api/clients"+test.query); code != http.StatusOK || json.Unmarshal([]byte(body), &list) != nil {
			t.Errorf("%q: %d %s", test.query, code, body)
		}
		var ids []string
		for _, c := range list {
			ids = append(ids, c.ID)
		}
		if got := strings.Join(ids, " "); got != test.want {
			t.Errorf("%q: %s, want %s", test.query, got, test.want)
		}
	}
	post := func(r *http.Request) { r.Method = http.MethodPost }
	for _, test := range []struct {
		query, want        string
		code               int
		publishers, people int
	}{
		{"", "whom?", http.StatusBadRequest, 0, 0},
		{"?action=play", "whom?", http.StatusBadRequest, 0, 0},
		{"?name=live/show&action=watch", "neither publish nor play", http.StatusBadRequest, 0, 0},
		{"?address=localhost", "no IP address", http.StatusBadRequest, 0, 0},
		{"?id=vod/stream:4", "no such client", http.StatusNotFound, 0, 0},
		{"?id=vod/stream:2", `"kicked": 1`, http.StatusOK, 0, 1},
		{"?address=192.0.2.2", `"left": 1`, http.StatusOK, 0, 1},
		{"?name=live/show&action=publish", `"left": 0`, http.StatusOK, 1, 0},
		{"?name=live/show", `"kicked": 3`, http.StatusOK, 1, 2},
	} {
		publishers, viewers = nil, nil
		code, body := get(h, kickPath+test.query, post)
		if code != test.code || !strings.Contains(body, test.want) || len(publishers) != test.publishers || len(viewers) != test.people {
			t.Errorf("%q: %d %s, thrown out are %v and %v", test.query, code, body, publishers, viewers)
		}
	}
	if code, _ := get(h, kickPath+"?name=live/show"); code != http.StatusMethodNotAllowed || publishers == nil {
		t.Errorf("GET: %d", code)
	}
}
