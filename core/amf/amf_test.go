package amf

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"runtime"
	"strings"
	"testing"

	gortmp "github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/yutopp/go-amf0"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

var decoded = []struct {
	name  string
	bytes string
	want  any
}{
	{"number", "00 3ff8000000000000", 1.5},
	{"true", "01 01", true},
	{"string", "02 0003 616263", "abc"},
	{"null", "05", nil},
	{"undefined", "06", Undefined{}},
	{"reference", "07 0001", Undefined{}},
	{"unsupported", "0d", Undefined{}},
	{"date", "0b 4000000000000000 003c", Date(2)},
	{"long string", "0c 00000002 6162", "ab"},
	{"XML", "0f 00000004 3c612f3e", "<a/>"},
	{"object", "03 0001 61 0101 0001 62 05 000009", Object{{"a", true}, {"b", nil}}},
	{"empty object", "03 000009", Object(nil)},
	{"empty key", "03 0000 05 000009", Object{{"", nil}}},
	{"object without end", "03 0001 61 0101", Object{{"a", true}}},
	{"typed object", "10 0003 466f6f 0001 61 05 000009", Object{{"a", nil}}},
	{"ECMA array", "08 00000001 0001 61 05 000009", ECMAArray{{"a", nil}}},
	{"ECMA array with count 0", "08 00000000 0001 61 05 000009", ECMAArray{{"a", nil}}},
	{"ECMA array with count too high", "08 ffffffff 0001 61 05 000009", ECMAArray{{"a", nil}}},
	{"ECMA array without end", "08 00000001 0001 61 05", ECMAArray{{"a", nil}}},
	{"array", "0a 00000002 05 0101", Array{nil, true}},
	{"keyframes", "08 00000001 0009 6b65796672616d6573 03 0005 74696d6573 0a 00000001 00 4000000000000000 000009 000009",
		ECMAArray{{"keyframes", Object{{"times", Array{2.0}}}}}},
}

func TestDecode(t *testing.T) {
	for _, c := range decoded {
		got, err := Decode(unhex(c.bytes))
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], c.want) {
			t.Errorf("%s: got %#v, %v", c.name, got, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"AMF3":         "11 01",
		"movie clip":   "04",
		"record set":   "0e",
		"object end":   "09",
		"cut number":   "00 3ff8",
		"cut string":   "02 0004 616263",
		"cut date":     "0b 4000000000000000 00",
		"cut key":      "03 0001",
		"cut field":    "03 0001 61",
		"cut array":    "0a 00000002 00 4000000000000000",
		"long string":  "0c ffffffff 61",
		"typed object": "10 0005",
	} {
		got, err := Decode(append([]byte{markerNull}, unhex(s)...))
		if err == nil || !strings.HasPrefix(err.Error(), "AMF0 at byte ") {
			t.Errorf("%s: got error %v", name, err)
		}
		if len(got) != 1 {
			t.Errorf("%s: got %v, want the value before the mistake", name, got)
		}
	}
}

func TestT12_AMFNesting(t *testing.T) {
	for name, level := range map[string][]byte{
		"object":       unhex("03 0001 61"),
		"ECMA array":   unhex("08 00000001 0001 61"),
		"array":        unhex("0a 00000001"),
		"typed object": unhex("10 0000 0001 61"),
	} {
		if _, err := Decode(append(bytes.Repeat(level, MaxDepth), markerNull)); err != nil {
			t.Errorf("%s: %d levels: %v", name, MaxDepth, err)
		}
		for _, levels := range []int{MaxDepth + 1, 1 << 20} {
			_, err := Decode(append(bytes.Repeat(level, levels), bytes.Repeat([]byte{markerNull}, levels)...))
			if err == nil || !strings.Contains(err.Error(), "nested") {
				t.Errorf("%s: %d levels: %v", name, levels, err)
			}
		}
	}
}

func TestT13_AMFStrictArray(t *testing.T) {
	if v, err := Decode(unhex("0a 00000002 02 0004 61766331 02 0004 68766331")); err != nil ||
		!reflect.DeepEqual(v, []any{Array{"avc1", "hvc1"}}) {
		t.Errorf("a short array, as fourCcList: %v, %v", v, err)
	}
	for _, s := range []string{"0a 7fffffff", "0a ffffffff 05 05", "08 ffffffff 0001 61 0a 7fffffff 05"} {
		p := unhex(s)
		if n := allocated(func() {
			if _, err := Decode(p); err == nil {
				t.Errorf("%s was taken", s)
			}
		}); n > 64<<10 { // the runtime takes some too
			t.Errorf("%s took %d bytes of memory", s, n)
		}
	}
	many := append(unhex("0a 00100000"), bytes.Repeat([]byte{markerNull}, 1<<20)...)
	if _, err := Decode(many); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("2^20 values: %v", err)
	}
}

// allocated is the memory that f asks for, kept or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestAppend(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	values := []any{1.5, true, false, "abc", long, nil, Undefined{}, Date(2), Object{{"a", Array{1.0, "b"}}},
		ECMAArray{{"width", 640.0}, {"keyframes", Object{{"times", Array{0.0, 2.0}}}}}, Array{nil}}
	p := Append([]byte("head"), values...)
	got, err := Decode(p[4:])
	if err != nil || !reflect.DeepEqual(got, values) {
		t.Errorf("got %v, %v", got, err)
	}
	if !bytes.Equal(Append(nil, 7), Append(nil, 7.0)) {
		t.Error("an int is not written as the number")
	}
	if o := values[8].(Object); o.Get("b") != nil || o.Get("a") == nil {
		t.Error("Get")
	}
}

// The two libraries must read what is written here as it was meant.
func TestOracles(t *testing.T) {
	p := Append(nil, "connect", 1, Object{{"app", "live"}, {"tcUrl", "rtmp://localhost/live"}, {"fpad", false},
		{"audioCodecs", 4071}, {"fourCcList", Array{"av01", "hvc1"}}})
	theirs, err := gortmp.Unmarshal(p)
	if err != nil || len(theirs) != 3 {
		t.Fatalf("gortmplib: %v, %v", theirs, err)
	}
	if app, _ := theirs[2].(gortmp.Object).GetString("app"); app != "live" {
		t.Errorf("gortmplib: app %q", app)
	}
	var name string
	if err := amf0.NewDecoder(bytes.NewReader(p)).Decode(&name); err != nil || name != "connect" {
		t.Errorf("go-amf0: %q, %v", name, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range decoded {
		f.Add(unhex(c.bytes))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		values, err := Decode(p)
		again := Append(nil, values...)
		round, err2 := Decode(again)
		if err2 != nil || !bytes.Equal(Append(nil, round...), again) {
			t.Fatalf("%v is not the same again: %v, %v", values, round, err2)
		}
		if err != nil {
			return
		}
		theirs, err := gortmp.Unmarshal(p)
		if err != nil || len(theirs) != len(values) {
			return // it knows fewer types, and no bounds
		}
		for i := range values {
			same(t, values[i], theirs[i])
		}
	})
}

// same checks a value against the other library's.
func same(t *testing.T, ours, theirs any) {
	switch theirs := theirs.(type) {
	case bool, string:
		if ours != theirs {
			t.Errorf("%#v, theirs %#v", ours, theirs)
		}
	case float64:
		if _, date := ours.(Date); !date && !bytes.Equal(Append(nil, ours), Append(nil, theirs)) {
			t.Errorf("%v, theirs %v", ours, theirs)
		}
	case gortmp.StrictArray:
		if len(ours.(Array)) != len(theirs) {
			t.Errorf("%v, theirs %v", ours, theirs)
		}
	case gortmp.Object:
		sameFields(t, ours.(Object), theirs)
	}
}

func sameFields(t *testing.T, ours Object, theirs gortmp.Object) {
	if len(ours) != len(theirs) {
		t.Errorf("%v, theirs %v", ours, theirs)
		return
	}
	for i, f := range ours {
		if f.Key != theirs[i].Key {
			t.Errorf("key %q, theirs %q", f.Key, theirs[i].Key)
		}
		same(t, f.Value, theirs[i].Value)
	}
}
