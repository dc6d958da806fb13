// Errors over the wire: what errors.Is says of them is the same on both sides.

package wire

import (
	"context"
	"errors"

	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	pb "github.com/mediad/mediad/pipeline/plugin/proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// causes are the errors that keep what they are. Where several have one code, the
// first is what the code means by itself.
var causes = []struct {
	err  error
	is   pb.Error_Is
	code codes.Code
}{
	{media.ErrNotFound, pb.Error_NOT_FOUND, codes.NotFound},
	{media.ErrBusy, pb.Error_BUSY, codes.AlreadyExists},
	{media.ErrDenied, pb.Error_DENIED, codes.PermissionDenied},
	{media.ErrFull, pb.Error_FULL, codes.ResourceExhausted},
	{media.ErrUnavailable, pb.Error_UNAVAILABLE, codes.Unavailable},
	{media.ErrChanged, pb.Error_CHANGED, codes.Aborted},
	{media.ErrTakenOver, pb.Error_TAKEN_OVER, codes.Aborted},
	{context.Canceled, pb.Error_CANCELED, codes.Canceled},
	{media.ErrClosed, pb.Error_CLOSED, codes.Canceled},
	{context.DeadlineExceeded, pb.Error_DEADLINE, codes.DeadlineExceeded},
}

// A remoteError is an error from the other side.
type remoteError struct {
	text string
	is   error // what it wraps, or nil
	lost bool  // gRPC's own error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

// ToStatus returns err as a gRPC status.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	code := codes.Unknown
	var details []*pb.Error
	for _, wrong := range settingsIn(err) {
		code = codes.InvalidArgument
		details = append(details, &pb.Error{Is: pb.Error_SETTING, Setting: wrong.Setting, Text: wrong.Err.Error()})
	}
	if details == nil {
		e := toProto(err)
		details = append(details, e)
		for _, c := range causes {
			if c.is == e.Is {
				code = c.code
			}
		}
	}
	st := status.New(code, err.Error())
	for _, d := range details {
		if with, err := st.WithDetails(d); err == nil {
			st = with
		}
	}
	return st.Err()
}

func toProto(err error) *pb.Error {
	e := &pb.Error{Text: err.Error()}
	var redirect *media.RedirectError
	if errors.As(err, &redirect) {
		e.Is, e.Url = pb.Error_REDIRECT, redirect.URL
		return e
	}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			e.Is = c.is
			break
		}
	}
	return e
}

// settingsIn lists the mistakes in settings that err is made of.
func settingsIn(err error) []*stage.SettingError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []*stage.SettingError
		for _, e := range joined.Unwrap() {
			list = append(list, settingsIn(e)...)
		}
		return list
	}
	var wrong *stage.SettingError
	if errors.As(err, &wrong) {
		return []*stage.SettingError{wrong}
	}
	return nil
}

// FromStatus returns the error that a gRPC status stands for. A status that is not
// the other side's own, since the connection is lost, wraps media.ErrUnavailable.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	var list []error
	for _, d := range st.Details() {
		if e, ok := d.(*pb.Error); ok {
			list = append(list, fromProto(e))
		}
	}
	if list != nil {
		return errors.Join(list...)
	}
	if st.Code() == codes.InvalidArgument { // of Make, from a plugin that knows no more exact way to say it
		return stage.Wrong("with", "%s", st.Message())
	}
	e := &remoteError{text: st.Message(), lost: st.Code() == codes.Unavailable}
	for _, c := range causes {
		if c.code == st.Code() {
			e.is = c.err
			break
		}
	}
	return e
}

func fromProto(e *pb.Error) error {
	switch e.Is {
	case pb.Error_SETTING:
		return &stage.SettingError{Setting: e.Setting, Err: errors.New(e.Text)}
	case pb.Error_REDIRECT:
		return &remoteError{text: e.Text, is: &media.RedirectError{URL: e.Url}}
	}
	for _, c := range causes {
		if c.is == e.Is {
			return &remoteError{text: e.Text, is: c.err}
		}
	}
	return &remoteError{text: e.Text}
}

// Lost reports whether err may be the loss of the connection, and not what the
// other side has answered.
func Lost(err error) bool {
	var e *remoteError
	return errors.As(err, &e) && e.lost
}
