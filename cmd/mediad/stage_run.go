// mediad stage run: one stage alone, between standard input and standard output.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mediad/mediad/core/container"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/dump"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/spf13/cobra"
)

func stageRunCommand(dir *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run KIND [SETTING=VALUE...] NAME",
		Short: "Run one stage alone: print what it reads, or write what comes on standard input",
		Long: `Run one stage alone.

A reader opens NAME and its batches are printed: as lines, as FLV, or as JSON. A
stage that reads from another reads what comes on standard input, FLV or JSON, as
NAME. A writer writes it to NAME.`,
		Example: `  mediad stage run reader-disk root=./media sample.flv
  mediad stage run reader-disk root=./media sample.flv --from 5s --format flv > part.flv
  mediad stage run writer-disk root=./out copy.flv < part.flv`,
		Args: cobra.MinimumNArgs(2),
	}
	format := cmd.Flags().String("format", "lines", "what is printed: lines, flv or json")
	from := cmd.Flags().Duration("from", 0, "the position to open at")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		print, err := dump.Format(*format, cmd.OutOrStdout())
		if err != nil {
			return err
		}
		c := newCatalog(quiet())
		k, err := c.find(cmd.Context(), *dir, args[0])
		if err != nil {
			return err
		}
		values, name, err := settingsAndName(k, args[1:])
		if err != nil {
			return err
		}
		r := single{kind: k, values: values, log: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: cmd.ErrOrStderr()})}
		return r.run(cmd.Context(), name, *from, cmd.InOrStdin(), print)
	}
	return cmd
}

// settingsAndName takes apart SETTING=VALUE... NAME. A list is written with commas.
func settingsAndName(k stage.Kind, args []string) (values map[string]any, name string, err error) {
	values, rest, err := settings(k, args)
	if err == nil && len(rest) != 1 {
		err = fmt.Errorf("one NAME is wanted besides settings, there are %d: %s", len(rest), strings.Join(rest, " "))
	}
	if err != nil {
		return nil, "", err
	}
	return values, rest[0], nil
}

func settings(k stage.Kind, args []string) (values map[string]any, rest []string, err error) {
	lists := map[string]bool{}
	for _, s := range k.Describe() {
		lists[s.Name] = strings.HasPrefix(s.Type, "list of ")
	}
	values = map[string]any{}
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		switch {
		case !ok:
			rest = append(rest, arg)
		case lists[name]:
			values[name] = strings.Split(value, ",")
		default:
			values[name] = value
		}
	}
	_, err = k.Decode(values)
	return values, rest, err
}

// single is one stage to be run alone.
type single struct {
	kind   stage.Kind
	values map[string]any
	log    hclog.Logger
}

// start makes the stage and serves it, until stop.
func (s single) start(inputs ...stage.Input) (made stage.Stage, stop func() error, err error) {
	return stagetest.Start(s.kind, s.values, stage.Env{
		Name:   "alone/" + s.kind.Name,
		Log:    s.log,
		Inputs: inputs,
		Drain:  5 * time.Second,
	})
}

// run runs the stage between in and print.
func (s single) run(ctx context.Context, name string, from time.Duration, in io.Reader, print func(*media.Batch) error) (err error) {
	p := s.kind.Ports
	if p.NeedsWriter || !p.ProvidesReader && !p.ProvidesWriter {
		return fmt.Errorf("%s %s: it cannot run alone, put it into a pipelines.yaml", s.kind.Name, strings.TrimSuffix(strings.TrimPrefix(ports(p), "It "), "."))
	}
	var film []*media.Batch
	var inputs []stage.Input
	if p.NeedsReader != stage.None && !p.Apart || p.ProvidesWriter {
		if film, err = readFilm(ctx, in); err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		inputs = []stage.Input{{Name: "standard input", Reader: stagetest.Library{name: film}}}
	}
	made, stop, err := s.start(inputs...)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, stop()); err != nil {
			err = failure{err}
		}
	}()
	if p.ProvidesReader {
		return pull(ctx, made.(media.Reader), media.OpenRequest{Name: name, From: from}, print)
	}
	return push(ctx, made.(media.Writer), name, film)
}

func pull(ctx context.Context, r media.Reader, req media.OpenRequest, print func(*media.Batch) error) error {
	src, err := r.Open(ctx, req)
	if err != nil {
		return err
	}
	defer src.Close()
	for {
		b, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := print(b); err != nil {
			return err
		}
	}
}

func push(ctx context.Context, w media.Writer, name string, film []*media.Batch) error {
	sink, err := w.Create(ctx, media.CreateRequest{Name: name, Info: media.Info{Name: name}})
	if err != nil {
		return err
	}
	for _, b := range film {
		if err := sink.Write(ctx, b); err != nil {
			return errors.Join(err, sink.Close(ctx))
		}
	}
	return sink.Close(ctx)
}

// readFilm reads FLV, MP4 or JSON to the end.
func readFilm(ctx context.Context, in io.Reader) ([]*media.Batch, error) {
	buffered := bufio.NewReader(in)
	if head, err := buffered.Peek(1); err == nil && head[0] == '{' {
		return dump.ReadJSON(buffered)
	}
	f, err := os.CreateTemp("", "mediad-stage-")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil { // it lives as long as it is open
		return nil, err
	}
	size, err := io.Copy(f, buffered)
	if err != nil {
		return nil, err
	}
	file := spooled{f, size}
	index, err := container.Open(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("%w (or JSON, one batch a line)", err)
	}
	var film []*media.Batch
	for next := index.Batches(file, 0); ; {
		b, err := next(ctx)
		if errors.Is(err, io.EOF) {
			return film, nil
		}
		if err != nil {
			return nil, err
		}
		film = append(film, b)
	}
}

// spooled is a media.File.
type spooled struct {
	f    *os.File
	size int64
}

func (s spooled) Size() int64 { return s.size }

func (s spooled) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return s.f.ReadAt(p, off)
}
