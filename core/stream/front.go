// What the stream machines ask of a protocol server, and the server of them.

package stream

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/media"
)

// A Front is a protocol server that viewers connect to, such as rtmp.Server.
type Front interface {
	// HandlePlay lets newPlayer make a player for each message stream on which
	// a client of the app plays, until remove is called, which may be called
	// again. It fails when the app has one already.
	HandlePlay(app string, newPlayer func(v Viewer) Player) (remove func(), err error)
}

// A Form is a way to watch.
type Form string

// The forms.
const (
	RTMP Form = "rtmp"
	FLV  Form = "flv"
	HLS  Form = "hls"
	MP4  Form = "mp4"
)

// UnmarshalText reads the name of a form.
func (f *Form) UnmarshalText(text []byte) error {
	switch *f = Form(text); *f {
	case RTMP, FLV, HLS, MP4:
		return nil
	}
	return fmt.Errorf("%q is not one of rtmp, flv, hls, mp4", text)
}

// A Web is a server that viewers connect to over HTTP, such as web.Server.
type Web interface {
	// HandleWatch lets w be watched under the name of an app, until remove is called,
	// which may be called again and returns when nothing of it is left. It fails when
	// the app has one already.
	HandleWatch(app string, w Watch) (remove func(), err error)
}

// Watch is what can be watched over HTTP.
type Watch struct {
	Forms []Form
	// NewPlayer makes the player of a viewer who is sent media as they come: FLV,
	// live MP4.
	NewPlayer func(Viewer) Player
	// Reader is what is cut into files for clients to fetch: HLS, recorded MP4. Without
	// it there are neither.
	Reader media.Reader
	// Admit lets a client fetch such files, until it gives the pass back; nil: all may.
	Admit func(context.Context, access.Request) (*access.Pass, error)
}

// Starts of a Request that are no position.
const (
	StartAny  time.Duration = -2 // live if it is on air, else recorded, else wait for live
	StartLive time.Duration = -1 // live only
)

// Request is what a client asks to play.
type Request struct {
	App, Name string
	Protocol  string // that the client came by: rtmp, flv, mp4
	// Params are the query of the app's URL and of the name, the latter first.
	Params url.Values
	Remote netip.Addr
	Start  time.Duration // StartAny, StartLive, or the position in recorded media
	Length time.Duration // how much to play: < 0 to the end, 0 a single frame
	Append bool          // play it after what is in the list (reset false)
	// Pass is what the front has let the client in with, which the player gives back;
	// nil: the player asks.
	Pass *access.Pass
	// Redirects says that the Viewer is a Redirector whose client can follow.
	Redirects bool
}

// A Player is the play side of one message stream: a machine of its own. Its
// methods hand an event to the machine and return without waiting for media;
// all but Close are called by one goroutine.
type Player interface {
	Play(Request)
	Pause(on bool, at time.Duration) // at: the client's position
	Seek(to time.Duration)
	// Buffer is how much media the client keeps (SetBufferLength).
	Buffer(d time.Duration)
	// Receive turns a track off and on (receiveAudio, receiveVideo).
	Receive(t media.Track, on bool)
	// Close ends the player and waits for its goroutine. It writes nothing more.
	Close()
}

// A Viewer is where a player's output goes: the client's side of one message
// stream. Each method writes at once and returns when the client's socket has
// taken the bytes, within the front's write deadline; a failed viewer fails all
// further calls, and its front will Close the player. The player's goroutine is
// the only caller.
type Viewer interface {
	// Context ends when the client is gone.
	Context() context.Context
	Status(Status) error
	Event(Event) error
	// Access sends |RtmpSampleAccess(true, true).
	Access() error
	// Complete sends onPlayStatus NetStream.Play.Complete.
	Complete(duration time.Duration, bytes int64) error
	// Timeline says that what follows is no continuation of what went before (a
	// join, a seek, a skip): the header is sent again, timestamps are absolute,
	// and a frame at DTS t has the client's time t - zero, or 0 if that is less.
	Timeline(zero time.Duration)
	// Write sends batches in one system call, each preceded by its header if
	// that is not the one sent last. Tracks turned off by Receive are left out.
	Write(batches []*media.Batch) error
	// Receive turns a track off and on.
	Receive(t media.Track, on bool)
}

// A Redirector is a Viewer whose client can be sent to another node.
type Redirector interface {
	// Redirect asks the client to play from the host of a URL, which may have no
	// scheme. It is served on until it leaves.
	Redirect(url string) error
}

// A Leaver is a Viewer with a connection that does not end when what it was played does.
type Leaver interface {
	// Leave ends the connection, and says why in the log.
	Leave(why error)
}

// Status is an onStatus message.
type Status struct {
	Level       string // "status" or "error"; ffmpeg leaves on any error
	Code        string // such as NetStream.Play.Start
	Description string
	Err         error // why the level is "error"; not for the client's eyes
}

// Event is a user control message about the stream (RTMP 1.0, 7.1.7).
type Event uint16

// The events.
const (
	Begin    Event = 0 // StreamBegin
	EOF      Event = 1 // StreamEOF
	Dry      Event = 2 // StreamDry
	Recorded Event = 4 // StreamIsRecorded
)
