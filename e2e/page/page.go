// Package page reads the project's documents for the tests that do what stands in them: the
// blocks of code, and the commands in these with what they print.
package page

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// A Block is one block of code: ```LANGUAGE FILE. One that is only indented has no language.
type Block struct {
	Page           string
	Line           int // its first, as one counts in an editor
	Language, File string
	Text           string
}

func (b Block) String() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// Read returns the blocks of a page.
func Read(t testing.TB, path string) []Block {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parse(path, string(text))
}

func parse(path, text string) (list []Block) {
	var open *Block
	fenced, before := false, ""
	end := func() {
		if open != nil {
			list = append(list, *open)
		}
		open = nil
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		head, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && fenced:
			end()
			fenced = false
		case fence:
			end()
			language, file, _ := strings.Cut(head, " ")
			open, fenced = &Block{Page: path, Line: number, Language: language, File: file}, true
		case open != nil && (fenced || strings.HasPrefix(line, "    ")):
			open.Text += line
		case open == nil && strings.TrimSpace(before) == "" && strings.HasPrefix(line, "    "):
			open = &Block{Page: path, Line: number, Text: line}
		case open != nil && strings.TrimSpace(line) != "":
			end()
		}
		before = line
	}
	end()
	return list
}

// Rules say what is done with the blocks of each language. "LANGUAGE FILE" goes before the
// language alone.
type Rules map[string]func(Block)

// Follow does with the blocks of a page what the rules say. A block that has none fails the
// test, and so does a page without a block.
func Follow(t testing.TB, path string, rules Rules) {
	t.Helper()
	blocks := Read(t, path)
	if len(blocks) == 0 {
		t.Errorf("%s has no block", path)
	}
	for _, b := range blocks {
		rule := rules[b.Language+" "+b.File]
		if rule == nil {
			rule = rules[b.Language]
		}
		if rule == nil {
			t.Errorf("%s: there is no rule for a block of %q: nobody would notice what is wrong in it", b, b.Language)
			continue
		}
		rule(b)
	}
}

// A Command is one command of a block, after a prompt.
type Command struct {
	Block  Block
	Line   int
	Host   string // the machine that the prompt names: "a" in "a$ "
	Text   string
	Starts bool // it ends with "&", which is not in Text: it goes on while the others run
	Output string
}

func (c Command) String() string { return fmt.Sprintf("%s:%d: %s", c.Block.Page, c.Line, c.Text) }

var prompt = regexp.MustCompile(`(?m)^([a-z]?)\$ `)

// Commands returns the commands of a block, the lines with a prompt "$ ", each with the lines that
// follow, which are what it prints. A command goes on after a backslash at the end of a line.
func (b Block) Commands() (list []Command) {
	at := prompt.FindAllStringSubmatchIndex(b.Text, -1)
	for i, m := range at {
		end := len(b.Text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		c := Command{Block: b, Line: b.Line + 1 + strings.Count(b.Text[:m[0]], "\n"), Host: b.Text[m[2]:m[3]]}
		c.Text, c.Output, _ = strings.Cut(strings.ReplaceAll(b.Text[m[1]:end], "\\\n", " "), "\n")
		c.Text, c.Starts = strings.CutSuffix(c.Text, " &")
		list = append(list, c)
	}
	return list
}

// Matches reports whether text is what a page has: "..." stands for anything in a line, and for any
// lines where it stands alone. Spaces are as wide as they like.
func Matches(text, want string) bool {
	var pattern strings.Builder
	for line := range strings.Lines(want) {
		line = strings.Join(strings.Fields(line), " ")
		if line == "..." {
			pattern.WriteString(`(.*\n)*`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, `.*`) + `\n`)
	}
	var got strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintln(&got, strings.Join(strings.Fields(line), " "))
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(got.String())
}

// Lines returns the commands of a block that has no prompts, each a line.
func (b Block) Lines() (list []Command) {
	number, begun := b.Line, ""
	for line := range strings.Lines(b.Text) {
		number++
		line = begun + strings.TrimSuffix(line, "\n")
		if rest, goesOn := strings.CutSuffix(line, "\\"); goesOn {
			begun = rest
			continue
		}
		begun = ""
		if len(Programs(line)) > 0 {
			list = append(list, Command{Block: b, Line: number, Text: line})
		}
	}
	return list
}

// Programs takes a command of the shell apart: the words of each program that it runs. Variables that
// are set before one, redirections and comments are left out. What stands in $(...) is a word.
func Programs(command string) (list [][]string) {
	var words []string
	var word strings.Builder
	inWord, skip := false, false
	next := func() {
		switch {
		case !inWord:
			return
		case skip:
			skip = false
		case len(words) > 0 || !assignment.MatchString(word.String()):
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	end := func() {
		next()
		if len(words) > 0 {
			list = append(list, words)
		}
		words = nil
	}
	for i := 0; i < len(command); i++ {
		switch c := command[i]; c {
		case ' ', '\t', '\n':
			next()
		case '|', '&', ';':
			end()
		case '<', '>':
			if digits.MatchString(word.String()) { // a descriptor
				word.Reset()
				inWord = false
			}
			next()
			skip = true
			for i+1 < len(command) && strings.IndexByte("<>&", command[i+1]) >= 0 {
				i++
			}
		case '#':
			if !inWord {
				end()
				return list
			}
			word.WriteByte(c)
		case '\'', '"':
			n := strings.IndexByte(command[i+1:], c)
			if n < 0 {
				n = len(command) - i - 2
			}
			word.WriteString(command[i+1 : i+1+n])
			inWord, i = true, i+n+1
		case '$':
			n := 1
			if strings.HasPrefix(command[i:], "$(") {
				n = max(n, strings.IndexByte(command[i:], ')')+1)
			}
			word.WriteString(command[i : i+n])
			inWord, i = true, i+n-1
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	end()
	return list
}

var (
	assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	digits     = regexp.MustCompile(`^[0-9]$`)
)
