// Settings: a plain struct per kind, described by its tags, filled from text.

package stage

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Setting describes one thing that can be set.
type Setting struct {
	Name     string
	Type     string // string, bool, int, size, duration, or list of one of them
	Default  string // as one would write it; "" for the zero value
	Doc      string
	Required bool
}

// A Checker is a settings struct that checks itself once it is filled: what is
// wrong with one setting is returned as a *SettingError.
type Checker interface{ Check() error }

// SettingError is what is wrong with one setting.
type SettingError struct {
	Setting string
	Err     error
}

func (e *SettingError) Error() string { return e.Setting + ": " + e.Err.Error() }
func (e *SettingError) Unwrap() error { return e.Err }

// Wrong returns a *SettingError.
func Wrong(setting, format string, args ...any) error {
	return &SettingError{setting, fmt.Errorf(format, args...)}
}

// Describe lists the settings of a kind, from the fields of its struct in order:
//
//	Root string        `set:"root,required" doc:"folder with the media"`
//	Idle time.Duration `set:"idle" doc:"..."`
//
// A field is a string, bool, int, float64, Size, time.Duration, a type that
// implements encoding.TextUnmarshaler, or a slice of one of these; or a struct of such
// fields, whose settings are called GROUP.NAME. What the struct holds when
// Settings returns it are the defaults.
func (k Kind) Describe() []Setting {
	if k.Settings == nil {
		return nil
	}
	var list []Setting
	for _, f := range fieldsOf(reflect.ValueOf(k.Settings()).Elem(), "") {
		list = append(list, Setting{
			Name:     f.name,
			Type:     typeName(f.value.Type()),
			Default:  text(f.value),
			Doc:      f.doc,
			Required: f.required,
		})
	}
	return list
}

// field is a field that can be set.
type field struct {
	name, doc string
	required  bool
	value     reflect.Value
}

func fieldsOf(v reflect.Value, prefix string) []field {
	var list []field
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name, opts, _ := strings.Cut(tag.Get("set"), ",")
		switch {
		case name == "":
		case isGroup(v.Field(i)):
			list = append(list, fieldsOf(v.Field(i), prefix+name+".")...)
		default:
			list = append(list, field{prefix + name, tag.Get("doc"), opts == "required", v.Field(i)})
		}
	}
	return list
}

func isGroup(v reflect.Value) bool {
	return v.Kind() == reflect.Struct && !v.Addr().Type().Implements(textType)
}

// Decode returns the kind's settings with values in place of the defaults. A
// value is a string, or a []string for a list. All mistakes are returned, joined, each a *SettingError.
func (k Kind) Decode(values map[string]any) (any, error) {
	if k.Settings == nil {
		return nil, unknown(values, nil)
	}
	settings := k.Settings()
	var errs []error
	known := map[string]bool{}
	for _, f := range fieldsOf(reflect.ValueOf(settings).Elem(), "") {
		known[f.name] = true
		value, ok := values[f.name]
		if !ok {
			if f.required {
				errs = append(errs, Wrong(f.name, "is missing"))
			}
			continue
		}
		if err := assign(f.value, value); err != nil {
			errs = append(errs, &SettingError{f.name, err})
		}
	}
	errs = append(errs, unknown(values, known))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if c, ok := settings.(Checker); ok {
		if err := c.Check(); err != nil {
			return nil, err
		}
	}
	return settings, nil
}

func unknown(values map[string]any, known map[string]bool) error {
	var errs []error
	for name := range values {
		if !known[name] {
			errs = append(errs, Wrong(name, "is no setting of this kind"))
		}
	}
	return errors.Join(errs...)
}

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
)

func assign(field reflect.Value, value any) error {
	list, isList := value.([]string)
	if field.Kind() == reflect.Slice {
		if !isList {
			list = []string{value.(string)}
		}
		out := reflect.MakeSlice(field.Type(), len(list), len(list))
		for i, s := range list {
			if err := assign(out.Index(i), s); err != nil {
				return err
			}
		}
		field.Set(out)
		return nil
	}
	if isList {
		return fmt.Errorf("is a list, but one %s is wanted", typeName(field.Type()))
	}
	s := value.(string)
	if field.Addr().Type().Implements(textType) {
		return field.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s))
	}
	switch {
	case field.Type() == durationType:
		d, err := ParseDuration(s)
		field.SetInt(int64(d))
		return err
	case field.Kind() == reflect.String:
		field.SetString(s)
		return nil
	case field.Kind() == reflect.Bool:
		switch s {
		case "true", "false":
			field.SetBool(s == "true")
			return nil
		}
		return fmt.Errorf("%q is not true or false", s)
	case field.Kind() == reflect.Int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		field.SetInt(int64(n))
		return nil
	case field.Kind() == reflect.Float64:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", s)
		}
		field.SetFloat(f)
		return nil
	}
	panic(fmt.Sprintf("stage: a setting cannot be a %s", field.Type()))
}

func typeName(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Slice:
		return "list of " + typeName(t.Elem())
	case t == durationType:
		return "duration"
	case t == sizeType:
		return "size"
	case reflect.PointerTo(t).Implements(textType):
		return strings.ToLower(t.Name())
	case t.Kind() == reflect.Float64:
		return "number"
	}
	return t.Kind().String()
}

func text(v reflect.Value) string {
	if v.IsZero() {
		return ""
	}
	if v.Kind() == reflect.Slice {
		var parts []string
		for i := range v.Len() {
			parts = append(parts, text(v.Index(i)))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if v.Type() == durationType {
		return FormatDuration(v.Interface().(time.Duration))
	}
	return fmt.Sprint(v.Interface())
}

// Size is a number of bytes, written 512KiB, 256MiB, 500GiB, 10MB or 4096.
type Size int64

var units = []struct {
	suffix string
	size   Size
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// UnmarshalText reads a size as above.
func (s *Size) UnmarshalText(b []byte) error {
	number, unit := string(b), Size(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !(f >= 0) || f*float64(unit) > 1<<62 {
		return fmt.Errorf("%q is not a size such as 512KiB, 256MiB or 4096", b)
	}
	*s = Size(f * float64(unit))
	return nil
}

func (s Size) String() string {
	for _, u := range []int{3, 2, 1, 0} {
		if s >= units[u].size && s%units[u].size == 0 {
			return fmt.Sprintf("%d%s", s/units[u].size, units[u].suffix)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// ParseDuration is time.ParseDuration with days: 7d, 1d12h.
func ParseDuration(s string) (time.Duration, error) {
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		days, rest = "0", s
	}
	n, err := strconv.ParseFloat(days, 64)
	if ok && rest == "" {
		rest = "0s"
	}
	d, err2 := time.ParseDuration(rest)
	if err != nil || err2 != nil || !(n >= 0 && n <= 36500) || d < 0 {
		return 0, fmt.Errorf("%q is not a duration such as 500ms, 30s, 5m, 1h or 7d", s)
	}
	return time.Duration(n*24*float64(time.Hour)) + d, nil
}

// FormatDuration writes d as ParseDuration reads it, without zero parts.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
