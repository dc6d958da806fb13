// A plugin as a stage kind: its settings as a struct that is made while the daemon
// runs, so that they are checked as those of any other kind.

package host

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
)

// Kind returns the stage kind that b serves, whose stages each run in a process of
// their own. It starts b for a moment to ask what it is, unless that is known.
func Kind(ctx context.Context, b Binary, log hclog.Logger) (stage.Kind, error) {
	return newKind(ctx, b, defaults, log)
}

// Version is the version that a plugin tells of itself.
func Version(ctx context.Context, b Binary, log hclog.Logger) (string, error) {
	d, err := described.get(ctx, b, defaults, log)
	return d.GetVersion(), err
}

func newKind(ctx context.Context, b Binary, limits limits, log hclog.Logger) (stage.Kind, error) {
	d, err := described.get(ctx, b, limits, log)
	if err != nil {
		return stage.Kind{}, err
	}
	if b.Name == "" {
		b.Name = d.Name
	}
	k := stage.Kind{
		Name:    b.Name,
		Summary: d.Summary,
		Ports: stage.Ports{
			ProvidesReader: d.Ports.GetProvidesReader(),
			ProvidesWriter: d.Ports.GetProvidesWriter(),
			NeedsReader:    stage.Need(min(max(d.Ports.GetNeedsReader(), 0), pb.Need_NEED_ANY)),
			NeedsWriter:    d.Ports.GetNeedsWriter(),
			Apart:          d.Ports.GetApart(),
		},
	}
	if len(d.Settings) > 0 {
		if k.Settings, err = settingsOf(d.Settings); err != nil {
			return stage.Kind{}, fmt.Errorf("%s: %w", b.Path, err)
		}
	}
	k.New = func(env stage.Env, settings any) (stage.Stage, error) {
		set := map[string]*pb.Value{}
		if settings != nil {
			set = toValues(settings, k.Settings())
		}
		return newStage(b, limits, env, set)
	}
	return k, nil
}

// descriptions are what plugins have said of themselves, by file and its state.
type descriptions struct {
	mu   sync.Mutex
	seen map[string]*pb.Kind
}

var described = descriptions{seen: map[string]*pb.Kind{}}

func (d *descriptions) get(ctx context.Context, b Binary, limits limits, log hclog.Logger) (*pb.Kind, error) {
	info, err := os.Stat(b.Path)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%q %q %d %d", b.Path, b.Args, info.Size(), info.ModTime().UnixNano())
	d.mu.Lock()
	defer d.mu.Unlock()
	if kind, ok := d.seen[key]; ok {
		return kind, b.verify()
	}
	p, err := start(ctx, b, limits, log)
	if err != nil {
		return nil, err
	}
	defer p.close(limits.exit)
	kind, err := p.describe(ctx)
	if err == nil {
		d.seen[key] = kind
	}
	return kind, err
}

// types are the settings' types by the names that Kind.Describe gives them.
var types = map[string]reflect.Type{
	"string":   reflect.TypeFor[string](),
	"bool":     reflect.TypeFor[bool](),
	"int":      reflect.TypeFor[int](),
	"number":   reflect.TypeFor[float64](),
	"size":     reflect.TypeFor[stage.Size](),
	"duration": reflect.TypeFor[time.Duration](),
}

// settingsOf returns the Settings of a kind with these: a struct with a field for
// each, and the defaults in it. A type that is not known is text that the plugin checks.
func settingsOf(list []*pb.Setting) (func() any, error) {
	var fields []reflect.StructField
	values := map[string]any{}
	for i, s := range list {
		name, isList := strings.CutPrefix(s.Type, "list of ")
		typ, ok := types[name]
		if !ok {
			typ = types["string"]
		}
		if isList {
			typ = reflect.SliceOf(typ)
		}
		set := s.Name
		if s.Required {
			set += ",required"
		}
		fields = append(fields, reflect.StructField{
			Name: "F" + strconv.Itoa(i),
			Type: typ,
			Tag:  reflect.StructTag("set:" + strconv.Quote(set) + " doc:" + strconv.Quote(s.Doc)),
		})
		switch {
		case s.Default == "":
		case isList:
			values[s.Name] = strings.Split(strings.Trim(s.Default, "[]"), ", ")
		default:
			values[s.Name] = s.Default
		}
	}
	empty := reflect.StructOf(fields)
	bare := make([]reflect.StructField, len(fields)) // nothing is required of the defaults
	for i, f := range fields {
		f.Tag = reflect.StructTag("set:" + strconv.Quote(list[i].Name))
		bare[i] = f
	}
	filled, err := stage.Kind{Settings: func() any { return reflect.New(reflect.StructOf(bare)).Interface() }}.Decode(values)
	if err != nil {
		return nil, fmt.Errorf("a default of its settings is wrong: %w", err)
	}
	return func() any {
		s := reflect.New(empty)
		for i := range fields {
			s.Elem().Field(i).Set(reflect.ValueOf(filled).Elem().Field(i))
		}
		return s.Interface()
	}, nil
}

// toValues returns those settings as text that are not as in defaults.
func toValues(settings, defaults any) map[string]*pb.Value {
	values := map[string]*pb.Value{}
	v, d := reflect.ValueOf(settings).Elem(), reflect.ValueOf(defaults).Elem()
	for i := range v.NumField() {
		name, opts, _ := strings.Cut(v.Type().Field(i).Tag.Get("set"), ",")
		if opts != "required" && reflect.DeepEqual(v.Field(i).Interface(), d.Field(i).Interface()) {
			continue
		}
		value := &pb.Value{}
		if f := v.Field(i); f.Kind() == reflect.Slice {
			for j := range f.Len() {
				value.Text = append(value.Text, text(f.Index(j)))
			}
		} else {
			value.Text = []string{text(f)}
		}
		values[name] = value
	}
	return values
}

func text(v reflect.Value) string {
	if d, ok := v.Interface().(time.Duration); ok {
		return stage.FormatDuration(d)
	}
	return fmt.Sprint(v.Interface())
}
