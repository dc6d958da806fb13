// Package media is what everything in mediad is made of: frames, batches of
// them, and the two interfaces that carry them, Reader and Writer. They are to
// media what io.Reader and io.Writer are to bytes. The package imports the
// standard library only.
package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Reader is something a viewer can open media from: a disk, an origin, a
// cache, a broker, the channels of a broadcast.
type Reader interface {
	// Open returns a source of the media at req.Name. It does not wait for
	// frames, but a live reader may wait for a publisher until ctx ends.
	//
	// The source starts at a join point: for recorded media at the last one at
	// or before req.From (at the first frame when there is none), for live media
	// as OpenRequest tells. ctx bounds Open alone; the source outlives it.
	//
	// Errors wrap ErrNotFound, ErrDenied or ErrUnavailable, or are a
	// *RedirectError, where one of them is the case.
	Open(ctx context.Context, req OpenRequest) (Source, error)
}

// A Source is one open piece of media, read by one goroutine at a time.
type Source interface {
	// Info describes the media. It does not change while the source is open.
	Info() Info
	// Next returns the next batch in decode order, and io.EOF after the last.
	// It waits for one until ctx ends; after an error of ctx the source is as
	// it was and Next may be called again. The batch is shared and immutable.
	Next(ctx context.Context) (*Batch, error)
	// Close releases what the source holds. It may be called at any time, by
	// any goroutine, more than once; a Next that waits then returns ErrClosed.
	Close() error
}

// A Writer is something media can be put into: a folder, a broadcast.
type Writer interface {
	// Create makes the media req.Name and returns the sink for its frames. ctx
	// bounds Create alone. Errors wrap ErrBusy when the name is taken, and
	// ErrDenied, ErrFull or ErrUnavailable where one of them is the case.
	Create(ctx context.Context, req CreateRequest) (Sink, error)
}

// A Sink takes the frames of one piece of media, from one goroutine at a time.
type Sink interface {
	// Write takes a batch. The sink may keep it: batches are immutable.
	// An error other than ctx's is final; only Close may follow it.
	Write(ctx context.Context, b *Batch) error
	// Close flushes what was written and commits it. ctx bounds the flush.
	// Only the first call does anything.
	Close(ctx context.Context) error
}

// Newest, as the From of an OpenRequest, is the newest join point of live
// media, and the start of recorded media.
const Newest time.Duration = -1

// OpenRequest is what Open is asked for.
type OpenRequest struct {
	// Name of the media: slash-separated, without a leading slash, checked by
	// CheckName where it enters the daemon.
	Name string
	// From is the position to start at, on the media's own timeline. Live
	// media start at the last join point at or before From, at the oldest that
	// is kept when From is before it, and at the newest when From is Newest.
	From time.Duration
	// LiveOnly and RecordedOnly refuse the other kind with ErrNotFound, for a
	// reader that has both.
	LiveOnly, RecordedOnly bool
	// Peer is the node that asks for its own viewers, "" when this node's own ask.
	// What a peer asks for is answered with what this node has, and never
	// asked of a third: so no request goes round in a circle.
	Peer string
	// Redirects says that the client can be sent to another node by a *RedirectError.
	Redirects bool
}

// CreateRequest is what Create is asked for.
type CreateRequest struct {
	Name string
	Info Info
	// Append goes on after what is already there, instead of beginning anew: for a
	// publisher who asks for it, and when a writer's process has failed and the next is to
	// go on with the batch that was under way, which may be there already, or in part.
	Append bool
	// Takeover ends whoever writes Name now instead of failing with ErrBusy.
	Takeover bool
	// Linger is how long viewers of live media are kept after Close, in case
	// the writer comes back.
	Linger time.Duration
}

// Info describes a piece of media.
type Info struct {
	Name string
	// Live media have no end until their writer stops.
	Live bool
	// Version changes whenever the content behind Name does, and is equal for
	// equal content. Empty: not known, so nothing may be cached.
	Version string
	// Start and Duration are the DTS of the first frame, and the time from it
	// to the end of the last. Duration is 0 when it is not known (live, growing).
	Start, Duration time.Duration
	// Size is the size of the media in bytes, 0 when it is not known.
	Size int64
}

// Errors that a Reader or a Writer wraps, to be told apart with errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrBusy        = errors.New("name is taken")
	ErrDenied      = errors.New("denied")
	ErrUnavailable = errors.New("unavailable") // for now: another source, or a later try, may do
	ErrFull        = errors.New("no room is left")
	ErrClosed      = errors.New("closed")
	ErrChanged     = errors.New("changed while it was open")
	ErrTakenOver   = errors.New("taken over by another writer")
)

// A RedirectError says that another place serves the media.
type RedirectError struct{ URL string }

func (e *RedirectError) Error() string { return "redirected to " + e.URL }

// Buffered is a Source that knows how many batches Next would return at once,
// so that a writer can gather them into one system call.
type Buffered interface {
	Buffered() int
}

// Outlined is a Source that may know the frames of its media without reading them, as that of
// a file with a table of its samples does.
type Outlined interface {
	// Outline calls add with each frame from the first one on, wherever the source stands,
	// until that fails. The body has the codec header at least, and is valid until add returns;
	// size is what all of it has, in bytes. The error is add's, that of the medium, or
	// errors.ErrUnsupported where the frames are not known before they are read.
	Outline(ctx context.Context, add func(h *Header, f Frame, size int) error) error
}

// Outline is that of src, if it has one.
func Outline(ctx context.Context, src Source, add func(h *Header, f Frame, size int) error) error {
	if o, ok := src.(Outlined); ok {
		return o.Outline(ctx, add)
	}
	return errors.ErrUnsupported
}

// Routed is a Source of live media that knows the nodes which they came through,
// their owner's first and this one last. The path may change while the source is
// open; it is empty while nobody sends.
type Routed interface {
	Path() []string
}

// Pushing is a Source whose batches come to a goroutine of its own, which can hand them on
// itself, so that no other one is woken for each.
type Pushing interface {
	// Push calls take with what Next would return, until that would fail or take does, and returns
	// that error. No two calls run at once, and none after Push has returned. Nobody calls
	// Next meanwhile. The source waits for take, which is to be quick.
	Push(ctx context.Context, take func(*Batch) error) error
}

// Push calls take with what src has, as Pushing does, which it need not be.
func Push(ctx context.Context, src Source, take func(*Batch) error) error {
	if p, ok := src.(Pushing); ok {
		return p.Push(ctx, take)
	}
	for {
		b, err := src.Next(ctx)
		if err == nil {
			err = take(b)
		}
		if err != nil {
			return err
		}
	}
}

// Copy writes what src has into dst until src ends, and returns nil at its end.
// It closes neither.
func Copy(ctx context.Context, dst Sink, src Source) error {
	for {
		b, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", src.Info().Name, err)
		}
		if err := dst.Write(ctx, b); err != nil {
			return fmt.Errorf("write %s: %w", src.Info().Name, err)
		}
	}
}
