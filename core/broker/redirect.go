// Sending clients to a node that serves them better.

package broker

import (
	"context"
	"net"
	"net/url"
	"strings"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// elsewhere returns a *media.RedirectError when the client can follow one and another
// node serves it at so much less of the cost as the settings say. To serve it here costs what
// the best candidate does, and this node's own load; there it costs what is asked for it
// from here, the way included: moving is not for free either. The URL has the node and the
// name alone; protocol, port and application are those that the client came by.
func (b *broker) elsewhere(ctx context.Context, req media.OpenRequest, candidates []candidate) error {
	if b.redirect == 0 || b.nodes == nil || !req.Redirects || req.Peer != "" || candidates[0].err != nil {
		return nil
	}
	here := candidates[0].total + b.weights.Total(media.Cost{Load: b.nodes.Load()})
	var best *candidate
	for i := range candidates {
		c := &candidates[i]
		if c.err == nil && c.cost.Node != "" && c.live() == candidates[0].live() && (best == nil || c.total < best.total) {
			best = c
		}
	}
	if best == nil || here < b.redirect*best.total {
		return nil
	}
	peer, ok := b.peer(ctx, req.Name, best)
	if !ok {
		return nil
	}
	host, _, err := net.SplitHostPort(peer.Address)
	if err != nil {
		return nil
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	there := url.URL{Host: host, Path: "/" + req.Name}
	return &media.RedirectError{URL: there.String()}
}

// peer is the node that a candidate comes from.
func (b *broker) peer(ctx context.Context, name string, c *candidate) (stage.Peer, bool) {
	peers, err := b.nodes.Peers(ctx, name, c.live())
	if err != nil {
		return stage.Peer{}, false
	}
	for _, p := range peers {
		if p.Name == c.cost.Node {
			return p, true
		}
	}
	return stage.Peer{}, false
}
