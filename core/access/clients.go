// Who is there, and throwing them out.

package access

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// A Client is one whom a guard has let in, and who has not left.
type Client struct {
	ID       int64      `json:"id"` // among those of the guard, from 1 on
	Action   Action     `json:"action"`
	Protocol string     `json:"protocol"` // rtmp, flv, hls, mp4
	Name     string     `json:"name"`     // APP/NAME
	Address  netip.Addr `json:"address"`
	Since    time.Time  `json:"since"`
	// Kickable says that it can be thrown out: who is waiting for the callback's answer cannot.
	Kickable bool `json:"kickable"`
}

// ErrKicked is why the connection of a client that was thrown out ends.
var ErrKicked = errors.New("thrown out by who runs the server")

// Clients lists those who are there, in the order in which they came. Who has a ticket is not
// among them.
func (g *Guard) Clients() []Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]Client, 0, len(g.passes))
	for p := range g.passes {
		list = append(list, p.client())
	}
	slices.SortFunc(list, func(a, b Client) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Kick asks which about each client, throws out those of them that are kickable, and returns how many that
// are: their connections are ended, and who fetches files (HLS, recorded MP4), which needs no connection that
// stays, must be let in anew. Nothing keeps a client from coming again.
func (g *Guard) Kick(which func(Client) bool) int {
	var kicks []func()
	g.mu.Lock()
	for p := range g.passes {
		if which(p.client()) && p.kick != nil {
			kicks = append(kicks, p.kick)
		}
	}
	g.mu.Unlock()
	for _, kick := range kicks {
		kick()
	}
	return len(kicks)
}

// OnKick says how the client is thrown out. kick is called by any goroutine, perhaps after
// Done, and does not wait. Only on a pass of a guard does it anything.
func (p *Pass) OnKick(kick func()) {
	if p == nil || p.guard == nil {
		return
	}
	p.guard.mu.Lock()
	defer p.guard.mu.Unlock()
	p.kick = kick
}

// client describes who has p. It is called with the guard locked.
func (p *Pass) client() Client {
	r := p.request
	return Client{
		ID: p.id, Action: r.Action, Protocol: r.Protocol, Name: r.target(), Address: r.Address, Since: p.since,
		Kickable: p.kick != nil,
	}
}
