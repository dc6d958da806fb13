// What a reader has, for people who look.

package media

import (
	"context"
	"time"
)

// An Entry is one piece of recorded media in a listing.
type Entry struct {
	Name     string    `json:"name"` // as in OpenRequest
	Size     int64     `json:"size"` // in bytes
	Modified time.Time `json:"modified"`
}

// MaxEntries is how many a listing has at the most.
const MaxEntries = 10_000

// A Lister is a Reader that knows what it has. List returns up to MaxEntries,
// the newest first.
type Lister interface {
	List(ctx context.Context) ([]Entry, error)
}
