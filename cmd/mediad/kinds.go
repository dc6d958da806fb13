// The kinds of stages that are built into the daemon.

package main

import (
	"github.com/mediad/mediad/core/archive"
	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/broker"
	"github.com/mediad/mediad/core/cache"
	"github.com/mediad/mediad/core/ingest"
	"github.com/mediad/mediad/core/playout"
	"github.com/mediad/mediad/core/rtmp"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/core/stream"
	"github.com/mediad/mediad/core/web"
	readerdisk "github.com/mediad/mediad/plugins/reader-disk"
	readerhttp "github.com/mediad/mediad/plugins/reader-http"
	repeatertcp "github.com/mediad/mediad/plugins/repeater-tcp"
	writerdisk "github.com/mediad/mediad/plugins/writer-disk"
)

// kinds lists them. Publishers and players come to server, and those who watch over
// HTTP to pages; both may be nil when the kinds are only to be described.
func kinds(server *rtmp.Server, pages *web.Server) []stage.Kind {
	return []stage.Kind{
		readerdisk.Kind(),
		readerhttp.Kind(),
		cache.Kind(),
		broker.Kind(),
		stream.Kind(server, pages),
		ingest.Kind(server),
		broadcast.Kind(),
		playout.Kind(),
		archive.Kind(),
		writerdisk.Kind(),
		repeatertcp.Kind(),
	}
}
