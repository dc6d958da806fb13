package cluster

import _ "github.com/anishathalye/porcupine"
