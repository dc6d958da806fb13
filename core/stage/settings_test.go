package stage_test

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/mediad/mediad/core/stage"
)

type settings struct {
	Root   string         `set:"root,required" doc:"a folder"`
	Memory stage.Size     `set:"memory" doc:"bytes"`
	Idle   time.Duration  `set:"idle" doc:"time"`
	Loop   bool           `set:"loop" doc:"again"`
	Depth  int            `set:"depth" doc:"number"`
	Gain   float64        `set:"gain" doc:"factor"`
	Allow  []netip.Prefix `set:"allow" doc:"networks"`
	hidden int
}

func (s *settings) Check() error {
	if s.Depth < 0 {
		return stage.Wrong("depth", "is negative")
	}
	return nil
}

var kind = stage.Kind{Settings: func() any { return &settings{Memory: 1 << 20, Idle: 5 * time.Minute, hidden: 1} }}

func TestDescribe(t *testing.T) {
	want := []stage.Setting{
		{"root", "string", "", "a folder", true},
		{"memory", "size", "1MiB", "bytes", false},
		{"idle", "duration", "5m", "time", false},
		{"loop", "bool", "", "again", false},
		{"depth", "int", "", "number", false},
		{"gain", "number", "", "factor", false},
		{"allow", "list of prefix", "", "networks", false},
	}
	if got := kind.Describe(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := (stage.Kind{}).Describe(); got != nil {
		t.Errorf("a kind without settings has %v", got)
	}
}

func TestDecode(t *testing.T) {
	got, err := kind.Decode(map[string]any{
		"root": "media", "memory": "2GiB", "idle": "1d12h", "loop": "true", "depth": "3", "gain": "2.5",
		"allow": []string{"10.0.0.0/8", "::1/128"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &settings{"media", 2 << 30, 36 * time.Hour, true, 3, 2.5,
		[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}, 1}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, err := kind.Decode(map[string]any{"root": "r", "allow": "10.0.0.0/8"}); err != nil || len(got.(*settings).Allow) != 1 {
		t.Errorf("one value for a list: %+v, %v", got, err)
	}
}

func TestDecodeMistakes(t *testing.T) {
	for name, c := range map[string]struct {
		values map[string]any
		want   string
	}{
		"missing":    {map[string]any{}, "root"},
		"unknown":    {map[string]any{"root": "", "rot": ""}, "rot"},
		"size":       {map[string]any{"root": "", "memory": "many"}, "memory"},
		"negative":   {map[string]any{"root": "", "memory": "-1"}, "memory"},
		"duration":   {map[string]any{"root": "", "idle": "5"}, "idle"},
		"bool":       {map[string]any{"root": "", "loop": "yes"}, "loop"},
		"int":        {map[string]any{"root": "", "depth": "1.5"}, "depth"},
		"number":     {map[string]any{"root": "", "gain": "x"}, "gain"},
		"prefix":     {map[string]any{"root": "", "allow": []string{"10.0.0.0"}}, "allow"},
		"list":       {map[string]any{"root": []string{"a", "b"}}, "root"},
		"own check":  {map[string]any{"root": "", "depth": "-1"}, "depth"},
		"no setting": {map[string]any{"root": "", "hidden": "1"}, "hidden"},
	} {
		_, err := kind.Decode(c.values)
		var wrong *stage.SettingError
		if !errors.As(err, &wrong) || wrong.Setting != c.want {
			t.Errorf("%s: %v, want a mistake in %q", name, err, c.want)
		}
	}
	if _, err := (stage.Kind{}).Decode(map[string]any{"x": "1"}); err == nil {
		t.Error("a kind without settings took one")
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]stage.Size{
		"0": 0, "4096": 4096, "512KiB": 512 << 10, "256 MiB": 256 << 20, "1.5GiB": 3 << 29, "10MB": 10e6, "7kB": 7000, "2TiB": 2 << 40, "5B": 5,
	} {
		var s stage.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: %d, %v", text, s, err)
		}
		var again stage.Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%d is written %s and read as %d, %v", s, s, again, err)
		}
	}
	var s stage.Size
	for _, text := range []string{"", "x", "-1", "1XB", "NaN", "1e30GiB", "MiB"} {
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, s)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "500ms": 500 * time.Millisecond, "30s": 30 * time.Second, "1h": time.Hour, "7d": 7 * 24 * time.Hour,
		"1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute, "1h0m5s": time.Hour + 5*time.Second,
	} {
		d, err := stage.ParseDuration(text)
		if err != nil || d != want {
			t.Errorf("%s: %v, %v", text, d, err)
		}
		if again, err := stage.ParseDuration(stage.FormatDuration(d)); err != nil || again != d {
			t.Errorf("%v is written %s and read as %v, %v", d, stage.FormatDuration(d), again, err)
		}
	}
	for _, text := range []string{"", "5", "d", "-1s", "-1d", "1d-1h", "NaNd", "1e9d", "x"} {
		if d, err := stage.ParseDuration(text); err == nil {
			t.Errorf("%q is read as %v", text, d)
		}
	}
}

type limits struct {
	Most int            `set:"most" doc:"number"`
	From []netip.Prefix `set:"from" doc:"networks"`
	Deep struct {
		On bool `set:"on" doc:"switch"`
	} `set:"deep"`
}

func TestGroups(t *testing.T) {
	type settings struct {
		App    string `set:"app" doc:"a name"`
		Limits limits `set:"limits"`
	}
	k := stage.Kind{Settings: func() any { return &settings{Limits: limits{Most: 3}} }}
	want := []stage.Setting{
		{"app", "string", "", "a name", false},
		{"limits.most", "int", "3", "number", false},
		{"limits.from", "list of prefix", "", "networks", false},
		{"limits.deep.on", "bool", "", "switch", false},
	}
	if got := k.Describe(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	got, err := k.Decode(map[string]any{"limits.from": "10.0.0.0/8", "limits.deep.on": "true"})
	if err != nil {
		t.Fatal(err)
	}
	l := got.(*settings).Limits
	if l.Most != 3 || len(l.From) != 1 || !l.Deep.On {
		t.Errorf("got %+v", l)
	}
	if _, err := k.Decode(map[string]any{"limits": "1"}); err == nil {
		t.Error("a group was set like a setting")
	}
}
