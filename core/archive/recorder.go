// The recording of one channel.

package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/media"
)

const (
	// The wait after a failure doubles from the first to the second.
	minWait, maxWait = time.Second, 30 * time.Second
	// settled is how long a file must go well for a failure to be over.
	settled = 10 * time.Second
	// finishTime bounds the finishing of a file.
	finishTime = time.Minute
	// A channel that is opened again goes on in the same timeline if it begins at
	// most overlap before, and nothing is missing if it has what was read last.
	overlap, gap = 5 * time.Minute, time.Second
)

// Why frames are not in the archive.
const (
	causeSlow   = "slow"        // the channel did not keep them long enough
	causeFull   = "full"        // the disk is full
	causeWriter = "writer"      // another failure of the writer
	causeStart  = "no keyframe" // nothing to start from yet
)

// A recorder records one channel. Its goroutine is the only user, but of behind.
type recorder struct {
	archiver *Archiver
	work     context.Context // for writing; goes on for a while after the stage is to stop
	channel  string
	log      hclog.Logger
	behind   atomic.Int64 // Unix time in ns since when there is something to read, 0 when not

	last     *media.Batch  // that was read
	aired    time.Time     // when it was on air, as far as is known
	again    bool          // the channel was opened again, and begins with what was read before
	sink     media.Sink    // nil when there is no file
	header   *media.Header // of the file
	opened   time.Time     // when the file began
	until    time.Time     // when the next begins, zero for never
	finishes sync.WaitGroup

	trouble string        // the cause of the failure that is not over, "" for none
	failed  time.Time     // the last time
	lost    int64         // frames since it began
	wait    time.Duration // before the next try
	retry   time.Time
}

// run records until the channel or ctx ends.
func (r *recorder) run(ctx context.Context, reader media.Reader) {
	defer r.finishes.Wait()
	defer func() { r.close() }()
	for wait := minWait; ; wait = min(2*wait, maxWait) {
		before := r.last
		err := r.read(ctx, reader)
		if ctx.Err() != nil || err == nil || errors.Is(err, media.ErrNotFound) {
			return
		}
		if r.last != before {
			wait = minWait
		}
		r.log.Warn("channel cannot be read, will try again", "in", wait, "error", err)
		if !sleep(ctx, wait) {
			return
		}
		r.again = r.last != nil
	}
}

// read opens the channel and records it until it ends, or ctx does: then what is
// there already is recorded.
func (r *recorder) read(ctx context.Context, reader media.Reader) error {
	req := media.OpenRequest{Name: r.channel, LiveOnly: true} // from the oldest that is kept
	if r.last != nil {
		req.From = r.last.DTS()
	}
	src, err := reader.Open(ctx, req)
	if err != nil {
		return err
	}
	defer src.Close()
	skipper, _ := src.(Skipper)
	routed, _ := src.(media.Routed)
	skips, missed := 0, int64(0)
	for {
		waits := buffered(src) == 0
		if waits {
			r.behind.Store(0)
		}
		b, err := src.Next(ctx)
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) && buffered(src) > 0 {
			b, err = src.Next(r.work)
		}
		switch {
		case r.work.Err() != nil:
			return r.work.Err()
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		r.behind.CompareAndSwap(0, time.Now().UnixNano())
		if routed != nil && len(routed.Path()) > 1 {
			r.log.Info("channel is another node's now, which records it")
			return nil
		}
		if skipper != nil && skipper.Skips() > skips {
			r.fail(causeSlow, "recording was too slow for the channel, which has gone on without it", nil)
			r.lose(causeSlow, skipper.Missed()-missed)
			skips, missed = skipper.Skips(), skipper.Missed()
		}
		before := r.last
		if r.known(b) {
			continue
		}
		r.date(b, before, waits)
		r.take(b)
	}
}

// date notes when b was on air: now, or if it had to wait to be read, as long after
// the batch before it as its time is. So a recording that is behind changes its files
// where one that is not would.
func (r *recorder) date(b, before *media.Batch, fresh bool) {
	now := time.Now()
	if before != nil && !fresh {
		at := r.aired.Add(max(0, b.DTS()-before.DTS()))
		if at.Before(now) {
			r.aired = at
			return
		}
	}
	r.aired = now
}

func buffered(src media.Source) int {
	if b, ok := src.(media.Buffered); ok {
		return b.Buffered()
	}
	return 0
}

// known says whether b was read before the channel was opened again.
func (r *recorder) known(b *media.Batch) bool {
	if r.again {
		off := b.DTS() - r.last.DTS()
		if same(b, r.last) {
			r.again = false
			return true
		}
		if -overlap <= off && off <= gap {
			return true
		}
	}
	r.again, r.last = false, b
	return false
}

// same says whether two batches are the same one of a channel, which may have
// come by different ways.
func same(a, b *media.Batch) bool {
	return a == b || a.DTS() == b.DTS() && len(a.Frames()) == len(b.Frames()) && a.Frames()[0].Track == b.Frames()[0].Track &&
		bytes.Equal(a.Frames()[0].Body, b.Frames()[0].Body)
}

// take puts b into the file, or into a new one if it is time for that.
func (r *recorder) take(b *media.Batch) {
	if b.Join() && r.due(b.Header()) {
		r.create(b.Header())
	}
	frames := int64(len(b.Frames()))
	if r.sink == nil {
		cause := r.trouble
		if cause == "" {
			cause = causeStart
		}
		r.lose(cause, frames)
		return
	}
	if err := r.sink.Write(r.work, b); err != nil {
		r.failWriter(err)
		r.lose(r.trouble, frames)
		r.close()
		return
	}
	if h := b.Header(); !differs(r.header, h) { // else it is kept until a new file can begin
		r.header = h
	}
	m := r.archiver.metrics
	m.frames.Add(float64(frames))
	m.bytes.Add(float64(len(b.Slab()) - int(frames)*media.Headroom))
	if r.trouble != "" && r.aired.Sub(r.opened) >= settled && time.Since(r.failed) >= settled {
		r.log.Info("recording goes well again", "after", r.trouble, "lost_frames", r.lost)
		r.trouble, r.lost, r.wait = "", 0, 0
	}
}

// due says whether a new file is to begin with what comes now.
func (r *recorder) due(h *media.Header) bool {
	if r.sink == nil {
		return !time.Now().Before(r.retry)
	}
	if differs(r.header, h) {
		return true
	}
	// A clock that was put back behind the file's beginning counts as well.
	now := r.aired.Round(0) // the clock on the wall
	return !r.until.IsZero() && (!now.Before(r.until) || now.Before(r.opened.Round(0)))
}

// differs says whether a track goes on in another format.
func differs(before, now *media.Header) bool {
	other := func(a, b media.Format) bool {
		return a.Codec != "" && (a.Codec != b.Codec || !bytes.Equal(a.Config, b.Config))
	}
	return other(before.Video, now.Video) || other(before.Audio, now.Audio)
}

// create begins a new file, and finishes the one before in the background, for
// that waits for the disk.
func (r *recorder) create(h *media.Header) {
	r.close()
	sink, err := r.archiver.output.Create(r.work, media.CreateRequest{
		Name: r.archiver.path.name(r.channel, r.aired),
		Info: media.Info{Name: r.channel, Live: true},
	})
	if err != nil {
		r.failWriter(err)
		return
	}
	r.sink, r.header, r.opened = sink, h, r.aired
	if d := r.archiver.settings.Rotate; d > 0 {
		r.until = boundary(r.aired, d)
	}
	r.archiver.metrics.files.Inc()
}

// close finishes the file. At most one is under way.
func (r *recorder) close() {
	if r.sink == nil {
		return
	}
	sink := r.sink
	r.sink = nil
	r.finishes.Wait()
	r.finishes.Go(func() {
		ctx, cancel := context.WithTimeout(r.work, finishTime)
		defer cancel()
		if err := sink.Close(ctx); err != nil {
			r.archiver.metrics.unfinished.Inc()
			r.log.Error("a recording could not be finished, it will be repaired when the writer starts", "error", err)
		}
	})
}

// failWriter takes note of a failure of the writer, and puts off the next try.
func (r *recorder) failWriter(err error) {
	cause := causeWriter
	if errors.Is(err, media.ErrFull) {
		cause = causeFull
	}
	r.wait = min(max(2*r.wait, minWait), maxWait)
	r.retry = time.Now().Add(r.wait)
	r.fail(cause, "recording has failed, the channel goes on; will try again until it works", err)
}

// fail takes note of a failure, and logs it if it is not the one known already.
func (r *recorder) fail(cause, message string, err error) {
	r.failed = time.Now()
	if r.trouble == cause {
		return
	}
	r.trouble = cause
	if err != nil {
		r.log.Error(message, "error", err)
		return
	}
	r.log.Warn(message)
}

// lose counts frames that are not in the archive.
func (r *recorder) lose(cause string, frames int64) {
	r.lost += frames
	r.archiver.metrics.lost.WithLabelValues(cause).Add(float64(frames))
}

// lag is how long what is to be recorded has waited.
func (r *recorder) lag() time.Duration {
	since := r.behind.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}
