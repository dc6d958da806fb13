// The checks as tests.

package stagetest

import "testing"

// TestReader runs the checks of CheckReader as subtests.
func TestReader(t *testing.T, r Reader) { test(t, readerChecks, r) }

// TestWriter runs the checks of CheckWriter as subtests.
func TestWriter(t *testing.T, w Writer) { test(t, writerChecks, w) }

// TestMiddleware runs the checks of CheckMiddleware as subtests.
func TestMiddleware(t *testing.T, m Middleware) { test(t, middlewareChecks(), m) }

func test[S any](t *testing.T, checks []Check[S], subject S) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.Name, func(t *testing.T) {
			if err := c.Run(t.Context(), subject); err != nil {
				t.Error(err)
			}
		})
	}
}
