package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/page"
)

// TestStaticPeers runs two nodes that know each other's address and have no cluster, with the file of
// docs/cluster.md.
func TestStaticPeers(t *testing.T) {
	t.Parallel()
	var config string
	for _, b := range page.Read(t, "../../docs/cluster.md") {
		if b.File == "static.yaml" {
			config = strings.NewReplacer(
				`http: "127.0.0.1:8080"`, `http: ":8080", token: `+token,
				"- use: ingest\n      with: {app: live}", "- use: ingest\n      with: {app: live, allow: [0.0.0.0/0], linger: 1s}",
			).Replace(b.Text)
		}
	}
	l := newLab(t, 2)
	var nodes []*node
	for i, h := range l.hosts {
		peer := l.hosts[1-i]
		nodes = append(nodes, h.node(strings.NewReplacer("${ADDRESS}", h.address, "${PEER}", peer.address).Replace(config)))
	}
	for _, n := range nodes {
		n.run()
	}
	p := nodes[0].publish(show{"show", 'a', bits})
	crossing := nodes[0].listen(false)
	all := append(nodes[1].crowd("show", 10), nodes[0].watch("show"))
	began := time.Now()
	for _, v := range all {
		v.from('a', began.Add(5*time.Second))
	}
	sent := p.sent()
	for _, v := range all {
		v.whole(time.Time{})
	}
	if got := crossing.port(mediaPort).payload; got > sent*11/10 {
		t.Errorf("%d bytes have crossed for ten viewers, of %d published", got, sent)
	}
	// Without a publisher neither keeps the channel on air for the other.
	p.end()
	for _, v := range all {
		v.ends()
	}
	// A film of the one is watched on the other.
	shoot(t, nodes[0].path("media", "film.flv"), 250, 5000)
	if err := nodes[1].download("film", 250); err != nil {
		t.Error(err)
	}
}
