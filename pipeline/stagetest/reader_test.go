package stagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mediad/mediad/core/media"
)

// shelf is a reader that keeps the contract, but for one fault.
type shelf struct{ fault string }

// film has five GOPs, the third of them in two batches.
func film(fault string) []*media.Batch {
	h := &media.Header{Video: media.Format{Codec: "h264"}, Audio: media.Format{Codec: "aac"}}
	builder := media.NewBuilder(media.NoClock)
	var list []*media.Batch
	for gop := range 5 {
		at := time.Duration(gop) * time.Second
		if fault == "times run back" && gop == 3 {
			at = time.Second
		}
		builder.Copy(media.Frame{Track: media.Video, Key: true, DTS: at, PTS: at, Body: []byte("key")})
		if gop == 2 {
			list = append(list, builder.Batch(h))
		}
		if fault == "keyframe in the middle" && gop == 1 {
			builder.Copy(media.Frame{Track: media.Video, Key: true, DTS: at, PTS: at, Body: []byte("key")})
		}
		at += 500 * time.Millisecond
		builder.Copy(media.Frame{Track: media.Audio, DTS: at, PTS: at, Body: fmt.Appendf(nil, "sound %d", gop)})
		list = append(list, builder.Batch(h))
	}
	return list
}

func (s shelf) Open(_ context.Context, req media.OpenRequest) (media.Source, error) {
	if req.Name != "film" && s.fault != "opens anything" {
		if s.fault == "odd error" {
			return nil, errors.New("odd")
		}
		return nil, fmt.Errorf("%s: %w", req.Name, media.ErrNotFound)
	}
	all := film(s.fault)
	at := 0
	for i, b := range all {
		if b.Join() && b.DTS() <= req.From {
			at = i
		}
	}
	if s.fault == "starts late" && at > 0 {
		at++
	}
	return &reel{fault: s.fault, batches: all[at:]}, nil
}

type reel struct {
	mu      sync.Mutex
	fault   string
	batches []*media.Batch
	closed  bool
	closes  int
	last    *media.Batch
}

func (r *reel) Info() media.Info {
	info := media.Info{Name: "film", Duration: 4500 * time.Millisecond, Live: r.fault == "live"}
	switch r.fault {
	case "wrong duration":
		info.Duration = time.Second
	case "another version":
		info.Version = fmt.Sprint(versions.Add(1))
	}
	return info
}

var versions atomic.Int64

func (r *reel) Next(ctx context.Context) (*media.Batch, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := ctx.Err(); err != nil {
		if r.fault == "cancel loses" && len(r.batches) > 0 {
			r.batches = r.batches[1:]
		}
		return nil, err
	}
	if r.closed && r.fault != "reads on" {
		return nil, media.ErrClosed
	}
	if len(r.batches) == 0 {
		return nil, io.EOF
	}
	b := r.batches[0]
	r.batches = r.batches[1:]
	if r.fault == "reuses memory" && r.last != nil {
		r.last.Frames()[0].Body[0]++
	}
	r.last = b
	return b, nil
}

func (r *reel) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.closes++
	if r.closes > 1 && r.fault == "closes once" {
		return errors.New("closed twice")
	}
	return nil
}

func (s shelf) Cost(_ context.Context, req media.OpenRequest) (media.Cost, error) {
	if s.fault == "no cost" {
		return media.Cost{}, nil
	}
	if req.Name != "film" {
		return media.Cost{}, media.ErrNotFound
	}
	return media.Cost{Place: "memory", Base: 1}, nil
}

func TestAReaderThatKeepsTheContract(t *testing.T) {
	TestReader(t, Reader{shelf{}, "film", "missing"})
}

// TestEveryCheckCanFail has a fault for each check that it must find.
func TestEveryCheckCanFail(t *testing.T) {
	for fault, check := range map[string]string{
		"live":                   "open and read to the end",
		"wrong duration":         "open and read to the end",
		"times run back":         "batches keep their rules",
		"keyframe in the middle": "batches keep their rules",
		"another version":        "two opens at once give the same",
		"reuses memory":          "batches are immutable",
		"odd error":              "a name that is not there",
		"opens anything":         "names that lead elsewhere",
		"starts late":            "resume from every position",
		"cancel loses":           "a cancelled Next loses nothing",
		"reads on":               "an early Close",
		"closes once":            "an early Close",
		"no cost":                "Cost",
	} {
		var failed []string
		err := CheckReader(t.Context(), Reader{shelf{fault}, "film", "missing"}, func(name string, err error) {
			if err != nil {
				failed = append(failed, name)
			}
		})
		if err == nil || !strings.Contains(strings.Join(failed, ", "), check) {
			t.Errorf("%s: failed are %v, want %q among them", fault, failed, check)
		}
	}
}
