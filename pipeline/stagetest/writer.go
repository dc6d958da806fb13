// Checks of a writer.

package stagetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mediad/mediad/core/media"
)

// A Writer is a writer of recorded media to be checked.
type Writer struct {
	media.Writer
	// Name is what the checks name their media, with a number behind it.
	Name string
	// Back reads what was written, once its sink is closed. Times may be shifted
	// so that the first is 0.
	Back media.Reader
	// Fail makes the storage fail, as a full disk does, until restore is called.
	// Without it that check is left out.
	Fail func() (restore func() error, err error)
}

// CheckWriter checks a writer and tells report, which may be nil, of each check.
func CheckWriter(ctx context.Context, w Writer, report func(name string, err error)) error {
	return run(ctx, writerChecks, w, report)
}

var writerChecks = []Check[Writer]{
	{"what is written can be read", checkWritten},
	{"commit without frames", checkNothingWritten},
	{"huge frames", checkHuge},
	{"a header that changes", checkNewHeader},
	{"two sinks at once", checkTwoSinks},
	{"a name twice", checkSameName},
	{"names that lead elsewhere", checkWriterNames},
	{"Close twice", checkCloseTwice},
	{"a cancelled Write", checkCancelledWrite},
	{"batches are left as they are", checkLeftAlone},
	{"a Close that may not wait", checkAbort},
	{"a storage that fails", checkFailingStorage},
}

func (w Writer) create(ctx context.Context, n int) (media.Sink, string, error) {
	name := fmt.Sprintf("%s%d", w.Name, n)
	sink, err := w.Create(ctx, media.CreateRequest{Name: name, Info: media.Info{Name: name}})
	return sink, name, err
}

// write writes a film under the number and commits it.
func (w Writer) write(ctx context.Context, n int, film []*media.Batch) (name string, err error) {
	sink, name, err := w.create(ctx, n)
	if err != nil {
		return name, err
	}
	for i, b := range film {
		if err := sink.Write(ctx, b); err != nil {
			return name, errors.Join(fmt.Errorf("batch %d: %w", i, err), sink.Close(ctx))
		}
	}
	return name, sink.Close(ctx)
}

// compare reads name back and compares it with the film, frame by frame.
func (w Writer) compare(ctx context.Context, name string, film []*media.Batch) error {
	batches, _, err := readAll(ctx, Reader{Reader: w.Back, Name: name}, 0)
	if err != nil {
		return err
	}
	got, want := frames(batches), frames(film)
	for i := range min(len(got), len(want)) {
		g, f := got[i], want[i]
		if g.Track != f.Track || g.Key != f.Key || g.DTS-got[0].DTS != f.DTS-want[0].DTS || g.PTS-g.DTS != f.PTS-f.DTS || string(g.Body) != string(f.Body) {
			return fmt.Errorf("frame %d of %s: read %s at %v, written %s at %v", i, name, g.Track, g.DTS, f.Track, f.DTS)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d frames of %s were read, %d written", len(got), name, len(want))
	}
	for i, b := range batches {
		if err := CheckBatch(b); err != nil {
			return fmt.Errorf("batch %d of %s: %w", i, name, err)
		}
	}
	return nil
}

// comparePrefix reads name back, if it is there, and checks that it is how the film
// begins.
func (w Writer) comparePrefix(ctx context.Context, name string, film []*media.Batch) error {
	batches, _, err := readAll(ctx, Reader{Reader: w.Back, Name: name}, 0)
	if err != nil {
		return nil // nothing of it was committed
	}
	got, want := frames(batches), frames(film)
	if len(got) > len(want) {
		return fmt.Errorf("%d frames of %s were read, %d written", len(got), name, len(want))
	}
	for i := range got {
		if string(got[i].Body) != string(want[i].Body) {
			return fmt.Errorf("frame %d of %s is not the one written", i, name)
		}
	}
	return nil
}

func frames(batches []*media.Batch) []media.Frame {
	var list []media.Frame
	for _, b := range batches {
		list = append(list, b.Frames()...)
	}
	return list
}

func checkWritten(ctx context.Context, w Writer) error {
	film := Film(4, 200)
	name, err := w.write(ctx, 1, film)
	if err != nil {
		return err
	}
	return w.compare(ctx, name, film)
}

func checkNothingWritten(ctx context.Context, w Writer) error {
	_, err := w.write(ctx, 2, nil)
	return err
}

func checkHuge(ctx context.Context, w Writer) error {
	film := Film(2, 400<<10)
	name, err := w.write(ctx, 3, film)
	if err != nil {
		return err
	}
	return w.compare(ctx, name, film)
}

func checkNewHeader(ctx context.Context, w Writer) error {
	film := Film(4, 200)
	h := *film[0].Header()
	h.Video.Config = append([]byte(nil), h.Video.Config...)
	h.Video.Config[len(h.Video.Config)-1]++
	for i := 2; i < 4; i++ {
		film[i] = media.NewBatch(&h, film[i].Prev(), film[i].Frames()...)
	}
	name, err := w.write(ctx, 4, film)
	if err != nil {
		return err
	}
	if err := w.compare(ctx, name, film); err != nil {
		return err
	}
	batches, _, err := readAll(ctx, Reader{Reader: w.Back, Name: name}, 2*time.Second)
	if err != nil {
		return err
	}
	if got := batches[0].Header().Video.Config; string(got) != string(h.Video.Config) {
		return fmt.Errorf("from 2 s on the configuration is %x, want %x", got, h.Video.Config)
	}
	return nil
}

func checkTwoSinks(ctx context.Context, w Writer) error {
	results := make(chan error, 2)
	for n := range cap(results) {
		go func() {
			film := Film(3+n, 300)
			name, err := w.write(ctx, 5+n, film)
			if err == nil {
				err = w.compare(ctx, name, film)
			}
			results <- err
		}()
	}
	return errors.Join(<-results, <-results)
}

// checkSameName writes one name twice: the second may be refused, or go
// elsewhere, but the first must not be lost.
func checkSameName(ctx context.Context, w Writer) error {
	film := Film(2, 100)
	name, err := w.write(ctx, 7, film)
	if err != nil {
		return err
	}
	if _, err := w.write(ctx, 7, Film(3, 150)); err != nil && !errors.Is(err, media.ErrBusy) {
		return fmt.Errorf("the second: %w", err)
	}
	return w.compare(ctx, name, film)
}

func checkWriterNames(ctx context.Context, w Writer) error {
	for _, name := range []string{"../" + w.Name, "/tmp/" + w.Name, "..", "", "x/../../" + w.Name} {
		sink, err := w.Create(ctx, media.CreateRequest{Name: name})
		if err == nil {
			return errors.Join(fmt.Errorf("%q was created", name), sink.Close(ctx))
		}
	}
	return nil
}

func checkCloseTwice(ctx context.Context, w Writer) error {
	sink, _, err := w.create(ctx, 8)
	if err != nil {
		return err
	}
	film := Film(1, 100)
	if err := sink.Write(ctx, film[0]); err != nil {
		return err
	}
	for n := range 2 {
		if err := sink.Close(ctx); err != nil {
			return fmt.Errorf("Close number %d: %w", n+1, err)
		}
	}
	if err := sink.Write(ctx, film[0]); err == nil {
		return errors.New("a Write after Close went well")
	}
	return nil
}

func checkCancelledWrite(ctx context.Context, w Writer) error {
	sink, name, err := w.create(ctx, 9)
	if err != nil {
		return err
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	film := Film(3, 100)
	for _, b := range film {
		if err := sink.Write(over, b); err == nil {
			continue // it had room
		} else if !errors.Is(err, context.Canceled) {
			return errors.Join(want(context.Canceled, err), sink.Close(ctx))
		}
		if err := sink.Write(ctx, b); err != nil {
			return errors.Join(fmt.Errorf("after a cancelled Write: %w", err), sink.Close(ctx))
		}
	}
	if err := sink.Close(ctx); err != nil {
		return err
	}
	return w.compare(ctx, name, film)
}

func checkLeftAlone(ctx context.Context, w Writer) error {
	film := Film(3, 100)
	before := hash(film)
	if _, err := w.write(ctx, 10, film); err != nil {
		return err
	}
	if hash(film) != before {
		return errors.New("they were changed")
	}
	return nil
}

// checkAbort closes a sink with a context that has ended: it may commit or not, but
// leaves nothing that is broken.
func checkAbort(ctx context.Context, w Writer) error {
	sink, name, err := w.create(ctx, 11)
	if err != nil {
		return err
	}
	film := Film(2, 100)
	for _, b := range film {
		if err := sink.Write(ctx, b); err != nil {
			return errors.Join(err, sink.Close(ctx))
		}
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := sink.Close(over); err != nil && !errors.Is(err, context.Canceled) {
		return want(context.Canceled, err)
	}
	return w.comparePrefix(ctx, name, film)
}

// checkFailingStorage writes until the storage fails, which must be told, and looks
// whether all is well again once it does not.
func checkFailingStorage(ctx context.Context, w Writer) error {
	if w.Fail == nil {
		return nil
	}
	sink, name, err := w.create(ctx, 12)
	if err != nil {
		return err
	}
	film := Film(20, 40<<10)
	if err := sink.Write(ctx, film[0]); err != nil {
		return errors.Join(err, sink.Close(ctx))
	}
	restore, err := w.Fail()
	if err != nil {
		return errors.Join(err, sink.Close(ctx))
	}
	err = nil
	for _, b := range film[1:] {
		if err = sink.Write(ctx, b); err != nil {
			break
		}
	}
	err = errors.Join(err, sink.Close(ctx)) // one of them must tell
	if rerr := restore(); rerr != nil {
		return rerr
	}
	if err == nil {
		return errors.New("the storage failed, and neither Write nor Close said so")
	}
	if err := w.comparePrefix(ctx, name, film); err != nil {
		return err
	}
	again := Film(2, 100)
	if name, err = w.write(ctx, 13, again); err != nil {
		return fmt.Errorf("the storage works again, but: %w", err)
	}
	return w.compare(ctx, name, again)
}
