// Package stagetest checks that stages keep the contracts of core/media. The
// checks return errors, so that a test and `mediad stage test` run the same code.
package stagetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A Check is one thing that must hold of a subject.
type Check[S any] struct {
	Name string
	Run  func(ctx context.Context, subject S) error
}

// patience bounds a single check.
const patience = time.Minute

// run runs the checks one after the other, tells report of each, and returns
// what failed.
func run[S any](ctx context.Context, checks []Check[S], subject S, report func(name string, err error)) error {
	var failed []error
	for _, c := range checks {
		ctx, cancel := context.WithTimeout(ctx, patience)
		err := c.Run(ctx, subject)
		cancel()
		if report != nil {
			report(c.Name, err)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", c.Name, err))
		}
	}
	return errors.Join(failed...)
}

// A Reader is a reader to be checked, and what is known of its media.
type Reader struct {
	media.Reader
	// Name is of recorded media with at least three join points.
	Name string
	// Missing is a name that is not there.
	Missing string
}

// CheckReader checks a reader of recorded media and tells report, which may be
// nil, of each check.
func CheckReader(ctx context.Context, r Reader, report func(name string, err error)) error {
	return run(ctx, readerChecks, r, report)
}

var readerChecks = []Check[Reader]{
	{"open and read to the end", checkEnd},
	{"batches keep their rules", checkBatches},
	{"two opens at once give the same", checkTwo},
	{"a name that is not there", checkMissing},
	{"names that lead elsewhere", checkNames},
	{"resume from every position", checkResume},
	{"batches are immutable", checkImmutable},
	{"a cancelled Next loses nothing", checkCancel},
	{"an early Close", checkClose},
	{"Next after the end", checkAfterEnd},
	{"Cost", checkCost},
}

// readAll opens the media at from and reads them to the end.
func readAll(ctx context.Context, r Reader, from time.Duration) ([]*media.Batch, media.Info, error) {
	src, err := r.Open(ctx, media.OpenRequest{Name: r.Name, From: from})
	if err != nil {
		return nil, media.Info{}, err
	}
	defer src.Close()
	batches, err := rest(ctx, src)
	return batches, src.Info(), err
}

// rest reads src to its end.
func rest(ctx context.Context, src media.Source) ([]*media.Batch, error) {
	var list []*media.Batch
	for {
		b, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, fmt.Errorf("batch %d: %w", len(list), err)
		}
		list = append(list, b)
	}
}

func checkEnd(ctx context.Context, r Reader) error {
	batches, info, err := readAll(ctx, r, 0)
	if err != nil {
		return err
	}
	joins := 0
	for _, b := range batches {
		if b.Join() {
			joins++
		}
	}
	if joins < 3 {
		return fmt.Errorf("the media have %d join points, the checks want at least 3", joins)
	}
	if info.Live {
		return errors.New("the media are live, these checks are for recorded ones")
	}
	start, end := batches[0].DTS(), batches[0].DTS()
	for _, b := range batches {
		for _, f := range b.Frames() {
			start, end = min(start, f.DTS), max(end, f.DTS)
		}
	}
	if info.Duration > 0 && (end-info.Start > info.Duration+time.Second || info.Duration > end-info.Start+time.Minute) {
		return fmt.Errorf("Info tells %v from %v on, the frames go from %v to %v", info.Duration, info.Start, start, end)
	}
	return nil
}

func checkBatches(ctx context.Context, r Reader) error {
	batches, _, err := readAll(ctx, r, 0)
	if err != nil {
		return err
	}
	last := media.NoClock
	for i, b := range batches {
		if err := CheckBatch(b); err != nil {
			return fmt.Errorf("batch %d: %w", i, err)
		}
		for j, f := range b.Frames() {
			before := last.At(f.Track)
			if *before != media.None && f.DTS < *before {
				return fmt.Errorf("batch %d: frame %d: the %s DTS runs back from %v to %v", i, j, f.Track, *before, f.DTS)
			}
			*before = f.DTS
		}
	}
	return nil
}

// CheckBatch checks what must hold of any batch.
func CheckBatch(b *media.Batch) error {
	if b.Header() == nil {
		return errors.New("it has no header")
	}
	bytes := 0
	for i, f := range b.Frames() {
		switch {
		case f.Track != media.Audio && f.Track != media.Video && f.Track != media.Data:
			return fmt.Errorf("frame %d: there is no track %d", i, f.Track)
		case f.Key && f.Track != media.Video:
			return fmt.Errorf("frame %d: a keyframe of the %s track", i, f.Track)
		case f.Key && i > 0:
			return fmt.Errorf("frame %d is a keyframe, which must be the first of its batch", i)
		case len(f.Body) == 0:
			return fmt.Errorf("frame %d has no body", i)
		}
		if i > 1 && bytes-len(b.Frames()[i-1].Body) > media.MaxBatchBytes {
			return fmt.Errorf("it has %d bytes before frame %d, at most %d are allowed", bytes, i, media.MaxBatchBytes)
		}
		bytes += len(f.Body)
	}
	return nil
}

func checkTwo(ctx context.Context, r Reader) error {
	type result struct {
		sum  [32]byte
		info media.Info
		err  error
	}
	results := make(chan result, 2)
	for range cap(results) {
		go func() {
			batches, info, err := readAll(ctx, r, 0)
			results <- result{hash(batches), info, err}
		}()
	}
	a, b := <-results, <-results
	if err := errors.Join(a.err, b.err); err != nil {
		return err
	}
	if a.sum != b.sum || a.info != b.info {
		return fmt.Errorf("one has %x, %+v, the other %x, %+v", a.sum[:4], a.info, b.sum[:4], b.info)
	}
	return nil
}

// hash is a fingerprint of frames and headers.
func hash(batches []*media.Batch) [32]byte {
	h := sha256.New()
	for _, b := range batches {
		fmt.Fprintf(h, "%q", *b.Header())
		for _, f := range b.Frames() {
			fmt.Fprintf(h, "%d %v %d %d %d\n", f.Track, f.Key, f.DTS, f.PTS, len(f.Body))
			h.Write(f.Body)
		}
	}
	return [32]byte(h.Sum(nil))
}

func checkMissing(ctx context.Context, r Reader) error {
	src, err := r.Open(ctx, media.OpenRequest{Name: r.Missing})
	if err == nil {
		src.Close()
	}
	return want(media.ErrNotFound, err)
}

// want returns an error unless err is target.
func want(target, err error) error {
	switch {
	case errors.Is(err, target):
		return nil
	case err == nil:
		return fmt.Errorf("it went well, want an error that wraps %q", target.Error())
	}
	return fmt.Errorf("want an error that wraps %q, got: %w", target.Error(), err)
}

func checkNames(ctx context.Context, r Reader) error {
	for _, name := range []string{"../" + r.Name, "/etc/passwd", "..", ".", "", "x/../../" + r.Name} {
		src, err := r.Open(ctx, media.OpenRequest{Name: name})
		if err == nil {
			src.Close()
			return fmt.Errorf("%q was opened", name)
		}
	}
	return nil
}

// checkResume opens at every join point, and between them, and compares what
// comes with what came after that point from the start.
func checkResume(ctx context.Context, r Reader) error {
	all, _, err := readAll(ctx, r, 0)
	if err != nil {
		return err
	}
	end := all[len(all)-1].DTS()
	for i, b := range all {
		if !b.Join() {
			continue
		}
		next := end + time.Hour
		for _, later := range all[i+1:] {
			if later.Join() {
				next = later.DTS()
				break
			}
		}
		for _, from := range []time.Duration{b.DTS(), b.DTS() + (next-b.DTS())/2, next - time.Millisecond} {
			if from < b.DTS() {
				continue // two join points at one time
			}
			got, _, err := readAll(ctx, r, from)
			if err != nil {
				return fmt.Errorf("from %v: %w", from, err)
			}
			if len(got) != len(all)-i || hash(got) != hash(all[i:]) {
				return fmt.Errorf("from %v: %d batches that begin at %v, want the %d from the join point at %v on",
					from, len(got), first(got), len(all)-i, b.DTS())
			}
		}
	}
	return nil
}

func first(batches []*media.Batch) time.Duration {
	if len(batches) == 0 {
		return media.None
	}
	return batches[0].DTS()
}

// checkImmutable reads everything, and looks whether what came first has been
// touched by what came later.
func checkImmutable(ctx context.Context, r Reader) error {
	src, err := r.Open(ctx, media.OpenRequest{Name: r.Name})
	if err != nil {
		return err
	}
	defer src.Close()
	var batches []*media.Batch
	var sums [][32]byte
	for {
		b, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		batches = append(batches, b)
		sums = append(sums, hash([]*media.Batch{b}))
	}
	src.Close()
	for i, b := range batches {
		if hash([]*media.Batch{b}) != sums[i] {
			return fmt.Errorf("batch %d has changed since it was read", i)
		}
	}
	return nil
}

func checkCancel(ctx context.Context, r Reader) error {
	all, _, err := readAll(ctx, r, 0)
	if err != nil {
		return err
	}
	src, err := r.Open(ctx, media.OpenRequest{Name: r.Name})
	if err != nil {
		return err
	}
	defer src.Close()
	over, cancel := context.WithCancel(ctx)
	cancel()
	var got []*media.Batch
	for len(got) < len(all) {
		b, err := src.Next(over)
		switch {
		case err == nil: // it was there without waiting
			got = append(got, b)
			continue
		case !errors.Is(err, context.Canceled):
			return want(context.Canceled, err)
		}
		if b, err = src.Next(ctx); err != nil {
			return fmt.Errorf("after a cancelled Next: %w", err)
		}
		got = append(got, b)
	}
	if hash(got) != hash(all) {
		return errors.New("other batches came than without it")
	}
	return nil
}

func checkClose(ctx context.Context, r Reader) error {
	for _, read := range []int{0, 1} {
		src, err := r.Open(ctx, media.OpenRequest{Name: r.Name})
		if err != nil {
			return err
		}
		for range read {
			if _, err := src.Next(ctx); err != nil {
				return err
			}
		}
		closed := make(chan error, 2)
		for range cap(closed) {
			go func() { closed <- src.Close() }()
		}
		for range cap(closed) {
			if err := <-closed; err != nil {
				return fmt.Errorf("after %d batches: Close: %w", read, err)
			}
		}
		_, err = src.Next(ctx)
		if err := want(media.ErrClosed, err); err != nil {
			return fmt.Errorf("Next after %d batches and Close: %w", read, err)
		}
	}
	return nil
}

func checkAfterEnd(ctx context.Context, r Reader) error {
	src, err := r.Open(ctx, media.OpenRequest{Name: r.Name})
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := rest(ctx, src); err != nil {
		return err
	}
	_, err = src.Next(ctx)
	return want(io.EOF, err)
}

func checkCost(ctx context.Context, r Reader) error {
	c, ok := r.Reader.(media.Coster)
	if !ok {
		return nil // a reader need not know
	}
	cost, err := c.Cost(ctx, media.OpenRequest{Name: r.Name})
	if err != nil {
		return fmt.Errorf("of %s: %w", r.Name, err)
	}
	if cost.Place == media.PlaceUnknown {
		return nil // it is out of the daemon, and does not know
	}
	if cost.Base <= 0 || cost.Place == "" {
		return fmt.Errorf("of %s: %+v has no place or no base", r.Name, cost)
	}
	if _, err = c.Cost(ctx, media.OpenRequest{Name: r.Missing}); want(media.ErrNotFound, err) != nil {
		return fmt.Errorf("of %s: %w", r.Missing, want(media.ErrNotFound, err))
	}
	return nil
}
