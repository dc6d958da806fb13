// Package readerdisk is the stage kind reader-disk: it reads FLV and MP4 files
// from a folder.
package readerdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/container"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/prometheus/client_golang/prometheus"
)

// Settings are what may be set in pipelines.yaml.
type Settings struct {
	Root  string     `set:"root,required" doc:"folder with the media; names never lead out of it"`
	Index stage.Size `set:"index" doc:"memory for the indexes of files"`
}

// Kind describes reader-disk.
func Kind() stage.Kind {
	return stage.Kind{
		Name:     "reader-disk",
		Summary:  "Reads FLV and MP4 files from a folder.",
		Settings: func() any { return &Settings{Index: 64 << 20} },
		Ports:    stage.Ports{ProvidesReader: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return newReader(env, *settings.(*Settings))
		},
	}
}

// A reader opens files in a folder. It holds no descriptor between calls, so the
// folder may be replaced while the daemon runs.
type reader struct {
	stage.Passive
	root    string
	log     hclog.Logger
	indexes *container.Indexes
	opens   prometheus.Counter
	read    prometheus.Counter
	errors  *prometheus.CounterVec
}

func newReader(env stage.Env, settings Settings) (*reader, error) {
	info, err := os.Stat(settings.Root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, stage.Wrong("root", "there is no folder %s; make it, or name another", settings.Root)
	case err != nil:
		return nil, stage.Wrong("root", "%w", err)
	case !info.IsDir():
		return nil, stage.Wrong("root", "%s is no folder", settings.Root)
	}
	r := &reader{
		root:    settings.Root,
		log:     env.Log,
		indexes: container.NewIndexes(int(settings.Index)),
		opens: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_reader_disk_opens_total", Help: "Files opened to be played."}),
		read: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mediad_reader_disk_read_bytes_total", Help: "Bytes read from files."}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mediad_reader_disk_errors_total", Help: "Files that could not be opened or read to the end, by cause."},
			[]string{"cause"}),
	}
	env.Metrics.MustRegister(r.opens, r.read, r.errors)
	return r, nil
}

// Open implements media.Reader.
func (r *reader) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	s, err := r.open(ctx, req)
	if errors.Is(err, media.ErrChanged) { // while its index was read
		s, err = r.open(ctx, req)
	}
	if err != nil {
		return nil, r.count(err)
	}
	r.opens.Inc()
	return s, nil
}

func (r *reader) open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	f, path, err := r.find(req)
	if err != nil {
		return nil, err
	}
	index, err := r.indexes.Get(ctx, path, f.version, func() (media.Index, error) {
		index, err := container.Open(ctx, f)
		for _, note := range container.Notes(index) {
			r.log.Info("a part of a file is not played", "file", path, "part", note)
		}
		return index, err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	info := media.Info{Name: req.Name, Version: f.version, Size: f.Size()}
	source := container.NewSource(info, f, index, req.From, func(err error) error { return r.failed(path, err) })
	source.Near = true
	return source, nil
}

// Cost implements media.Coster.
func (r *reader) Cost(_ context.Context, req media.OpenRequest) (media.Cost, error) {
	f, _, err := r.find(req)
	if err != nil {
		return media.Cost{}, err
	}
	return media.Cost{Place: "disk", Base: media.CostDisk}, f.Close()
}

// suffixes are tried in turn after a name.
var suffixes = []string{"", ".flv", ".mp4"}

// find opens the file of a request and tells its path in the root.
func (r *reader) find(req media.OpenRequest) (*file, string, error) {
	notFound := fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
	if req.LiveOnly {
		return nil, "", notFound
	}
	root, err := os.OpenRoot(r.root)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", media.ErrUnavailable, err)
	}
	defer root.Close()
	for _, suffix := range suffixes {
		path := req.Name + suffix
		f, err := openFile(root, path, r.read)
		if err == nil {
			return f, path, nil
		}
		if kind := kindOf(err); !errors.Is(kind, media.ErrNotFound) {
			return nil, "", fmt.Errorf("%w: %w", kind, err)
		}
	}
	return nil, "", notFound
}

// kindOf tells what an error of opening a file is to the caller of Open.
func kindOf(err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotRegular),
		errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG),
		errors.Is(err, syscall.ENXIO): // a socket, or a named pipe
		return media.ErrNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ELOOP),
		!errors.As(err, &errno): // os.Root itself refuses: the name leads out of it
		return media.ErrDenied
	}
	return media.ErrUnavailable
}

// failed is told what ended a source before the end of its file. A file that has
// changed ends as if it were at its end: what is there now is another version.
func (r *reader) failed(path string, err error) error {
	if err = r.count(fmt.Errorf("%s: %w", path, err)); errors.Is(err, media.ErrChanged) {
		r.log.Warn("a file has changed while it was played, the play ends here", "file", path, "reason", err)
		return io.EOF
	}
	r.log.Error("a file cannot be read on", "file", path, "reason", err)
	return err
}

// count counts an error under its cause and returns it.
func (r *reader) count(err error) error {
	if cause := container.Cause(err); cause != "" {
		r.errors.WithLabelValues(cause).Inc()
	}
	return err
}
