// A publisher who sends numbered frames in real time.

package lab

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/rtmp"
)

// A Publisher publishes until it is closed: a video and an audio frame each Step.
type Publisher struct {
	Client *rtmp.Client
	what   Publication
	next   atomic.Int64  // the number of the next frame
	jump   atomic.Uint32 // is added to the timestamps
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// Connect publishes APP/NAME, but sends no frames yet.
func (d *Daemon) Connect(ctx context.Context, path string) (*rtmp.Client, error) {
	at := strings.LastIndexByte(path, '/')
	c, err := rtmp.Dial(ctx, d.URL(path[:at]))
	if err != nil {
		return nil, err
	}
	if err := c.Publish(ctx, path[at+1:], "live"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// A Publication is what is published.
type Publication struct {
	Path  string      // APP/NAME
	First int         // number of the first frame: 0, or a multiple of Epoch
	Size  int         // of each video frame, in bytes
	Start uint32      // the timestamp of the first frame
	Only  media.Track // the only track; 0: both
}

// Publish begins a publication.
func (d *Daemon) Publish(what Publication) (*Publisher, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c, err := d.Connect(ctx, what.Path)
	if err != nil {
		cancel()
		return nil, err
	}
	p := &Publisher{Client: c, what: what, cancel: cancel, done: make(chan struct{})}
	p.next.Store(int64(what.First))
	p.jump.Store(what.Start)
	go func() {
		defer close(p.done)
		p.err = p.run(ctx)
	}()
	return p, nil
}

func (p *Publisher) run(ctx context.Context) error {
	began := time.Now()
	err := p.write(p.jump.Load(), VideoConfig, AudioConfig)
	for n := p.what.First; err == nil; n++ {
		since := time.Duration(n-p.what.First) * Step
		select {
		case <-time.After(time.Until(began.Add(since))):
		case <-ctx.Done():
			return nil
		}
		err = p.write(uint32(since.Milliseconds())+p.jump.Load(), Video(n, p.what.Size), Audio(n, 100))
		if err == nil {
			p.next.Store(int64(n + 1))
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// write sends a message on each track that is published.
func (p *Publisher) write(at uint32, video, audio []byte) (err error) {
	if p.what.Only != media.Audio {
		err = p.Client.WriteMessage(media.Video, at, video)
	}
	if p.what.Only != media.Video && err == nil {
		err = p.Client.WriteMessage(media.Audio, at, audio)
	}
	return err
}

// Sent is how many frames of each track were sent, those before the first included.
func (p *Publisher) Sent() int { return int(p.next.Load()) }

// Jump moves the timestamps from now on.
func (p *Publisher) Jump(by time.Duration) { p.jump.Add(uint32(by.Milliseconds())) }

// Close ends the publication and says what went wrong before.
func (p *Publisher) Close() error {
	p.cancel()
	<-p.done
	_ = p.Client.Close()
	return p.err
}

// Drop breaks the connection in the middle, as a network does.
func (p *Publisher) Drop() {
	_ = p.Client.Close()
	p.cancel()
	<-p.done
}
