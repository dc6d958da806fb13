// The side that reads: which peer media are opened from.

package repeatertcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
)

// maxDepth is how many nodes live media should come through at the most.
const maxDepth = 3

// A pace is how long this side waits for what. Tests have one of their own.
type pace struct {
	beat     time.Duration // between two beats
	silent   time.Duration // after which a parent without a sign is lost
	stalled  time.Duration // the same for recorded media
	orphaned time.Duration // after which a parent that has no media itself is to be left
	ask      time.Duration // for peers to tell their costs
	find     time.Duration // for a new parent to come to the place of the old one
	retry    time.Duration // about, between two rounds of looking for a parent
	patience time.Duration // after which none is looked for any more
	compare  time.Duration // about, between two looks for a cheaper parent
}

var usualPace = pace{
	beat:     250 * time.Millisecond,
	silent:   time.Second,
	stalled:  5 * time.Second,
	orphaned: 1500 * time.Millisecond,
	ask:      500 * time.Millisecond,
	find:     2 * time.Second,
	retry:    150 * time.Millisecond,
	patience: 10 * time.Second,
	compare:  5 * time.Second,
}

// A candidate is a peer that may have media.
type candidate struct {
	peer stage.Peer
	req  media.OpenRequest // that it is asked
	cost media.Cost
	deep bool  // live media would come through too many nodes by it, here or to those that have them from here
	err  error // why it cannot serve
}

// ask asks all peers but the one at the address without for their costs of req, and returns them in the order in which they are to be
// tried: those that cannot serve last, live media before recorded, channels that have come through too many nodes
// after the others, and else the cheapest first.
func (r *repeater) ask(ctx context.Context, req media.OpenRequest, without string) ([]candidate, error) {
	list, err := r.peers(ctx, req)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(c candidate) bool { return c.peer.Address == without })
	within, cancel := context.WithTimeout(ctx, r.pace.ask)
	defer cancel()
	var asking sync.WaitGroup
	for i := range list {
		asking.Go(func() { r.askOne(within, &list[i]) })
	}
	asking.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	height := r.height(list)
	for i := range list {
		list[i].deep = list[i].cost.Depth+height >= maxDepth
	}
	slices.SortStableFunc(list, func(x, y candidate) int {
		return cmp.Or(
			falseFirst(x.err != nil, y.err != nil),
			-falseFirst(x.cost.Place == placeLive, y.cost.Place == placeLive),
			falseFirst(x.deep, y.deep),
			cmp.Compare(x.cost.Total(), y.cost.Total()))
	})
	return list, nil
}

// height is how many nodes have a channel through this one, one after the other, as far as the cluster tells.
func (r *repeater) height(list []candidate) (height int) {
	for _, c := range list {
		if i := slices.Index(c.peer.Path, r.self); i >= 0 {
			height = max(height, len(c.peer.Path)-1-i)
		}
	}
	return height
}

func falseFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return 1
	}
	return -1
}

// peers returns the peers that can be asked for req.
func (r *repeater) peers(ctx context.Context, req media.OpenRequest) ([]candidate, error) {
	var list []candidate
	if len(r.settings.Peers) > 0 || r.nodes == nil {
		for _, address := range r.settings.Peers {
			list = append(list, candidate{peer: stage.Peer{Address: address}, req: req})
		}
		return list, nil
	}
	add := func(live bool) error {
		peers, err := r.nodes.Peers(ctx, req.Name, live)
		if err != nil {
			return fmt.Errorf("%w: which nodes have %s: %w", media.ErrUnavailable, req.Name, err)
		}
		of := req
		of.LiveOnly, of.RecordedOnly = live, !live
		for _, p := range peers {
			if p.Address != "" { // else it serves nobody
				list = append(list, candidate{peer: p, req: of})
			}
		}
		return nil
	}
	if !req.RecordedOnly {
		if err := add(true); err != nil {
			return nil, err
		}
	}
	if !req.LiveOnly {
		if err := add(false); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// askOne asks one peer.
func (r *repeater) askOne(ctx context.Context, c *candidate) {
	c.cost.Node = c.peer.Name
	if slices.Contains(c.peer.Path, r.self) {
		c.err = fmt.Errorf("%w: %w", media.ErrUnavailable, errLoop)
		return
	}
	cost, node, err := r.links.get(c.peer.Address).ask(ctx, c.req)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %s has not answered within %v", media.ErrUnavailable, c.peer.Address, r.pace.ask)
	}
	cost.Node = cmp.Or(node, c.peer.Name, c.peer.Address)
	cost.Depth = max(cost.Depth, len(c.peer.Path)-1)
	cost.Load = max(cost.Load, c.peer.Load)
	c.cost, c.err = cost, err
	switch {
	case err != nil:
	case node == r.self:
		c.err = fmt.Errorf("%w: it is this node", media.ErrUnavailable)
	default:
		c.err = cost.Err()
	}
}

// Open implements media.Reader.
func (r *repeater) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	if req.Peer != "" {
		return nil, errThird(req)
	}
	list, err := r.ask(ctx, req, "")
	if err != nil {
		return nil, err
	}
	for i := range list {
		c := &list[i]
		if c.err != nil {
			break // those that can are before it
		}
		up, err := r.open(ctx, c.peer.Address, c.req)
		if err == nil {
			return r.source(req, up)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c.err = err
	}
	return nil, verdict(req.Name, list)
}

var errLoop = errors.New("it comes through this node")

// errThird is the answer to a peer that asks for what others have.
func errThird(req media.OpenRequest) error {
	return fmt.Errorf("%s: peers are not asked for peers: %w", req.Name, media.ErrNotFound)
}

// Cost implements media.Coster.
func (r *repeater) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	if req.Peer != "" {
		return media.Cost{}, errThird(req)
	}
	list, err := r.ask(ctx, req, "")
	if err != nil {
		return media.Cost{}, err
	}
	if len(list) > 0 && list[0].err == nil {
		return list[0].cost, nil
	}
	return media.Cost{}, verdict(req.Name, list)
}

// Explain implements media.Explainer.
func (r *repeater) Explain(ctx context.Context, req media.OpenRequest) ([]media.Candidate, error) {
	if req.Peer != "" {
		return nil, errThird(req)
	}
	list, err := r.ask(ctx, req, "")
	if err != nil {
		return nil, err
	}
	var told []media.Candidate
	for i, c := range list {
		d := media.Candidate{Source: r.name, Cost: c.cost, Total: c.cost.Total(), Chosen: i == 0 && c.err == nil}
		switch {
		case c.err != nil:
			d.Note = c.err.Error()
		case c.cost.Place == placeLive && len(c.peer.Path) > 1:
			d.Note = "on air, comes by " + strings.Join(c.peer.Path, ", ")
		case c.cost.Place == placeLive:
			d.Note = "on air"
		}
		told = append(told, d)
	}
	return told, nil
}

// verdict is the error of media that no peer can serve. It wraps the one of package media that leaves most hope.
func verdict(name string, list []candidate) error {
	is := media.ErrNotFound
	var said []string
	for _, c := range list {
		var redirect *media.RedirectError
		switch {
		case errors.As(c.err, &redirect):
			return c.err
		case errors.Is(c.err, media.ErrNotFound):
		case errors.Is(c.err, media.ErrDenied):
			if errors.Is(is, media.ErrNotFound) {
				is = media.ErrDenied
			}
		default:
			is = media.ErrUnavailable
		}
		said = append(said, fmt.Sprintf("%s: %v", c.cost.Node, c.err))
	}
	if said == nil {
		return fmt.Errorf("%s: no other node may have it: %w", name, is)
	}
	return fmt.Errorf("%s at other nodes: %w (%s)", name, is, strings.Join(said, "; "))
}
