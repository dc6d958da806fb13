// Which app and which media a client means: clients divide a URL between the two
// in different ways, and put queries into either.

package rtmp

import (
	"net/url"
	"strings"

	"github.com/mediad/mediad/core/media"
)

// splitQuery divides "name?a=1&b=2".
func splitQuery(s string) (path string, params url.Values) {
	path, query, _ := strings.Cut(s, "?")
	params, _ = url.ParseQuery(query) // what cannot be understood is left out
	return path, params
}

// An address is what a client connects to: the app that is served, and what
// its URL says beyond that.
type address struct {
	app    string
	prefix string // of all names: "x" where the client's app is "live/x" and "live" is served
	params url.Values
}

// resolve finds the longest app that served has in the app and the tcUrl of connect.
func resolve(app, tcURL string, served func(app string) bool) (address, bool) {
	path, params := splitQuery(app)
	if len(params) == 0 {
		_, params = splitQuery(tcURL)
	}
	path = strings.Trim(path, "/")
	a := address{app: path, params: params}
	for !served(a.app) {
		i := strings.LastIndexByte(a.app, '/')
		if i < 0 {
			return address{app: path}, false
		}
		a.app, a.prefix = path[:i], path[i+1:]
	}
	return a, true
}

// name returns the name and the parameters that a client means by the name in
// play or publish.
func (a address) name(s string) (string, url.Values, error) {
	name, params := splitQuery(s)
	for _, scheme := range []string{"flv:", "mp4:", "mp3:"} {
		name = strings.TrimPrefix(name, scheme)
	}
	name = strings.TrimPrefix(name, "/")
	switch {
	case name == "": // all was in the app
		name = a.prefix
	case a.prefix != "":
		name = a.prefix + "/" + name
	}
	return name, merge(params, a.params), media.CheckName(name)
}

// merge returns the values of both, those of first before those of second.
func merge(first, second url.Values) url.Values {
	all := make(url.Values, len(first)+len(second))
	for _, values := range []url.Values{first, second} {
		for k, v := range values {
			all[k] = append(all[k], v...)
		}
	}
	return all
}
