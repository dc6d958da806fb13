// One client's publication: messages in, batches out.

package ingest

import (
	"context"
	"sync"
	"time"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/flv"
	"github.com/mediad/mediad/core/media"
)

// publication turns the messages of one publisher into batches of one frame: in
// the memory that the message was read into, with the header in force and a DTS
// on the channel's timeline.
type publication struct {
	in   *Ingest
	req  Request
	sink media.Sink
	pass *access.Pass

	state    flv.State
	timeline timeline
	builder  *media.Builder
	began    time.Time
	frames   int
	bytes    int64
	dropped  map[string]int

	once sync.Once
	done chan struct{}
	err  error // set before done is closed

	closing sync.Once
}

// A sink that goes on where an earlier one ended says so by Resume; one that can
// be lost to somebody else says so by Done and Err. The sinks of core/broadcast do both.
type (
	resumer interface {
		Resume() (at time.Duration, ok bool)
	}
	loser interface {
		Done() <-chan struct{}
		Err() error
	}
)

func newPublication(in *Ingest, req Request, sink media.Sink) *publication {
	p := &publication{
		in:       in,
		req:      req,
		sink:     sink,
		timeline: startAt(0),
		builder:  media.NewBuilder(media.NoClock),
		began:    time.Now(),
		dropped:  map[string]int{},
		done:     make(chan struct{}),
	}
	if r, ok := sink.(resumer); ok {
		if at, ok := r.Resume(); ok {
			p.timeline = startAt(at.Truncate(time.Millisecond))
		}
	}
	if l, ok := sink.(loser); ok {
		go func() { // ends with the sink, which Close closes
			<-l.Done()
			p.end(l.Err())
		}()
	}
	return p
}

// Write takes one message.
func (p *publication) Write(ctx context.Context, track media.Track, timestamp uint32, slab []byte) error {
	now := time.Now()
	f, ok, err := p.state.Push(track, 0, slab[media.Headroom:])
	if err != nil {
		p.drop(dropReason(err), err)
		return nil
	}
	if !ok {
		return nil
	}
	composition := f.PTS - f.DTS
	jumps, reordered := p.timeline.jumps, p.timeline.reordered
	f.DTS = p.timeline.dts(track, timestamp, now)
	f.PTS = f.DTS + composition
	if p.timeline.jumps > jumps {
		p.in.metrics.jumps.Inc()
		if jumps == 0 {
			p.in.log.Warn("timestamps jumped and were re-based, more jumps are only counted", "name", p.req.Name, "track", track, "timestamp", timestamp)
		}
	}
	if p.timeline.reordered > reordered {
		p.in.metrics.reordered.Inc()
	}
	p.builder.Take(f, slab)
	p.frames++
	p.bytes += int64(len(f.Body))
	p.in.metrics.frames.Inc()
	p.in.metrics.bytes.Add(float64(len(f.Body)))
	return p.sink.Write(ctx, p.builder.Batch(p.state.Header()))
}

// drop counts a frame that cannot be passed on, and logs the first of its kind.
func (p *publication) drop(reason string, err error) {
	p.in.metrics.dropped.WithLabelValues(reason).Inc()
	p.dropped[reason]++
	if p.dropped[reason] == 1 {
		p.in.log.Warn("frame dropped, more like it are only counted", "name", p.req.Name, "reason", reason, "error", err)
	}
}

// Done is closed when the publication is over without the client's doing.
func (p *publication) Done() <-chan struct{} { return p.done }

// Err says why.
func (p *publication) Err() error {
	<-p.done
	return p.err
}

func (p *publication) end(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.done)
	})
}

// Close ends the publication and commits what was published.
func (p *publication) Close(ctx context.Context) error {
	var err error
	p.closing.Do(func() {
		err = p.sink.Close(ctx)
		p.in.remove(p)
		p.pass.Done(p.bytes)
		p.in.log.Info("publishing ended", "name", p.req.Name, "remote", p.req.Remote,
			"seconds", time.Since(p.began).Round(time.Millisecond).Seconds(), "frames", p.frames, "dropped", p.dropped, "jumps", p.timeline.jumps)
	})
	return err
}
