// Who fetches files: HLS and recorded MP4. Such a viewer is no connection but a row of
// requests, and is let in once for all of them.

package web

import (
	"context"
	"math"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mediad/mediad/core/access"
	"github.com/mediad/mediad/core/stream"
)

// maxVisits is how many viewers of files an app has at a time.
const maxVisits = 10_000

// A visitor is what tells the requests of one viewer from those of another, as far
// as HTTP lets one.
type visitor struct {
	form  Form
	name  string
	addr  netip.Addr
	agent string
	token string
}

// A visit lasts from the first request of a visitor until none has come for Limits.Idle.
type visit struct {
	app   *app
	who   visitor
	pass  *access.Pass
	bytes atomic.Int64
	idle  *time.Timer // runs while uses is 0

	// Guarded by app.mu.
	uses int // requests under way
}

// visit lets the client of a request in. The visit is to be left.
func (a *app) visit(r *http.Request, form Form, name string) (*visit, error) {
	req := a.request(r, name)
	who := visitor{form, name, req.Remote, r.UserAgent(), req.Params.Get("token")}
	if v := a.enter(who, nil); v != nil {
		return v, nil
	}
	pass, err := a.admit(r.Context(), req, form)
	if err != nil {
		return nil, err
	}
	v := a.enter(who, func() *visit { return &visit{app: a, who: who, pass: pass} })
	switch {
	case v == nil:
		pass.Done(0)
		return nil, &httpError{http.StatusServiceUnavailable, "there are too many viewers"}
	case v.pass != pass: // another request of the same visitor was faster
		pass.Done(0)
	default:
		pass.OnKick(v.kick)
	}
	return v, nil
}

// admit lets in who asks for files.
func (a *app) admit(ctx context.Context, r stream.Request, form Form) (*access.Pass, error) {
	if r.Pass != nil || a.Admit == nil {
		return r.Pass, nil
	}
	return a.Admit(ctx, access.Request{
		Action: access.Play, Protocol: string(form), App: r.App, Name: r.Name, Address: r.Remote, Params: r.Params,
	})
}

// enter returns the visit of who for one more request. When there is none, it is made; nil
// when it cannot be.
func (a *app) enter(who visitor, make func() *visit) *visit {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.visits[who]
	if v == nil {
		if make == nil || len(a.visits) >= maxVisits || a.ctx.Err() != nil {
			return nil
		}
		v = make()
		v.idle = time.AfterFunc(a.server.limits.Idle, v.end)
		a.visits[who] = v
	}
	v.idle.Stop()
	v.uses++
	return v
}

// leave ends a request of v.
func (v *visit) leave() {
	v.app.mu.Lock()
	defer v.app.mu.Unlock()
	if v.uses--; v.uses == 0 && v.app.visits[v.who] == v {
		v.idle.Reset(v.app.server.limits.Idle)
	}
}

// handOver gives the pass of a visit that has just begun to a player, which gives it
// back. It returns nil when the visit has other requests.
func (v *visit) handOver() *access.Pass { return v.over(1) }

// end ends v when its visitor has been away for long enough.
func (v *visit) end() { v.over(0).Done(v.bytes.Load()) }

// kick ends v. Its visitor has no connection to be ended, but must be let in anew.
func (v *visit) kick() { v.over(math.MaxInt).Done(v.bytes.Load()) }

// over ends v if so many requests are under way at the most, and returns its pass; nil when there are
// more, or it has ended.
func (v *visit) over(uses int) *access.Pass {
	v.app.mu.Lock()
	defer v.app.mu.Unlock()
	if v.uses > uses || v.app.visits[v.who] != v {
		return nil
	}
	v.idle.Stop()
	delete(v.app.visits, v.who)
	return v.pass
}

// endVisits ends all, when no requests are left.
func (a *app) endVisits() {
	a.mu.Lock()
	visits := a.visits
	a.visits = map[visitor]*visit{}
	a.mu.Unlock()
	for _, v := range visits {
		v.idle.Stop()
		v.pass.Done(v.bytes.Load())
	}
}

// A counted response counts its body for a visit.
type counted struct {
	http.ResponseWriter
	visit *visit
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.visit.bytes.Add(int64(n))
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
