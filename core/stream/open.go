// Opening media in a goroutine, so that a player takes events while it waits for
// a publisher or a slow origin.

package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/media"
)

// A purpose is what media are opened for.
type purpose uint8

const (
	toPlay purpose = iota
	toSeek
	toResume
)

// An opening is an Open under way, in a goroutine that whoever ends it waits for.
type opening struct {
	purpose purpose
	cancel  context.CancelFunc
	done    chan result // holds one
}

// A result is what came of an opening: a source and its first batch, or an error.
// Live media that are opened to be played come without a batch, since it may be
// long until there is one.
type result struct {
	purpose purpose
	source  media.Source
	first   *media.Batch
	err     error
	// elsewhere is where the client had better play from, "" for here.
	elsewhere string
	pass      *access.Pass // of what was opened to be played
}

// open starts to open the first of reqs that there is. No other opening is under way.
func (p *player) open(why purpose, reqs ...media.OpenRequest) {
	ctx, cancel := context.WithCancel(p.ctx)
	o := &opening{purpose: why, cancel: cancel, done: make(chan result, 1)}
	p.opening = o
	go func() { o.done <- p.try(ctx, why, reqs) }()
}

// abandon ends the opening under way, and waits for it.
func (p *player) abandon() {
	if p.opening == nil {
		return
	}
	p.opening.cancel()
	r := <-p.opening.done
	if r.source != nil {
		_ = r.source.Close()
	}
	r.pass.Done(0)
	p.opening = nil
}

// try is the goroutine of an opening.
func (p *player) try(ctx context.Context, why purpose, reqs []media.OpenRequest) result {
	r := result{purpose: why}
	if why == toPlay {
		if r.pass, r.err = p.admit(ctx); r.err != nil {
			return r
		}
	}
	for _, req := range reqs {
		var redirect *media.RedirectError
		r.source, r.err = p.openOne(ctx, why, req)
		if req.Redirects && errors.As(r.err, &redirect) { // the client is served until it has gone there
			r.elsewhere, req.Redirects = redirect.URL, false
			r.source, r.err = p.openOne(ctx, why, req)
		}
		if !errors.Is(r.err, media.ErrNotFound) {
			break
		}
	}
	if r.err != nil || r.source.Info().Live && why != toSeek {
		return r
	}
	if r.first, r.err = r.source.Next(ctx); r.err != nil {
		_ = r.source.Close()
		r.err = fmt.Errorf("first frames of %s: %w", r.source.Info().Name, r.err)
		r.source = nil
	}
	return r
}

// admit asks whether the client may play, and lets it be thrown out from now on.
func (p *player) admit(ctx context.Context) (pass *access.Pass, err error) {
	r := p.req
	if pass = r.Pass; pass == nil {
		pass, err = p.stage.guard.Admit(ctx, access.Request{
			Action: access.Play, Protocol: r.Protocol, App: r.App, Name: r.Name, Address: r.Remote, Params: r.Params,
		})
	}
	pass.OnKick(func() { p.cancel(access.ErrKicked) })
	return pass, err
}

// openOne opens req. The position that a client gives with play counts from the
// start of recorded media, but only the open source tells where that is.
func (p *player) openOne(ctx context.Context, why purpose, req media.OpenRequest) (media.Source, error) {
	source, err := p.stage.input.Reader.Open(ctx, req)
	if err != nil || why != toPlay || req.From <= 0 {
		return source, err
	}
	info := source.Info()
	if info.Live || info.Start == 0 {
		return source, nil
	}
	_ = source.Close()
	req.From += info.Start
	return p.stage.input.Reader.Open(ctx, req)
}

// requests are the ways to open what a client asks to play, the best first.
//
// A start of 0 or more asks for recorded media, but librtmp (rtmpdump, VLC, mpv)
// sends 0 whenever it is not told that the stream is live. So where there are no recorded
// media, 0 is live media as they are now, and more is a position in their window.
func requests(r *Request) []media.OpenRequest {
	live := media.OpenRequest{Name: r.Name, From: media.Newest, LiveOnly: true, Redirects: r.Redirects}
	switch {
	case r.Start == StartLive:
		return []media.OpenRequest{live}
	case r.Start < 0:
		return []media.OpenRequest{{Name: r.Name, From: media.Newest, Redirects: r.Redirects}}
	}
	if r.Start > 0 {
		live.From = r.Start
	}
	return []media.OpenRequest{{Name: r.Name, From: r.Start, RecordedOnly: true, Redirects: r.Redirects}, live}
}
