// The folders with the sockets of plugins that are being started. They are
// removed once a plugin is connected; what a daemon that was killed in between
// has left behind is removed by the plugin, or else by the next daemon.

package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

const folderPrefix = "mediad-plugin-"

// maxSocketPath is the longest path of a unix socket, unix(7).
const maxSocketPath = 107

var sweepOnce sync.Once

func newFolder() (string, error) {
	sweepOnce.Do(sweep)
	dir, err := os.MkdirTemp("", folderPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", fmt.Errorf("a folder for a plugin's sockets: %w", err)
	}
	// go-plugin adds a folder and a file with random numbers of 32 bits.
	if len(dir)+len("/plugin-dir4294967295/plugin4294967295") > maxSocketPath {
		return "", errors.Join(fmt.Errorf("the folder %s is too long for sockets to be in it: set TMPDIR to a shorter one", os.TempDir()), os.Remove(dir))
	}
	return dir, nil
}

// sweep removes the folders of daemons that are no more.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*-*"))
	for _, dir := range left {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), folderPrefix), "-")
		pid, err := strconv.Atoi(text)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir)
		}
	}
}
