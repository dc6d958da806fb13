package web

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/media"
	"github.com/prometheus/client_golang/prometheus"
)

// Who fetches files is let in once for all of them, until he is thrown out: then he is asked about anew.
func TestKick(t *testing.T) {
	guard, err := access.New(access.Settings{}, hclog.NewNullLogger(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	var refuses atomic.Bool
	lib := &library{films: map[string][]*media.Batch{"film": sampleFilm(t)}}
	url, s, _ := serve(t, Limits{}, lib, nil)
	if _, err := s.HandleWatch("b", Watch{Forms: []Form{HLS, MP4}, Reader: lib, Admit: func(ctx context.Context, r access.Request) (*access.Pass, error) {
		if refuses.Load() {
			return nil, &access.Refusal{Err: media.ErrDenied}
		}
		return guard.Admit(ctx, r)
	}}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/b/film/index.m3u8", "/b/film.mp4"} {
		refuses.Store(false)
		for range 2 {
			if resp, _ := get(t, url+path); resp.StatusCode != 200 {
				t.Fatalf("%s: %s", path, resp.Status)
			}
			refuses.Store(true) // who is there already is not asked again
		}
		if list := guard.Clients(); len(list) != 1 || list[0].Name != "b/film" || !list[0].Kickable {
			t.Errorf("%s: the clients are %+v", path, list)
		}
		if n := guard.Kick(func(access.Client) bool { return true }); n != 1 || len(guard.Clients()) != 0 {
			t.Errorf("%s: %d were thrown out, left are %+v", path, n, guard.Clients())
		}
		if resp, _ := get(t, url+path); resp.StatusCode != 403 {
			t.Errorf("%s, thrown out and refused: %s", path, resp.Status)
		}
	}
}
