// Command torture runs every test of the repository that carries a number of the
// torture list in its name, such as TestT12_AMFNesting or the case T07_Length of
// a table, and ends with a table of what was done, expected and seen. It fails when
// a test does, or when a number has none.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// allVariable is set for tests that leave something out when it is not: the cases that
// take long.
const allVariable = "TORTURE"

func main() {
	packages := flag.String("packages", "./...", "the packages whose tests are run, with spaces between them")
	missing := flag.Bool("missing", true, "fail when a number has no test")
	out := flag.String("out", "", "a file for the table too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	numbers, err := run(ctx, *packages, os.Stderr)
	if err == nil {
		var table strings.Builder
		err = report(io.MultiWriter(os.Stdout, &table), numbers, *missing)
		if *out != "" {
			text := "# The last torture\n\nMade by `make torture`, " + time.Now().Format(time.DateTime) + "; see torture.md.\n\n" + table.String()
			err = errors.Join(err, os.WriteFile(*out, []byte(text), 0o644))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A result is what has become of the tests of one number.
type result struct {
	tests  []string
	failed []string
	saw    []string
	took   time.Duration
}

// run runs the tests and tells of each number on the way.
func run(ctx context.Context, packages string, progress io.Writer) (map[int]*result, error) {
	// One package at a time: some measure times, and several are a load.
	args := []string{"test", "-json", "-count=1", "-p=1", "-timeout=30m", "-run", `T\d\d_|^TestTorments_`}
	cmd := exec.CommandContext(ctx, "go", append(args, strings.Fields(packages)...)...)
	cmd.Env = append(os.Environ(), allVariable+"=all")
	cmd.Stderr = progress
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	numbers := map[int]*result{}
	broken := collect(out, progress, numbers)
	if err := cmd.Wait(); err != nil && len(broken) > 0 {
		return nil, fmt.Errorf("these packages cannot be tested:\n%s", strings.Join(broken, "\n"))
	}
	return numbers, nil
}

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// collect reads the events, and returns the packages that have failed in no test.
func collect(r io.Reader, progress io.Writer, numbers map[int]*result) (broken []string) {
	failed := map[string]bool{} // packages with a test that has failed
	last := map[string][]string{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		switch {
		case e.Action == "output":
			for of := range within(e.Test) {
				last[e.Package+of] = append(last[e.Package+of], e.Output)
			}
		case e.Action == "fail" && e.Test == "" && !failed[e.Package]:
			broken = append(broken, e.Package+"\n"+strings.Join(last[e.Package], ""))
		case e.Action == "fail":
			failed[e.Package] = true
		}
		note(e, last[e.Package+e.Test], progress, numbers)
	}
	return broken
}

// within are a test and those that it is a case of.
func within(test string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for yield(test) {
			at := strings.LastIndexByte(test, '/')
			if at < 0 {
				return
			}
			test = test[:at]
		}
	}
}

// note puts an event to the numbers that its test carries.
func note(e event, said []string, progress io.Writer, numbers map[int]*result) {
	if e.Action != "output" && e.Action != "pass" && e.Action != "fail" {
		return
	}
	carried, own := numbersOf(e.Test)
	name := strings.TrimPrefix(e.Package, "github.com/mediad/mediad/") + " " + e.Test
	for _, n := range carried {
		r := numbers[n]
		if r == nil {
			r = &result{}
			numbers[n] = r
		}
		switch {
		case e.Action == "output":
			if _, saw, ok := strings.Cut(e.Output, "saw: "); ok {
				r.saw = append(r.saw, strings.TrimRight(saw, "; \n"))
			}
		case !own: // a case of a test that is noted itself
		case e.Action == "fail":
			r.failed = append(r.failed, name)
			fmt.Fprintf(progress, "%3d FAILED %s\n%s", n, name, strings.Join(said, ""))
		default:
			r.tests = append(r.tests, name)
			r.took += time.Duration(e.Elapsed * float64(time.Second))
			fmt.Fprintf(progress, "%3d %s\n", n, name)
		}
	}
}

var carries = regexp.MustCompile(`T(\d\d)_`)

// numbersOf returns the numbers that a test's name carries, and whether they stand in
// its last element: else it is a case of the test that carries them.
func numbersOf(test string) (numbers []int, own bool) {
	elements := strings.Split(test, "/")
	for i, element := range elements {
		for _, m := range carries.FindAllStringSubmatch(element, -1) {
			n, _ := strconv.Atoi(m[1])
			numbers = append(numbers, n)
		}
		if len(numbers) > 0 {
			return numbers, i == len(elements)-1
		}
	}
	return nil, false
}

// report prints the table.
func report(w io.Writer, numbers map[int]*result, missing bool) error {
	bad := 0
	fmt.Fprintln(w, "After each of these:", always+".")
	fmt.Fprintln(w)
	fmt.Fprintln(w, "| | done | expected | seen | tests | result |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- |")
	for _, n := range slices.Sorted(maps.Keys(list)) {
		r, verdict := numbers[n], "ok"
		switch {
		case r == nil && !missing:
			continue
		case r == nil:
			r, verdict = &result{}, "MISSING"
			bad++
		case len(r.failed) > 0:
			verdict = "FAILED: " + strings.Join(r.failed, ", ")
			bad++
		}
		saw := strings.Join(r.saw, "; ")
		if saw == "" && verdict == "ok" {
			saw = "just that"
		}
		fmt.Fprintf(w, "| %d | %s | %s | %s | %d in %.1f s | %s |\n", n, list[n].does, list[n].expects, saw, len(r.tests)+len(r.failed), r.took.Seconds(), verdict)
	}
	if bad > 0 {
		return fmt.Errorf("%d of the %d numbers are missing or have failed", bad, len(list))
	}
	return nil
}
