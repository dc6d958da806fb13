// What ingest asks of a protocol server, and the server of it.

package ingest

import (
	"context"
	"net/netip"
	"net/url"

	"github.com/mediad/mediad/core/media"
)

// A Front is a protocol server that publishers connect to, such as rtmp.Server.
type Front interface {
	// HandlePublish gives the publishers of an app to p, until remove is called,
	// which may be called again. It fails when the app has a publisher handler already.
	HandlePublish(app string, p Publisher) (remove func(), err error)
}

// Request is what a publisher asks for.
type Request struct {
	App, Name string
	// Params are the query of the app's URL and of the name, the latter first.
	Params url.Values
	Remote netip.Addr
	Append bool // publish type "append"
}

// A Publisher takes in what clients publish.
type Publisher interface {
	// Publish begins a publication. Errors wrap media.ErrDenied or media.ErrBusy
	// where that is the reason, and are fit to be shown to the client.
	Publish(ctx context.Context, req Request) (Publication, error)
}

// A Publication is what one client publishes; one goroutine writes to it.
type Publication interface {
	// Write takes one media message: its timestamp in milliseconds as it came,
	// modulo 2^32, and its payload behind media.Headroom free bytes in slab,
	// which belongs to the publication from now on. Data messages come without
	// "@setDataFrame". A frame that makes no sense is counted and dropped; an
	// error ends the publication.
	Write(ctx context.Context, track media.Track, timestamp uint32, slab []byte) error
	// Done is closed when the publication is over without the client's doing
	// (another has taken over, the stage stops); Err then says why.
	Done() <-chan struct{}
	Err() error
	// Close ends the publication.
	Close(ctx context.Context) error
}
