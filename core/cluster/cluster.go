// Package cluster is what a node knows of the other nodes, and what they know of
// it: who is there, how busy each is, which channels are on air where, and who
// may publish a name.
package cluster

import (
	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"

	_ "github.com/nats-io/nats-server/v2/server"
	_ "github.com/nats-io/nats.go"
	_ "github.com/nats-io/nats.go/jetstream"
)

var _ stage.Nodes
var _ hclog.Logger
var _ prometheus.Registerer
