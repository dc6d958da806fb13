// What both sides must agree on before they can talk.

package wire

import goplugin "github.com/hashicorp/go-plugin"

// Version of the protocol that stage.proto describes.
const Version = 1

// Handshake is how a plugin knows that it was started by a daemon.
var Handshake = goplugin.HandshakeConfig{MagicCookieKey: "MEDIAD_PLUGIN", MagicCookieValue: "1"}

// LogLevel is the environment variable with the level from which on the daemon
// wants a plugin's log lines.
const LogLevel = "MEDIAD_PLUGIN_LOG"
