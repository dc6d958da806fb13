package main

import (
	"slices"
	"strings"
	"testing"
)

func TestNumbersOf(t *testing.T) {
	for test, want := range map[string]struct {
		numbers []int
		own     bool
	}{
		"TestT12_AMFNesting":             {[]int{12}, true},
		"TestT12_T13_HostileAMF":         {[]int{12, 13}, true},
		"TestT12_AMFNesting/case":        {[]int{12}, false},
		"TestTorments_Wire":              {nil, false},
		"TestTorments_Wire/T07_Length":   {[]int{7}, true},
		"TestTorments_Wire/T07_Length/a": {[]int{7}, false},
	} {
		if numbers, own := numbersOf(test); !slices.Equal(numbers, want.numbers) || own != want.own {
			t.Errorf("%s: %v, %v", test, numbers, own)
		}
	}
}

func TestReport(t *testing.T) {
	numbers := map[int]*result{}
	var progress strings.Builder
	broken := collect(strings.NewReader(`
{"Action":"output","Package":"p","Test":"TestT01_A","Output":"    x_test.go:1: saw: a thing; \n"}
{"Action":"pass","Package":"p","Test":"TestT01_A/case","Elapsed":1}
{"Action":"pass","Package":"p","Test":"TestT01_A","Elapsed":1}
{"Action":"output","Package":"p","Test":"TestAll/T02_B/case","Output":"    x_test.go:2: wrong\n"}
{"Action":"fail","Package":"p","Test":"TestAll/T02_B"}
{"Action":"fail","Package":"p","Test":"TestAll"}
{"Action":"fail","Package":"p"}
{"Action":"output","Package":"q","Output":"q does not build\n"}
{"Action":"fail","Package":"q"}
`), &progress, numbers)
	if !strings.Contains(progress.String(), "  2 FAILED p TestAll/T02_B\n    x_test.go:2: wrong\n") {
		t.Errorf("progress: %s", &progress)
	}
	if len(broken) != 1 || !strings.Contains(broken[0], "q does not build") {
		t.Errorf("broken: %q", broken)
	}
	var table strings.Builder
	err := report(&table, numbers, true)
	if err == nil || !strings.Contains(err.Error(), "71 of the 72") {
		t.Error(err)
	}
	for _, want := range []string{"| a thing | 1 in 1.0 s | ok |", "FAILED: p TestAll/T02_B", "| 3 | random C2 | accepted |  | 0 in 0.0 s | MISSING |"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("%q is missing in\n%s", want, table.String())
		}
	}
}
