// Which metrics of a stage are shown, and which say what passes over an edge.

package console

// A Figure is a number of a stage.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // "B", "B/s", "%", "s", or what is counted
}

// figure says how a Figure comes from metrics, which are added.
type figure struct {
	name, unit string
	of         []string
	share      []string // what they are a part of, in %
	rate       bool     // in a second
}

var cacheReads = []string{"mediad_cache_hits_total", "mediad_cache_misses_total", "mediad_cache_coalesced_total"}

var figures = map[string][]figure{
	"cache": {
		{name: "from memory", unit: "%", of: []string{"mediad_cache_hits_total", "mediad_cache_coalesced_total"}, share: cacheReads},
		{name: "in memory", unit: "B", of: []string{"mediad_cache_bytes"}},
		{name: "media known", of: []string{"mediad_cache_objects"}},
		{name: "fetched", unit: "B/s", of: []string{"mediad_cache_fetched_bytes_total"}, rate: true},
		{name: "fetched in all", unit: "B", of: []string{"mediad_cache_fetched_bytes_total"}},
		{name: "evicted", unit: "batches", of: []string{"mediad_cache_evicted_total"}},
	},
	"archiver": {
		{name: "recording", unit: "B/s", of: []string{"mediad_archiver_bytes_total"}, rate: true},
		{name: "recorded", unit: "B", of: []string{"mediad_archiver_bytes_total"}},
		{name: "files begun", of: []string{"mediad_archiver_files_total"}},
		{name: "files not finished", of: []string{"mediad_archiver_unfinished_total"}},
		{name: "lost", unit: "frames", of: []string{"mediad_archiver_lost_frames_total"}},
		{name: "behind", unit: "s", of: []string{"mediad_archiver_lag_seconds"}},
	},
	"writer-disk": {
		{name: "writing", unit: "B/s", of: []string{"mediad_writer_disk_bytes_total"}, rate: true},
		{name: "written", unit: "B", of: []string{"mediad_writer_disk_bytes_total"}},
		{name: "files begun", of: []string{"mediad_writer_disk_files_total"}},
		{name: "files repaired", of: []string{"mediad_writer_disk_repaired_total"}},
		{name: "files removed", of: []string{"mediad_writer_disk_removed_total"}},
		{name: "not on the disk yet", unit: "s", of: []string{"mediad_writer_disk_sync_lag_seconds"}},
		{name: "errors", of: []string{"mediad_writer_disk_errors_total"}},
	},
}

// figuresOf returns those of a stage that its metrics have.
func (r reading) figuresOf(stage, kind string) []Figure {
	var list []Figure
	for _, f := range figures[kind] {
		v, ok := r.sum(stage, f.of, f.rate)
		if f.share != nil {
			all, _ := r.sum(stage, f.share, f.rate)
			v, ok = 100*v/all, ok && all > 0
		}
		if ok {
			list = append(list, Figure{f.name, v, f.unit})
		}
	}
	return list
}

// flow is a counter of what passes through a stage.
type flow struct {
	unit    string
	metrics []string
}

// flows are, by kind, the counters of what a stage takes from its inputs and of
// what it gives on.
var flows = map[string]struct{ in, out flow }{
	"reader-disk":  {out: flow{"B/s", []string{"mediad_reader_disk_read_bytes_total"}}},
	"reader-http":  {out: flow{"B/s", []string{"mediad_reader_http_read_bytes_total"}}},
	"cache":        {in: flow{"B/s", []string{"mediad_cache_fetched_bytes_total"}}, out: flow{"batches/s", cacheReads}},
	"stream":       {in: flow{"B/s", []string{"mediad_stream_bytes_total"}}},
	"ingest":       {out: flow{"B/s", []string{"mediad_ingest_bytes_total"}}},
	"broadcast":    {in: flow{"B/s", []string{"mediad_broadcast_repeated_bytes_total"}}},
	"playout":      {in: flow{"frames/s", []string{"mediad_playout_frames_total"}}, out: flow{"frames/s", []string{"mediad_playout_frames_total"}}},
	"archiver":     {in: flow{"B/s", []string{"mediad_archiver_bytes_total"}}, out: flow{"B/s", []string{"mediad_archiver_bytes_total"}}},
	"writer-disk":  {in: flow{"B/s", []string{"mediad_writer_disk_bytes_total"}}},
	"repeater-tcp": {in: flow{"B/s", []string{"mediad_repeater_sent_bytes_total"}}, out: flow{"B/s", []string{"mediad_repeater_received_bytes_total"}}},
}

// A Rate is how much passes in a second, in a unit.
type Rate struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// rateOf returns what passes from one stage to another, nil when no counter tells. A counter
// belongs to a stage, so it tells the rate of an edge when the stage has no other like it;
// a broker counts what it opens for each input.
func (r reading) rateOf(from, to end) *Rate {
	if f := flows[to.kind].in; to.edges == 1 && f.metrics != nil {
		if v, ok := r.sum(to.stage, f.metrics, true); ok {
			return &Rate{v, f.unit}
		}
	}
	if f := flows[from.kind].out; from.edges == 1 && f.metrics != nil {
		if v, ok := r.sum(from.stage, f.metrics, true); ok {
			return &Rate{v, f.unit}
		}
	}
	if to.kind != "broker" || r.over() <= 0 {
		return nil
	}
	v, _ := r.rate(series{to.stage, "mediad_broker_opens_total", from.stage})
	return &Rate{v, "opens/s"}
}

// end is a stage at one end of an edge, and how many edges it has in that direction.
type end struct {
	stage, kind string
	edges       int
}
