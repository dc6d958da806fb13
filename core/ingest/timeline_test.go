package ingest

import (
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// step is a frame with a timestamp in ms that comes some ms after the one before.
type step struct {
	track     media.Track
	after     int
	timestamp uint32
	want      int // DTS in ms
}

func TestTimeline(t *testing.T) {
	const a, v, d = media.Audio, media.Video, media.Data
	for _, c := range []struct {
		name             string
		start            int
		steps            []step
		jumps, reordered int
	}{
		{"starts at 0 wherever the publisher starts", 0, []step{
			{v, 0, 5000, 0}, {a, 0, 4990, -10}, {v, 40, 5040, 40}, {a, 10, 5013, 13},
		}, 0, 0},
		{"goes on where an earlier one ended", 7000, []step{{v, 0, 0, 7000}, {v, 40, 40, 7040}}, 0, 0},
		{"T48 passes 0xffffff", 0, []step{{v, 0, 0xffffd7, 0}, {v, 40, 0xffffff, 40}, {v, 40, 0x1000027, 80}}, 0, 0},
		{"T48 wraps at 2^32", 0, []step{
			{v, 0, 0xffffffd8, 0}, {a, 0, 0xffffffe0, 8}, {v, 40, 0, 40}, {a, 0, 8, 48}, {v, 40, 40, 80},
		}, 0, 0},
		{"faster than real time", 0, []step{{v, 0, 0, 0}, {v, 1, 9000, 9000}, {v, 1, 18000, 18000}}, 0, 0},
		{"a silent minute is no jump", 0, []step{{v, 0, 0, 0}, {v, 60000, 60000, 60000}}, 0, 0},
		{"a track that falls silent comes back", 0, []step{
			{v, 0, 0, 0}, {a, 0, 0, 0}, {v, 30000, 30000, 30000}, {v, 30000, 60000, 60000}, {a, 0, 60000, 60000},
		}, 0, 0},
		{"T47 jumps back", 0, []step{
			{v, 0, 100000, 0}, {a, 0, 100000, 0}, {v, 40, 100040, 40},
			{v, 40, 0, 80}, {a, 0, 0, 80}, {v, 40, 40, 120}, {a, 20, 23, 103},
		}, 1, 0},
		{"T47 jumps forward, the other track later", 0, []step{
			{v, 0, 0, 0}, {a, 0, 0, 0}, {v, 40, 900000, 40}, {a, 5, 23, 23}, {v, 40, 900040, 80}, {a, 5, 900023, 63},
		}, 1, 0},
		{"a step back within a track", 0, []step{{a, 0, 100, 0}, {a, 20, 120, 20}, {a, 0, 110, 20}, {a, 20, 140, 40}}, 0, 1},
		{"tracks that are seconds apart", 0, []step{
			{v, 0, 0, 0}, {a, 0, 8000, 8000}, {v, 40, 40, 40}, {a, 0, 8023, 8023}, {v, 40, 80, 80},
		}, 0, 0},
		{"tracks that are minutes apart", 0, []step{
			{v, 0, 0, 0}, {a, 20, 600000, 20}, {v, 20, 40, 40}, {a, 3, 600023, 43}, {v, 37, 80, 80}, {a, 3, 600046, 66},
		}, 1, 0},
		{"a cue point at 0", 0, []step{{v, 0, 50000, 0}, {v, 40, 50040, 40}, {d, 0, 0, 40}, {v, 40, 50080, 80}}, 0, 0},
	} {
		now := time.Now()
		line := startAt(time.Duration(c.start) * time.Millisecond)
		for i, s := range c.steps {
			now = now.Add(time.Duration(s.after) * time.Millisecond)
			if got := line.dts(s.track, s.timestamp, now); got != time.Duration(s.want)*time.Millisecond {
				t.Errorf("%s: step %d: %s at %d is at %v, want %dms", c.name, i, s.track, s.timestamp, got, s.want)
			}
		}
		if line.jumps != c.jumps || line.reordered != c.reordered {
			t.Errorf("%s: %d jumps and %d reordered, want %d and %d", c.name, line.jumps, line.reordered, c.jumps, c.reordered)
		}
	}
}
