// Tickets: tokens that the daemon makes for whoever runs it, so that the console plays what
// the access of a stage keeps from others.

package access

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// ticketLife is how long a ticket lets one begin to watch: for a look at a film, with pauses.
const ticketLife = time.Hour

// A Tickets makes tickets and knows its own. Each is a token for one name and one address,
// signed with a key that never leaves the process.
type Tickets struct {
	key      []byte
	verifier *verifier
}

// NewTickets returns a maker of tickets, with a key of its own.
func NewTickets() *Tickets {
	key := make([]byte, minSecret)
	_, _ = rand.Read(key) // does not fail
	return &Tickets{key, verify(key, "HS256")}
}

// Issue returns a ticket for who may see everything, and is at an address: to watch a name,
// as APP/NAME, for an hour.
func (t *Tickets) Issue(name string, a netip.Addr) (string, error) {
	c := claims{Name: name, Address: a.Unmap().String()}
	c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(ticketLife))
	ticket, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(t.key)
	if err != nil {
		return "", fmt.Errorf("ticket for %s: %w", name, err)
	}
	return ticket, nil
}

// Admit returns the pass of who shows a ticket for what is asked, and nil for all others. No
// guard needs to be asked then, and none counts them.
func (t *Tickets) Admit(r Request) *Pass {
	if t == nil || r.Action != Play || !r.Params.Has("token") {
		return nil
	}
	c, err := t.verifier.read(r)
	if err != nil || c.Name != r.target() || c.from(r.Address.Unmap()) != nil {
		return nil
	}
	return new(Pass)
}
