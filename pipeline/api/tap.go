// Tapping: what one stage gives to its readers, as it comes.

package api

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline/dump"
)

// tap opens a name at a stage as any other reader would, and writes its batches
// until the client leaves or the media end.
func (a *api) tap(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var reader media.Reader
	var stages []string
	for _, s := range a.Stages() {
		if made, ok := s.Made.(media.Reader); ok {
			stages = append(stages, s.String())
			if s.String() == query.Get("stage") {
				reader = made
			}
		}
	}
	if reader == nil {
		fail(w, http.StatusNotFound, "there is no stage %q to be read from, there are %q", query.Get("stage"), stages)
		return
	}
	if err := media.CheckName(query.Get("name")); err != nil {
		fail(w, http.StatusBadRequest, "%v: ask for /api/tap?stage=PIPELINE/STAGE&name=NAME", err)
		return
	}
	format := query.Get("format")
	if format == "" {
		format = "lines"
	}
	// The client may be slow, but not dead, and stays as long as it likes.
	lift(w)
	out := http.NewResponseController(w)
	write, err := dump.Format(format, w)
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	src, err := reader.Open(r.Context(), media.OpenRequest{Name: query.Get("name"), From: media.Newest})
	if errors.Is(err, media.ErrNotFound) {
		fail(w, http.StatusNotFound, "%v", err)
		return
	}
	if err != nil {
		fail(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	defer src.Close()
	for {
		b, err := src.Next(r.Context())
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			_ = out.SetWriteDeadline(time.Now().Add(tapPatience))
			err = errors.Join(write(b), out.Flush())
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the client sees that it is not the end
		}
	}
}

// tapPatience is how long a client may take for one batch.
const tapPatience = 10 * time.Second
