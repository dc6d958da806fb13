// Package readerhttp is the stage kind reader-http: it reads FLV and MP4 files from
// an HTTP origin, in ranges where the origin has them.
package readerhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/container"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// Settings are what may be set in pipelines.yaml.
type Settings struct {
	URL          string        `set:"url,required" doc:"what the names of media are appended to; a query is kept"`
	Headers      []string      `set:"headers" doc:"sent to this origin with each request, as in 'Authorization: Bearer ...'"`
	Timeout      time.Duration `set:"timeout" doc:"how long the origin may take to answer, and for each 64 KiB after that"`
	Retries      int           `set:"retries" doc:"how often a request is tried again that failed for a passing reason"`
	AllowPrivate bool          `set:"allow_private" doc:"follow redirects to loopback, private and link-local addresses; the host of url itself may always have one"`
	Spool        stage.Size    `set:"spool" doc:"room in the temporary folder for files from an origin without ranges"`
	Index        stage.Size    `set:"index" doc:"memory for the indexes of files"`
}

// Check implements stage.Checker.
func (s *Settings) Check() error {
	var errs []error
	if _, err := s.base(); err != nil {
		errs = append(errs, stage.Wrong("url", "%w", err))
	}
	if _, err := s.header(); err != nil {
		errs = append(errs, stage.Wrong("headers", "%w", err))
	}
	if s.Timeout <= 0 {
		errs = append(errs, stage.Wrong("timeout", "must be more than 0"))
	}
	if s.Retries < 0 || s.Retries > 10 {
		errs = append(errs, stage.Wrong("retries", "must be 0 to 10"))
	}
	return errors.Join(errs...)
}

func (s *Settings) base() (*url.URL, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, errors.New("is no URL") // what is wrong would show a password in it
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("must begin with http://host or https://host")
	}
	return u, nil
}

func (s *Settings) header() (http.Header, error) {
	header := http.Header{}
	for i, line := range s.Headers {
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(value, "\r\n") {
			return nil, fmt.Errorf("number %d is not as in 'Name: value'", i+1)
		}
		header.Add(name, strings.TrimSpace(value))
	}
	return header, nil
}

// Kind describes reader-http.
func Kind() stage.Kind {
	return stage.Kind{
		Name:    "reader-http",
		Summary: "Reads FLV and MP4 files from an HTTP origin.",
		Settings: func() any {
			return &Settings{Timeout: 10 * time.Second, Retries: 3, Spool: 1 << 30, Index: 64 << 20}
		},
		Ports: stage.Ports{ProvidesReader: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return newReader(env, *settings.(*Settings))
		},
	}
}

// A reader opens files at an origin.
type reader struct {
	log     hclog.Logger
	origin  *origin
	indexes *container.Indexes
	opens   prometheus.Counter
	errors  *prometheus.CounterVec
}

func newReader(env stage.Env, settings Settings) (*reader, error) {
	o, err := newOrigin(settings, env.Log)
	if err != nil {
		return nil, err
	}
	r := &reader{
		log:     env.Log,
		origin:  o,
		indexes: container.NewIndexes(int(settings.Index)),
		opens: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_reader_http_opens_total", Help: "Files opened to be played."}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mediad_reader_http_errors_total", Help: "Files that could not be opened or read to the end, by cause."},
			[]string{"cause"}),
	}
	env.Metrics.MustRegister(r.opens, r.errors, o.requests, o.retried, o.read)
	return r, nil
}

// Serve implements stage.Stage.
func (r *reader) Serve(ctx context.Context) error {
	<-ctx.Done()
	r.origin.client.CloseIdleConnections()
	return nil
}

// Open implements media.Reader.
func (r *reader) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	s, err := r.open(ctx, req)
	if errors.Is(err, media.ErrChanged) { // since its first bytes were read
		s, err = r.open(ctx, req)
	}
	if err != nil {
		return nil, r.count(err)
	}
	r.opens.Inc()
	return s, nil
}

func (r *reader) open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	f, name, err := r.find(ctx, req, minPiece)
	if err != nil {
		return nil, err
	}
	index, err := r.indexes.Get(ctx, name, f.version(), func() (media.Index, error) {
		index, err := container.Open(ctx, f)
		for _, note := range container.Notes(index) {
			r.log.Info("a part of a file is not played", "file", name, "part", note)
		}
		return index, err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	info := media.Info{Name: req.Name, Version: f.version(), Size: max(f.Size(), 0)}
	return container.NewSource(info, f, index, req.From, func(err error) error { return r.failed(name, err) }), nil
}

// Cost implements media.Coster. It asks the origin for one byte.
func (r *reader) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	f, _, err := r.find(ctx, req, 1)
	switch {
	case errors.Is(err, media.ErrNotFound): // it may be asked to open it all the same
		return media.Cost{}, err
	case err != nil:
		return media.Cost{}, r.count(err)
	}
	return media.Cost{Place: "http", Base: media.CostHTTP}, f.Close()
}

// extensions are what a name may end with that is tried as it is.
var extensions = []string{".flv", ".mp4", ".m4v", ".m4a", ".mov", ".f4v"}

// find opens the first file that a request may mean, and reads its first n bytes. Storages that do not let one
// list deny what is not there, so a denial is only told when nothing is found.
func (r *reader) find(ctx context.Context, req media.OpenRequest, n int64) (file, string, error) {
	missing := fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
	if err := media.CheckName(req.Name); err != nil || req.LiveOnly {
		return nil, "", missing
	}
	names := []string{req.Name + ".flv", req.Name + ".mp4", req.Name}
	if slices.Contains(extensions, strings.ToLower(path.Ext(req.Name))) {
		names = names[2:]
	}
	for _, name := range names {
		f, err := r.origin.open(ctx, name, n)
		switch {
		case err == nil:
			return f, name, nil
		case errors.Is(err, media.ErrDenied):
			missing = fmt.Errorf("%s: %w", name, err)
		case !errors.Is(err, media.ErrNotFound):
			return nil, "", fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil, "", missing
}

// failed is told what ended a source before the end of its file.
func (r *reader) failed(name string, err error) error {
	err = r.count(fmt.Errorf("%s: %w", name, err))
	r.log.Error("a file cannot be read on", "file", name, "reason", err)
	return err
}

// count counts an error under its cause and returns it.
func (r *reader) count(err error) error {
	cause := container.Cause(err)
	switch {
	case cause == "":
		return err
	case errors.Is(err, errSlow):
		cause = "slow"
	case errors.Is(err, errRedirect):
		cause = "redirect"
	}
	r.errors.WithLabelValues(cause).Inc()
	return err
}
