// The viewers of the load client. The kernel notes when what they are sent
// arrives; one thread of low priority reads it some milliseconds later. So the
// server has the processors to itself as far as can be, and how long the client
// takes is not part of the latency.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	readEvery = 3 * time.Millisecond
	nicer     = 5 // than the rest
)

// A crowd is the viewers. One goroutine reads all of them.
type crowd struct {
	epoll  int
	reader reader

	mu      sync.Mutex
	viewers map[int32]*viewer
	bytes   int64
	frames  int64
	missing int64
	lost    int
	joined  []time.Duration // how long the joiners of a storm took to their first keyframe
	late    [40_000]int64   // frames by latency, in tenths of a ms
}

type viewer struct {
	walker           // nil: what comes is not looked at
	next   [2]uint64 // number of the frame to come on each track, 0: any
	storm  time.Time // when one of a storm began to connect; its frames are not measured
	shown  bool      // it has had a keyframe
}

func newCrowd() (*crowd, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &crowd{epoll: fd, viewers: make(map[int32]*viewer)}, err
}

// connect adds n viewers, some at a time.
func (c *crowd) connect(ctx context.Context, j job, n int) error {
	errs := make([]error, n)
	slots := make(chan struct{}, 20)
	var wait sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wait.Go(func() {
			errs[i] = c.add(ctx, j, i, time.Time{})
			<-slots
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// storm adds joiners within a second.
func (c *crowd) storm(ctx context.Context, j job) error {
	errs := make([]error, j.Storm)
	began := time.Now()
	var wait sync.WaitGroup
	for i := range j.Storm {
		time.Sleep(time.Until(began.Add(time.Second * time.Duration(i) / time.Duration(j.Storm))))
		wait.Go(func() { errs[i] = c.add(ctx, j, i, time.Now()) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// add connects a viewer and hands its socket to the loop.
func (c *crowd) add(ctx context.Context, j job, number int, storm time.Time) error {
	conn, err := dial(ctx, j, number)
	if err != nil {
		return err
	}
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		return err
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return err
	}
	_, _ = f.Close(), conn.Close()
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1); err != nil {
		return err
	}
	v := &viewer{storm: storm}
	if j.Path == "" {
		v.walker = newWalker(j, func(s *chunkStream) { c.frame(v, s) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.viewers[int32(fd)] = v
	return syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
}

// A walker takes apart what comes on one connection.
type walker interface{ walk(p []byte) }

func newWalker(j job, message func(*chunkStream)) walker {
	if j.FLV != "" {
		return &tagWalker{message: message}
	}
	w := &chunkWalker{size: 128, message: message}
	if j.Floor {
		w.size = pubChunk
	}
	return w
}

// run reads what comes until the process ends.
func (c *crowd) run() {
	runtime.LockOSThread()
	if p, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil { // 20 less the niceness
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), 20-p+nicer)
	}
	events := make([]syscall.EpollEvent, 4096)
	pause := syscall.NsecToTimespec(readEvery.Nanoseconds())
	for {
		n, err := syscall.EpollWait(c.epoll, events, 0)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			fmt.Fprintln(os.Stderr, "bench: epoll:", err)
			os.Exit(1)
		}
		c.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			c.read(e.Fd)
		}
		c.mu.Unlock()
		_ = syscall.Nanosleep(&pause, nil)
	}
}

func (c *crowd) read(fd int32) {
	p, err := c.reader.read(int(fd))
	if errors.Is(err, syscall.EAGAIN) {
		return
	}
	if len(p) == 0 {
		_ = syscall.Close(int(fd))
		c.lost++
		return
	}
	c.bytes += int64(len(p))
	if v := c.viewers[fd]; v.walker != nil {
		v.walk(p)
	}
}

// A reader reads from one socket after another.
type reader struct {
	buffer  [256 << 10]byte
	control [64]byte
	arrived time.Time // when the last byte that was read did
}

// read returns what has arrived, nothing at the end.
func (r *reader) read(fd int) ([]byte, error) {
	piece := syscall.Iovec{Base: &r.buffer[0], Len: uint64(len(r.buffer))}
	m := syscall.Msghdr{Iov: &piece, Iovlen: 1, Control: &r.control[0], Controllen: uint64(len(r.control))}
	n, _, errno := syscall.Syscall(syscall.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), 0)
	if errno != 0 {
		return nil, errno
	}
	if h := (*syscall.Cmsghdr)(unsafe.Pointer(&r.control[0])); m.Controllen > 0 && h.Type == syscall.SO_TIMESTAMPNS {
		at := (*syscall.Timespec)(unsafe.Pointer(&r.control[syscall.CmsgLen(0)]))
		r.arrived = time.Unix(at.Unix())
	}
	return r.buffer[:n], nil
}

// frame takes a message that v has received.
func (c *crowd) frame(v *viewer, s *chunkStream) {
	if s.kind != typeAudio && s.kind != typeVideo || s.length < head {
		return
	}
	stamp, ok := readStamp(s.kind, s.head[:])
	if !ok {
		return
	}
	next := &v.next[s.kind-typeAudio]
	if *next != 0 && stamp.number != *next {
		c.missing += int64(max(stamp.number, *next) - *next)
	}
	*next = stamp.number + 1
	c.frames++
	if !v.storm.IsZero() {
		if !v.shown && s.isKey() {
			v.shown = true
			c.joined = append(c.joined, c.reader.arrived.Sub(v.storm))
		}
		return
	}
	at := c.reader.arrived.Sub(stamp.sent) / (100 * time.Microsecond)
	c.late[min(max(at, 0), time.Duration(len(c.late)-1))]++
}

func (c *crowd) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes, c.frames, c.missing = 0, 0, 0
	c.late = [len(c.late)]int64{}
}

// finish waits until nothing has come for a while.
func (c *crowd) finish() {
	for last := int64(-1); ; {
		time.Sleep(500 * time.Millisecond)
		c.mu.Lock()
		now := c.bytes
		c.mu.Unlock()
		if now == last {
			return
		}
		last = now
	}
}

func (c *crowd) report() report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := report{Bytes: c.bytes, Frames: c.frames, Missing: c.missing, Lost: c.lost}
	r.JoinP50, r.JoinP95 = middle(c.joined)
	var sum, all int64
	for _, n := range c.late {
		all += n
	}
	for tenths, n := range c.late {
		if n == 0 {
			continue
		}
		if sum < all/2 {
			r.P50 = float64(tenths) / 10
		}
		if sum < all*99/100 {
			r.P99 = float64(tenths) / 10
		}
		r.Max = float64(tenths) / 10
		sum += n
	}
	return r
}
