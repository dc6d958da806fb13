// Who publishes and watches here, and throwing them out: GET /api/clients and POST /api/kick.

package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"

	"github.com/mediad/mediad/core/access"
)

const kickPath = "/api/kick"

// Client is a line of /api/clients.
type Client struct {
	ID string `json:"id"` // PIPELINE/STAGE:NUMBER
	access.Client
}

// Kicked is the reply of /api/kick.
type Kicked struct {
	// Kicked are the clients that are thrown out.
	Kicked int `json:"kicked"`
	// Left are those who were meant, too, and are still waiting to be let in.
	Left int `json:"left"`
}

// host is a stage that has clients: one that takes publishers, or plays to viewers.
type host interface {
	Clients() []access.Client
	// Kick asks which about each client, and throws out those of them that are kickable.
	Kick(which func(access.Client) bool) int
}

// clientFilter is which clients a request is about.
type clientFilter struct {
	ids     []string      // none: all
	name    string        // APP/NAME; "": all
	action  access.Action // "": both
	address netip.Addr    // the zero one: all
}

// filterOf reads the filter in a query.
func filterOf(q url.Values) (f clientFilter, err error) {
	f = clientFilter{ids: q["id"], name: q.Get("name"), action: access.Action(q.Get("action"))}
	switch f.action {
	case "", access.Publish, access.Play:
	default:
		return f, fmt.Errorf("action: %q is neither %s nor %s", f.action, access.Publish, access.Play)
	}
	if text := q.Get("address"); text != "" {
		if f.address, err = netip.ParseAddr(text); err != nil {
			return f, fmt.Errorf("address: %q is no IP address", text)
		}
		f.address = f.address.Unmap()
	}
	return f, nil
}

// narrow reports whether f tells some clients from the others.
func (f clientFilter) narrow() bool { return len(f.ids) > 0 || f.name != "" || f.address.IsValid() }

func (f clientFilter) has(stage string, c access.Client) bool {
	return (len(f.ids) == 0 || slices.Contains(f.ids, idOf(stage, c))) && (f.name == "" || f.name == c.Name) &&
		(f.action == "" || f.action == c.Action) && (!f.address.IsValid() || f.address == c.Address)
}

func idOf(stage string, c access.Client) string { return fmt.Sprintf("%s:%d", stage, c.ID) }

func (a *api) clients(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	list := []Client{}
	for _, s := range a.Stages() {
		h, ok := s.Made.(host)
		if !ok {
			continue
		}
		for _, c := range h.Clients() {
			if f.has(s.String(), c) {
				list = append(list, Client{idOf(s.String(), c), c})
			}
		}
	}
	reply(w, http.StatusOK, list)
}

// errAll is the answer to who would throw out everybody by leaving something out.
var errAll = errors.New("whom? Say id=ID, as /api/clients has it, name=APP/NAME or address=IP, and with these perhaps action=publish or play")

func (a *api) kick(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f, err := filterOf(q)
	if err == nil && !f.narrow() {
		err = errAll
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	var k Kicked
	for _, s := range a.Stages() {
		h, ok := s.Made.(host)
		if !ok {
			continue
		}
		k.Kicked += h.Kick(func(c access.Client) bool {
			meant := f.has(s.String(), c)
			if meant && !c.Kickable {
				k.Left++
			}
			return meant
		})
	}
	if k == (Kicked{}) {
		fail(w, http.StatusNotFound, "there is no such client: /api/clients lists those who are there")
		return
	}
	a.Log.Info("clients are thrown out", "ids", f.ids, "name", f.name, "action", f.action, "address", q.Get("address"),
		"by", r.RemoteAddr, "kicked", k.Kicked, "left", k.Left)
	reply(w, http.StatusOK, k)
}
