package access

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestTickets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tickets := NewTickets()
		ticket, err := tickets.Issue("live/show[1]", netip.MustParseAddr("::ffff:192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		other, _ := NewTickets().Issue("live/show[1]", netip.MustParseAddr("192.0.2.1"))
		forged := sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{
			"name": "live/show[1]", "address": "192.0.2.1", "exp": time.Now().Add(time.Hour).Unix()})
		for name, c := range map[string]struct {
			request Request
			want    bool
		}{
			"right":         {watch("show[1]", "192.0.2.1", ticket), true},
			"none":          {watch("show[1]", "192.0.2.1", ""), false},
			"other name":    {watch("show1", "192.0.2.1", ticket), false},
			"other address": {watch("show[1]", "192.0.2.2", ticket), false},
			"other process": {watch("show[1]", "192.0.2.1", other), false},
			"forged":        {watch("show[1]", "192.0.2.1", forged), false},
		} {
			if pass := tickets.Admit(c.request); (pass != nil) != c.want {
				t.Errorf("%s: %v", name, pass)
			}
		}
		publish := watch("show[1]", "192.0.2.1", ticket)
		publish.Action = Publish
		if tickets.Admit(publish) != nil {
			t.Error("a ticket lets one publish")
		}
		var none *Tickets
		if none.Admit(watch("show[1]", "192.0.2.1", ticket)) != nil {
			t.Error("where there are no tickets one lets in")
		}
		tickets.Admit(watch("show[1]", "192.0.2.1", ticket)).Done(1) // which nobody is told
		time.Sleep(ticketLife + leeway)
		if tickets.Admit(watch("show[1]", "192.0.2.1", ticket)) != nil {
			t.Error("a ticket lets in after its time")
		}
	})
}
