// Sending clients to another node (Enhanced RTMP v2, Reconnect Request). They are
// served on until they leave.

package rtmp

import (
	"net"
	"net/url"

	"github.com/mediad/mediad/core/amf"
	rtmpmsg "github.com/yutopp/go-rtmp/message"
)

// sendAway asks the client to connect to another host, or again by the URL that it
// has when host is "". A client that cannot is not asked. It may be called by any goroutine.
func (s *session) sendAway(host string) {
	if !s.follows.Load() || !s.active.Load() {
		return
	}
	info := amf.Object{
		{Key: "level", Value: "status"},
		{Key: "code", Value: "NetConnection.Connect.ReconnectRequest"},
		{Key: "description", Value: "please connect to another server"},
	}
	if there := elsewhere(s.tcURL, host); there != "" {
		info = append(info, amf.Field{Key: "tcUrl", Value: there})
	}
	s.server.metrics.away.Inc()
	if err := s.out.send(csidCommand, rtmpmsg.TypeIDCommandMessageAMF0, 0, amf.Append(nil, "onStatus", 0, nil, info)); err != nil {
		s.end(err)
	}
}

// elsewhere is a tcUrl at another host, with the port and all else as they are. It is ""
// where that cannot be.
func elsewhere(tcURL, host string) string {
	u, err := url.Parse(tcURL)
	if host == "" || err != nil || u.Host == "" {
		return ""
	}
	if port := u.Port(); port != "" {
		u.Host = net.JoinHostPort(host, port)
	} else if u.Host = host; net.ParseIP(host).To4() == nil && net.ParseIP(host) != nil {
		u.Host = "[" + host + "]"
	}
	return u.String()
}

// Redirect implements stream.Redirector.
func (v *viewer) Redirect(to string) error {
	if u, err := url.Parse(to); err == nil {
		v.s.sendAway(u.Hostname())
	}
	return nil
}
