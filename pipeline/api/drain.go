// POST /api/drain: the daemon takes no new clients, and stops when those that it has
// are gone.

package api

import (
	"errors"
	"net/http"
	"time"

	corestage "github.com/mediad/mediad/core/stage"
)

const drainPath = "/api/drain"

// ErrDraining is what Options.Drain returns when it was called before.
var ErrDraining = errors.New("the daemon is draining already")

// Drained is the reply of /api/drain. The daemon stops now.
type Drained struct {
	// Left are the clients that were still there when the time was over.
	Left int `json:"left"`
	// Took is in seconds.
	Took float64 `json:"took_seconds"`
}

func (a *api) drain(w http.ResponseWriter, r *http.Request) {
	var within time.Duration
	if text := r.URL.Query().Get("for"); text != "" {
		var err error
		if within, err = corestage.ParseDuration(text); err != nil {
			fail(w, http.StatusBadRequest, "for: %v", err)
			return
		}
	}
	// It takes as long as the clients stay.
	lift(w)
	began := time.Now()
	left, err := a.Drain(within)
	if err != nil {
		fail(w, http.StatusConflict, "%v", err)
		return
	}
	reply(w, http.StatusOK, Drained{left, time.Since(began).Seconds()})
}
