// POST /api/reload: the daemon reads its file again.

package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/mediad/mediad/pipeline"
)

const reloadPath = "/api/reload"

// Refusal is the reply of a reload that has changed nothing.
type Refusal struct {
	Error    string            `json:"error"`
	Problems pipeline.Problems `json:"problems,omitempty"` // of a wrong file
}

func (a *api) reload(w http.ResponseWriter, r *http.Request) {
	// It takes as long as the stages that are stopped take to finish.
	lift(w)
	changes, err := a.Reload(r.Context())
	var problems pipeline.Problems
	switch {
	case err == nil:
		reply(w, http.StatusOK, changes)
	case errors.As(err, &problems):
		reply(w, http.StatusUnprocessableEntity, Refusal{err.Error(), problems})
	case errors.Is(err, pipeline.ErrStopping), errors.Is(err, context.Canceled):
		fail(w, http.StatusServiceUnavailable, "%v", err)
	default:
		fail(w, http.StatusConflict, "%v", err)
	}
}
