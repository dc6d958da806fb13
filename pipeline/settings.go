// Settings: what stands under `with`, and the daemon's own, checked against their
// description.

package pipeline

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mediad/mediad/core/cluster"
	"github.com/mediad/mediad/core/stage"
	"gopkg.in/yaml.v3"
)

// Listen is where the daemon listens; nowhere when an address is empty.
type Listen struct {
	RTMP        string `set:"rtmp" doc:"address for publishers and players"`
	RTMPS       string `set:"rtmps" doc:"the same with TLS"`
	HTTP        string `set:"http" doc:"address for watching over HTTP, the console, metrics and the API"`
	HTTPS       string `set:"https" doc:"the same with TLS"`
	Cert        string `set:"cert" doc:"file with the certificate chain (PEM) of rtmps and https; read again when it changes"`
	Key         string `set:"key" doc:"file with its key (PEM)"`
	Connections int    `set:"connections" doc:"how many RTMP connections there may be at a time, and as many viewers over HTTP"`
	Token       string `set:"token" doc:"lets other machines use the console, metrics and the API, which are for this machine alone without it"`
}

// maxConnections is how many descriptors Linux gives to one process as it comes (fs.nr_open).
const maxConnections = 1 << 20

// minToken is the shortest token in bytes.
const minToken = 16

// Check implements stage.Checker.
func (l *Listen) Check() error {
	errs := []error{
		checkAddress("rtmp", l.RTMP), checkAddress("rtmps", l.RTMPS),
		checkAddress("http", l.HTTP), checkAddress("https", l.HTTPS),
	}
	if l.RTMPS+l.HTTPS != "" {
		if l.Cert == "" {
			errs = append(errs, stage.Wrong("cert", "is missing: rtmps and https need a certificate"))
		}
		if l.Key == "" {
			errs = append(errs, stage.Wrong("key", "is missing: rtmps and https need the key of the certificate"))
		}
	}
	if l.Connections < 1 || l.Connections > maxConnections {
		errs = append(errs, stage.Wrong("connections", "is %d, allowed are 1 to %d", l.Connections, maxConnections))
	}
	if l.Token != "" && len(l.Token) < minToken {
		errs = append(errs, stage.Wrong("token", "is %d bytes long, which can be guessed: use at least %d (openssl rand -hex 16)", len(l.Token), minToken))
	}
	return errors.Join(errs...)
}

func checkAddress(setting, addr string) error {
	if addr == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return stage.Wrong(setting, `%q is not an address such as ":1935" or "127.0.0.1:8080"`, addr)
	}
	return nil
}

// Loopback reports whether only this machine can reach a listener on addr.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// Log is how the daemon logs.
type Log struct {
	Level  string `set:"level" doc:"trace, debug, info, warn or error"`
	Format string `set:"format" doc:"text or json"`
}

// Check implements stage.Checker.
func (l *Log) Check() error {
	return errors.Join(
		checkChoice("level", l.Level, "trace", "debug", "info", "warn", "error"),
		checkChoice("format", l.Format, "text", "json"))
}

func checkChoice(setting, value string, choices ...string) error {
	if slices.Contains(choices, value) {
		return nil
	}
	return stage.Wrong(setting, "%q is not one of %s%s", value, strings.Join(choices, ", "), didYouMean(value, choices))
}

// Plugins says where the plugins are.
type Plugins struct {
	Dir string `set:"dir" doc:"a folder in which each executable is a kind, by its file name"`
}

// general is what is set at the top of the file itself.
type general struct {
	Drain time.Duration `set:"drain" doc:"how long a stage may take to finish its work at the end"`
	Pprof bool          `set:"pprof" doc:"serve /debug/pprof, on a loopback address only"`
}

var (
	listenKind  = stage.Kind{Settings: func() any { return &Listen{RTMP: ":1935", Connections: 10_000} }}
	pluginsKind = stage.Kind{Settings: func() any { return &Plugins{} }}
	logKind     = stage.Kind{Settings: func() any { return &Log{Level: "info", Format: "text"} }}
	clusterKind = stage.Kind{Settings: func() any { c := cluster.DefaultConfig(); return &c }}
	generalKind = stage.Kind{Settings: func() any { return &general{Drain: 10 * time.Second} }}
)

// settings reads a mapping of settings.
func (p *parser) settings(n *yaml.Node, where, what string) []pair {
	if isEmpty(n) {
		return nil
	}
	return p.pairs(n, where, what)
}

// flat returns the settings that are given to a kind with those of each group side by
// side, called GROUP.NAME.
func (p *parser) flat(k stage.Kind, given []pair, where string) []pair {
	groups := map[string]bool{}
	for _, s := range k.Describe() {
		if group, _, ok := strings.Cut(s.Name, "."); ok {
			groups[group] = true
		}
	}
	var list []pair
	for _, kv := range given {
		if !groups[kv.key] {
			list = append(list, kv)
			continue
		}
		for _, in := range p.settings(kv.value, where, kv.key) {
			list = append(list, pair{kv.key + "." + in.key, in.at, in.value})
		}
	}
	return list
}

// decode fills the settings of a kind from what is given, and returns the defaults
// when that is wrong. What is missing is reported at owner.
func (p *parser) decode(k stage.Kind, given []pair, owner pos, where string) any {
	var names []string
	for _, s := range k.Describe() {
		names = append(names, s.Name)
	}
	values := map[string]any{}
	positions := map[string]pos{}
	misspelt := false
	for _, kv := range given {
		if !slices.Contains(names, kv.key) {
			p.wrong(kv.at, where, "unknown setting %q%s", kv.key, nearestOrAll(kv.key, names))
			misspelt = true
			continue
		}
		if value, ok := p.value(kv, where); ok {
			values[kv.key], positions[kv.key] = value, at(kv.value)
		}
	}
	required := map[string]bool{}
	for _, s := range k.Describe() {
		required[s.Name] = s.Required
		if _, ok := find(given, s.Name); s.Required && !ok && !misspelt {
			p.wrong(owner, where, "the setting %s is missing (%s)", s.Name, s.Doc)
		}
	}
	settings, err := k.Decode(values)
	if err == nil {
		return settings
	}
	for _, e := range each(err) {
		name := settingOf(e)
		position, ok := positions[name]
		_, unread := find(given, name)
		switch {
		case ok:
			p.wrong(position, where, "%v", e)
		case name != "" && (unread || required[name] || misspelt): // reported above
		default:
			p.wrong(owner, where, "%v", e)
		}
	}
	if k.Settings == nil {
		return nil
	}
	return k.Settings()
}

// value reads a value in the form that stage.Kind.Decode takes.
func (p *parser) value(kv pair, where string) (value any, ok bool) {
	if kv.value.Kind != yaml.SequenceNode {
		w, ok := p.word(kv.value, where, kv.key)
		return w.text, ok
	}
	words, ok := p.words(kv.value, where, "an element of "+kv.key)
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = w.text
	}
	return list, ok
}

// each takes joined errors apart.
func each(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var list []error
	for _, e := range joined.Unwrap() {
		list = append(list, each(e)...)
	}
	return list
}

// settingOf returns the setting that err is about, "" when it is about none.
func settingOf(err error) string {
	var e *stage.SettingError
	if errors.As(err, &e) {
		return e.Setting
	}
	return ""
}
