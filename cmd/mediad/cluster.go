// The daemon as a node of a cluster.

package main

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/mediad/mediad/core/broadcast"
	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/media"
)

// directory is the cluster as broadcasts know it.
type directory struct{ *cluster.Cluster }

// Claim implements broadcast.Directory.
func (d directory) Claim(name string, takeover bool) (broadcast.Claim, error) {
	c, err := d.Cluster.Claim(name, takeover)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Hold implements broadcast.Directory.
func (d directory) Hold(name string) broadcast.Holding { return d.Cluster.Hold(name) }

// address is where l listens, "" when there is none.
func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// elsewhere is the host of another node that clients may be sent to, one of those
// that have room for them; "" when there is none.
func (d *daemon) elsewhere() string {
	if d.cluster == nil {
		return ""
	}
	list := slices.DeleteFunc(d.cluster.Nodes(), func(n cluster.Node) bool {
		return n.Self || n.State != cluster.Alive || n.RTMP == "" || n.Load.Max() >= media.Overloaded
	})
	if len(list) == 0 {
		return ""
	}
	host, _, _ := net.SplitHostPort(list[rand.IntN(len(list))].RTMP)
	return host
}

// The pauses before the daemon takes part in its cluster again, when that has failed.
const (
	minRejoin = time.Second
	maxRejoin = 30 * time.Second
)

// join takes part in the cluster until ctx ends. All that the node does goes on when
// it cannot, so no error is one of the daemon.
func (d *daemon) join(ctx context.Context) {
	wait := minRejoin
	for {
		err := d.cluster.Serve(ctx)
		if ctx.Err() != nil {
			if err != nil {
				d.log.Error("the cluster was not left in order", "error", err)
			}
			return
		}
		d.log.Error("no part in the cluster, the node goes on alone and tries again", "in", wait, "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, maxRejoin)
	}
}
