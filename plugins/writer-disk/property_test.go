package writerdisk

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/pipeline/stagetest"
)

// Whatever the writer has done when the power goes, with what it has written cut at any
// byte: after the next start each file is a beginning of what was written, or gone.
func TestAnyCutIsRepaired(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	film := stagetest.Film(4, 200)
	whole := frames(film)
	for range 60 {
		left := t.TempDir()
		w := open(t, left, Keep{})
		s, err := w.Create(t.Context(), media.CreateRequest{Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		written := film[:rng.IntN(len(film)+1)]
		for _, b := range written {
			if err := s.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(left, "a.flv")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(written) > 0 && rng.IntN(3) == 0 { // it was finished, but not all is on the disk
			if content, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
		root := t.TempDir()
		cut := rng.IntN(len(content) + 1)
		if err := os.WriteFile(filepath.Join(root, "a.flv"), content[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		again := open(t, root, Keep{})
		again.repair(t.Context(), again.root)
		repaired, err := read(root, "a.flv")
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Errorf("%d bytes of %d, %d batches: %v", cut, len(content), len(written), err)
			continue
		}
		got := frames(repaired)
		for i, f := range got {
			if f.DTS-got[0].DTS != whole[i].DTS-whole[0].DTS || string(f.Body) != string(whole[i].Body) {
				t.Fatalf("%d bytes of %d: frame %d is another one", cut, len(content), i)
			}
		}
	}
}
