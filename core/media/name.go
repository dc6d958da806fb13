// What may be the name of a channel or a file, checked once where a name enters
// the daemon (a play or publish command, a URL, a setting).

package media

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the longest name in bytes.
const MaxName = 255

// CheckName returns an error that says what is wrong with a name that came from
// outside, or nil. A name is made of path elements divided by single slashes;
// no element is empty, "." or "..", or starts with a dot, and there are no control
// characters, backslashes or characters that HTML, a shell or a log would take for its own.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("the name has %d bytes, at most %d are allowed", len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8", name)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || strings.ContainsRune(`\<>"'&?#%*|:`+"`$", r) {
			return fmt.Errorf("the name %q has the character %q", name, r)
		}
	}
	for elem := range strings.SplitSeq(name, "/") {
		if elem == "" || strings.HasPrefix(elem, ".") {
			return fmt.Errorf("the name %q has the path element %q", name, elem)
		}
	}
	return nil
}
