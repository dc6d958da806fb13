package page

import (
	"reflect"
	"testing"
)

func TestBlocks(t *testing.T) {
	got := parse("p", "text\n\n```sh\n$ one \\\n  more\n1\na$ two &\n```\n- a list\n  goes on\n\n    indented\n\n    still\n\n```yaml f.yaml\na: 1\n```\n")
	want := []Block{
		{"p", 3, "sh", "", "$ one \\\n  more\n1\na$ two &\n"},
		{"p", 12, "", "", "    indented\n    still\n"},
		{"p", 16, "yaml", "f.yaml", "a: 1\n"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v", got)
	}
	commands := got[0].Commands()
	if want := []Command{
		{Block: got[0], Line: 4, Text: "one    more", Output: "1\n"},
		{Block: got[0], Line: 7, Host: "a", Text: "two", Starts: true},
	}; !reflect.DeepEqual(commands, want) {
		t.Errorf("%+v", commands)
	}
}

// failures is a test that only notes that it fails.
type failures struct {
	testing.TB
	count int
}

func (f *failures) Helper()               {}
func (f *failures) Errorf(string, ...any) { f.count++ }

func TestRules(t *testing.T) {
	followed := 0
	nothing := func(Block) { followed++ }
	for _, test := range []struct {
		rules           Rules
		follow, failing int
	}{
		{Rules{"sh": nothing, "yaml": nothing, "": nothing}, 4, 0},
		{Rules{"sh": nothing, "yaml": nothing, "yaml b.yml": nothing, "": nothing}, 4, 0},
		{Rules{"sh": nothing, "yaml": nothing}, 3, 1},       // a block without a rule
		{Rules{"sh": nothing, "yaml b.yml": nothing}, 2, 2}, // two of them
	} {
		followed = 0
		f := &failures{TB: t}
		Follow(f, "testdata/page.md", test.rules)
		if followed != test.follow || f.count != test.failing {
			t.Errorf("%v: %d blocks are followed and %d fail, want %d and %d", test.rules, followed, f.count, test.follow, test.failing)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		text, want string
		is         bool
	}{
		{"a  b\n", "a b\n", true},
		{"a c\n", "a b\n", false},
		{"a 17 b\n", "a ... b\n", true},
		{"x\ny\nz\n", "...\nz\n", true},
		{"x\ny\nz\n", "...\ny\n", false},
		{"", "", true},
		{"x\n", "", false},
		{"a.b\n", "a+b\n", false},
	} {
		if Matches(test.text, test.want) != test.is {
			t.Errorf("%q and %q: want %v", test.text, test.want, test.is)
		}
	}
}

func TestPrograms(t *testing.T) {
	for command, want := range map[string][][]string{
		`A=1 B="x y" run -c 'a b' c=d # text`: {{"run", "-c", "a b", "c=d"}},
		`cd x && make -j 2 | tail -1; ls`:     {{"cd", "x"}, {"make", "-j", "2"}, {"tail", "-1"}, {"ls"}},
		`a 2>/dev/null >b <c d 2>&1`:          {{"a", "d"}},
		`probe $(ls x | head -1) "a#b"`:       {{"probe", "$(ls x | head -1)", "a#b"}},
		`# nothing`:                           nil,
	} {
		if got := Programs(command); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q", command, got)
		}
	}
	got := Block{Line: 1, Text: "a \\\n b\n\n# c\nd\n"}.Lines()
	if len(got) != 2 || got[1].Line != 6 || got[1].Text != "d" {
		t.Errorf("%+v", got)
	}
}
