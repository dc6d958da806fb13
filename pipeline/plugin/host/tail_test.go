package host

import (
	"bufio"
	"errors"
	"io"
	"os"
	"testing"
)

// A process that is killed while it writes leaves a line without an end, after which
// go-plugin reads once more.
func TestTail_LineWithoutEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("panic: lost\n\ngoroutine 1 [run"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	kept := &tail{r: r, ended: make(chan struct{})}
	lines := bufio.NewReader(kept)
	for n := 0; ; n++ {
		if _, _, err := lines.ReadLine(); errors.Is(err, io.EOF) {
			break
		}
		if n == 3 {
			t.Fatal("there is no end")
		}
	}
	select {
	case <-kept.ended:
	default:
		t.Error("the end is not noted")
	}
	if got := kept.String(); got != "panic: lost / goroutine 1 [run" {
		t.Errorf("kept is %q", got)
	}
}
