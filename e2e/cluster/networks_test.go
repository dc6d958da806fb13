// Hosts with several networks.

package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/pipeline/api"
)

// TestTwoNetworks has nodes that listen at all addresses, and no way between them by the network that comes
// first on each host: they are found by that of the directory.
func TestTwoNetworks(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	var nodes []*node
	for i, h := range l.hosts {
		h.cut()
		role := []string{"member", "client"}[i]
		nodes = append(nodes, h.node(strings.NewReplacer(
			"NAME", h.name, `"ADDRESS:`, `":`, "JOIN", fmt.Sprintf("%q", l.hosts[0].public+":4222"), "ROLE", role,
		).Replace(serviceConfig)))
	}
	together(t, nodes)
	for _, n := range nodes {
		var list []api.Node
		if err := n.get("/api/nodes", &list); err != nil {
			t.Fatal(err)
		}
		for i, m := range list {
			if want := l.hosts[i].public + ":4100"; m.Repeater != want {
				t.Errorf("%s finds %s at %q, want %q", n.name, m.Name, m.Repeater, want)
			}
		}
	}
	nodes[0].publish(show{"show", 'a', bits})
	nodes[1].knows("show", nodes[0])
	nodes[1].watch("show").from('a', time.Now())
}
