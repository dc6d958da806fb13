// What the path of a URL asks for.

package web

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/mediad/mediad/core/media"
)

// A target is what a path under an app asks for.
type target struct {
	form Form
	name string
	file string // of HLS
}

const (
	indexFile     = "index.m3u8"
	segmentSuffix = ".m4s" // of recorded HLS; all else but the index is live
)

// liveFile are the files of a live muxer. gohlslib gives parts and segments the suffix
// .mp4, so they are told from media by the rest of their names.
var liveFile = regexp.MustCompile(`^[0-9a-f]{12}_(video|audio)[0-9]+_(stream\.m3u8|init\.mp4|(seg|part)[0-9]+\.mp4)$`)

// gapFile is one, too: what gohlslib calls a segment that does not exist (EXT-X-GAP, RFC 8216bis,
// 4.4.4.7). Players that do not know the tag ask for it: VLC 3 does not go on after
// an error, but does after an empty file.
const gapFile = "gap.mp4"

func parse(path string) (target, error) {
	dir, file := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, file = path[:i], path[i+1:]
	}
	var t target
	switch {
	case dir != "" && (file == indexFile || strings.HasSuffix(file, segmentSuffix) || file == gapFile || liveFile.MatchString(file)):
		t = target{HLS, dir, file}
	case strings.HasSuffix(path, ".flv"):
		t = target{form: FLV, name: strings.TrimSuffix(path, ".flv")}
	case strings.HasSuffix(path, ".mp4"):
		t = target{form: MP4, name: strings.TrimSuffix(path, ".mp4")}
	default:
		return t, &httpError{http.StatusNotFound, "here are NAME.flv, NAME.mp4 and NAME/index.m3u8"}
	}
	if err := media.CheckName(t.name); err != nil {
		return t, fmt.Errorf("%w: %w", media.ErrNotFound, err)
	}
	return t, nil
}
