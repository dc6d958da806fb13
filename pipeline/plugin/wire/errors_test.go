package wire

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestErrorsThereAndBack(t *testing.T) {
	for _, c := range causes {
		got := FromStatus(ToStatus(fmt.Errorf("film: %w", c.err)))
		for _, other := range causes {
			if is := errors.Is(got, other.err); is != (other.err == c.err) {
				t.Errorf("%v: errors.Is %v is %v", c.err, other.err, is)
			}
		}
		if want := "film: " + c.err.Error(); got.Error() != want {
			t.Errorf("it says %q, want %q", got, want)
		}
		if Lost(got) {
			t.Errorf("%v counts as the loss of the connection", c.err)
		}
	}
	var redirect *media.RedirectError
	if got := FromStatus(ToStatus(fmt.Errorf("film: %w", &media.RedirectError{URL: "rtmp://a/b"}))); !errors.As(got, &redirect) || redirect.URL != "rtmp://a/b" {
		t.Errorf("redirect: %v", got)
	}
	if got := FromStatus(ToStatus(errors.New("odd"))); got.Error() != "odd" {
		t.Errorf("odd: %v", got)
	}
	if FromStatus(ToStatus(nil)) != nil {
		t.Error("nil has become an error")
	}
}

func TestMistakesInSettings(t *testing.T) {
	err := FromStatus(ToStatus(errors.Join(stage.Wrong("root", "is missing"), errors.Join(stage.Wrong("idle", "is %d", 5)))))
	if got, want := err.Error(), "root: is missing\nidle: is 5"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var wrong *stage.SettingError
	if !errors.As(err, &wrong) || wrong.Setting != "root" {
		t.Errorf("%v", err)
	}
}

// TestBareCodes is what plugins in other languages send.
func TestBareCodes(t *testing.T) {
	for code, want := range map[codes.Code]error{
		codes.NotFound: media.ErrNotFound, codes.AlreadyExists: media.ErrBusy, codes.PermissionDenied: media.ErrDenied,
		codes.Unavailable: media.ErrUnavailable, codes.ResourceExhausted: media.ErrFull, codes.Aborted: media.ErrChanged, codes.DeadlineExceeded: context.DeadlineExceeded,
	} {
		if err := FromStatus(status.Error(code, "film")); !errors.Is(err, want) || err.Error() != "film" {
			t.Errorf("%v: %v", code, err)
		}
	}
	if !Lost(FromStatus(status.Error(codes.Unavailable, "EOF"))) {
		t.Error("gRPC's own error does not count as the loss of the connection")
	}
}
