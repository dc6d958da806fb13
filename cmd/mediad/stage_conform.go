// mediad stage test: the conformance checks against a kind or a binary.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/mediad/mediad/pipeline/stagetest"
	"github.com/spf13/cobra"
)

func stageConformCommand(dir *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test KIND [SETTING=VALUE...]",
		Short: "Check that a stage keeps the contract of its kind",
		Example: `  mediad stage test reader-disk root=./media --name sample.flv --missing nope.flv
  mediad stage test ./plugins.d/reader-mine root=./testdata --name clip.flv --missing nope.flv
  mediad stage test writer-disk root=/tmp/out --name film --back "reader-disk root=/tmp/out"`,
		Args: cobra.MinimumNArgs(1),
	}
	var o conformance
	cmd.Flags().StringVar(&o.name, "name", "", "of a reader: recorded media with at least three keyframes; of a writer: what to call what it writes")
	cmd.Flags().StringVar(&o.missing, "missing", "missing", "of a reader: a name that is not there")
	cmd.Flags().StringVar(&o.back, "back", "", `of a writer: the reader that reads what it wrote, as in "reader-disk root=..."`)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.dir, o.catalog, o.out = *dir, newCatalog(quiet()), cmd.OutOrStdout()
		s, err := o.single(cmd.Context(), args)
		if err != nil {
			return err
		}
		return o.run(cmd.Context(), s)
	}
	return cmd
}

// conformance is what the command was told.
type conformance struct {
	name, missing, back string

	dir     string
	catalog catalog
	out     io.Writer
}

func (o *conformance) single(ctx context.Context, args []string) (single, error) {
	k, err := o.catalog.find(ctx, o.dir, args[0])
	if err != nil {
		return single{}, err
	}
	values, rest, err := settings(k, args[1:])
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%s: a setting is written NAME=VALUE", rest[0])
	}
	return single{kind: k, values: values, log: quiet()}, err
}

// run runs the checks that fit what the kind provides and needs.
func (o *conformance) run(ctx context.Context, s single) error {
	p := s.kind.Ports
	switch {
	case p.NeedsWriter:
		return fmt.Errorf("there are no checks for %s: it writes into another stage", s.kind.Name)
	case p.Apart:
		return fmt.Errorf("there are no checks for %s: what it provides comes from other nodes", s.kind.Name)
	case p.ProvidesReader && (p.NeedsReader == stage.One || p.NeedsReader == stage.Some):
		return o.verdict(stagetest.CheckMiddleware(ctx, func(upstream media.Reader) (media.Reader, func() error, error) {
			made, stop, err := s.start(stage.Input{Name: "test/upstream", Reader: upstream})
			if err != nil {
				return nil, nil, err
			}
			return made.(media.Reader), stop, nil
		}, o.report))
	case p.ProvidesReader && o.name == "", p.ProvidesWriter && (o.name == "" || o.back == ""):
		return errors.New("a reader is tested with --name and --missing, a writer with --name and --back")
	}
	made, stop, err := s.start()
	if err != nil {
		return err
	}
	if p.ProvidesReader {
		err = stagetest.CheckReader(ctx, stagetest.Reader{Reader: made.(media.Reader), Name: o.name, Missing: o.missing}, o.report)
		return o.verdict(errors.Join(err, stop()))
	}
	back, err := o.single(ctx, strings.Fields(o.back))
	if err != nil {
		return errors.Join(fmt.Errorf("--back: %w", err), stop())
	}
	reader, stopReader, err := back.start()
	if err != nil {
		return errors.Join(fmt.Errorf("--back: %w", err), stop())
	}
	err = stagetest.CheckWriter(ctx, stagetest.Writer{Writer: made.(media.Writer), Name: o.name, Back: reader.(media.Reader)}, o.report)
	return o.verdict(errors.Join(err, stopReader(), stop()))
}

func (o *conformance) report(name string, err error) {
	if err != nil {
		fmt.Fprintf(o.out, "FAIL  %s: %v\n", name, err)
		return
	}
	fmt.Fprintf(o.out, "ok    %s\n", name)
}

// verdict is the command's error; what failed was printed already.
func (o *conformance) verdict(err error) error {
	if err == nil {
		return nil
	}
	n := strings.Count(err.Error(), "\n") + 1
	return failure{fmt.Errorf("%d of the checks failed", n)}
}
