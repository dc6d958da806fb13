// Variables of the environment in values: ${NAME}, ${NAME:-default}, and $$ for a
// dollar.

package pipeline

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	variable = regexp.MustCompile(`\$(\$|\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-[^{}]*)?\})?)`)
	braces   = regexp.MustCompile(`\$+\{[^{}\n]*\}`)
)

// In {root: ${MEDIA}} YAML would take the inner braces for a mapping. While a file
// is parsed these two stand for them, one letter each so that columns stay right.
var (
	shield   = strings.NewReplacer("{", "\ue000", "}", "\ue001")
	unshield = strings.NewReplacer("\ue000", "{", "\ue001", "}")
)

func shieldVariables(text []byte) []byte {
	return braces.ReplaceAllFunc(text, func(m []byte) []byte {
		return []byte(shield.Replace(string(m)))
	})
}

// expand returns s with the variables replaced by what env has for them. As in a
// shell, a default also stands in for a variable that is empty.
func expand(s string, env func(string) (string, bool)) (string, error) {
	var errs []error
	out := variable.ReplaceAllStringFunc(s, func(m string) string {
		if m == "$$" {
			return "$"
		}
		parts := variable.FindStringSubmatch(m)
		name, def := parts[2], parts[3]
		if name == "" {
			errs = append(errs, errors.New("${ starts a variable: write ${NAME} or ${NAME:-default}, or $${ for the characters themselves"))
			return ""
		}
		value, ok := env(name)
		if value == "" && def != "" {
			return def[len(":-"):]
		}
		if !ok {
			errs = append(errs, fmt.Errorf("the environment variable %s is not set: set it, or write ${%s:-default}", name, name))
		}
		return value
	})
	return out, errors.Join(errs...)
}
