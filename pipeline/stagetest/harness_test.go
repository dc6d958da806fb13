package stagetest

import (
	"testing"
	"testing/synctest"

	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/cache"
	"github.com/mediad/mediad/core/playout"
)

// TestPlayoutGolden pushes a second of a film and pulls its frames at the times at
// which they are played out.
func TestPlayoutGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHarness(t, playout.Kind(), map[string]any{"play": "film", "as": "channel"}, "film")
		h.Push(Film(1, 60)[0])
		h.End()
		for h.Pull() != nil {
		}
		h.Golden("testdata/playout.frames")
	})
}

// TestBroadcastGolden pushes what a publisher would; a reader from the start gets it.
func TestBroadcastGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHarness(t, broadcast.Kind(), nil, "film")
		for _, b := range Film(2, 60) {
			h.Push(b)
			h.Pull()
		}
		h.End()
		if h.Pull() != nil {
			t.Error("a batch came after the end")
		}
		h.Golden("testdata/broadcast.frames")
	})
}

// TestCacheGolden pulls from a cache while its upstream takes its time.
func TestCacheGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHarness(t, cache.Kind(), nil, "film")
		for _, b := range Film(2, 60) {
			h.Push(b)
			h.Pull()
		}
		h.End()
		if h.Pull() != nil {
			t.Error("a batch came after the end")
		}
		h.Golden("testdata/cache.frames")
	})
}
