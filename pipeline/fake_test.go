// Kinds with the names and ports of the real ones, that do nothing but tell what
// happens to them.

package pipeline

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stages records what happens to fake stages, and says what they shall do.
type stages struct {
	mu     sync.Mutex
	events []string
	new    map[string]error                           // what New of a stage returns
	serve  map[string]func(ctx context.Context) error // in place of waiting
	envs   map[string]stage.Env
}

func (s *stages) event(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, what)
}

type fake struct {
	name string
	of   *stages
}

func (f *fake) Serve(ctx context.Context) error {
	defer f.of.event("stopped " + f.name)
	f.of.mu.Lock()
	serve := f.of.serve[f.name]
	f.of.mu.Unlock()
	if serve != nil {
		return serve(ctx)
	}
	<-ctx.Done()
	return nil
}

func (f *fake) Open(context.Context, media.OpenRequest) (media.Source, error) {
	return nil, media.ErrNotFound
}

func (f *fake) Create(context.Context, media.CreateRequest) (media.Sink, error) {
	return nil, media.ErrUnavailable
}

type rootSettings struct {
	Root string `set:"root,required" doc:"folder"`
}

type appSettings struct {
	App   string   `set:"app,required" doc:"first part of the URL"`
	Allow []string `set:"allow" doc:"networks"`
	Key   string   `set:"key" doc:"secret"`
}

func (a *appSettings) Check() error {
	if a.Key != "" && len(a.Key) < 4 {
		return stage.Wrong("key", "is shorter than 4 characters")
	}
	if a.App == "both" && a.Key != "" {
		return errors.New("both is for everybody: it takes no key")
	}
	return nil
}

type cacheSettings struct {
	Memory stage.Size    `set:"memory" doc:"bytes kept"`
	Idle   time.Duration `set:"idle" doc:"kept for"`
}

type playoutSettings struct {
	Play []string `set:"play,required" doc:"names"`
	As   string   `set:"as" doc:"channel"`
	Loop bool     `set:"loop" doc:"again and again"`
}

type brokerSettings struct {
	Redirect struct {
		Gain float64       `set:"gain" doc:"how much cheaper another node must be"`
		Rest time.Duration `set:"rest" doc:"between two"`
	} `set:"redirect"`
}

type repeaterSettings struct {
	Listen string `set:"listen" doc:"address"`
}

func (s *stages) kinds() Kinds {
	list := []stage.Kind{
		{Name: "reader-disk", Settings: func() any { return &rootSettings{} }, Ports: stage.Ports{ProvidesReader: true}},
		{Name: "reader-http", Ports: stage.Ports{ProvidesReader: true}},
		{Name: "cache", Settings: func() any { return &cacheSettings{Memory: 1 << 20} }, Ports: stage.Ports{ProvidesReader: true, NeedsReader: stage.One}},
		{Name: "broker", Settings: func() any { return &brokerSettings{} }, Ports: stage.Ports{ProvidesReader: true, NeedsReader: stage.Some}},
		{Name: "stream", Settings: func() any { return &appSettings{} }, Ports: stage.Ports{NeedsReader: stage.One}},
		{Name: "ingest", Settings: func() any { return &appSettings{} }, Ports: stage.Ports{NeedsWriter: true}},
		{Name: "broadcast", Ports: stage.Ports{ProvidesReader: true, ProvidesWriter: true, NeedsReader: stage.Any}},
		{Name: "archiver", Ports: stage.Ports{NeedsReader: stage.One, NeedsWriter: true}},
		{Name: "writer-disk", Settings: func() any { return &rootSettings{} }, Ports: stage.Ports{ProvidesWriter: true}},
		{Name: "playout", Settings: func() any { return &playoutSettings{} }, Ports: stage.Ports{NeedsReader: stage.One, NeedsWriter: true}},
		{Name: "repeater-tcp", Settings: func() any { return &repeaterSettings{} }, Ports: stage.Ports{ProvidesReader: true, NeedsReader: stage.Any, Apart: true}},
		// It is to test what no real kind does: it reads, is read, and writes.
		{Name: "relay", Ports: stage.Ports{ProvidesReader: true, NeedsReader: stage.Any, NeedsWriter: true}},
	}
	for i := range list {
		list[i].New = func(env stage.Env, _ any) (stage.Stage, error) {
			s.event("new " + env.Name)
			if s.envs != nil {
				s.envs[env.Name] = env
			}
			return &fake{env.Name, s}, s.new[env.Name]
		}
	}
	return list
}
