// The load client: a publisher, any number of viewers in one epoll loop, and
// joiners that come one after another. It is a process of its own, so that its
// time is not the server's.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A job is what the load client is to do.
type job struct {
	Address, App string
	Viewers      int
	Joiners      int
	Warm, Time   time.Duration // how long to watch before measuring, and for how long
	Floor        bool          // the server is the floor: no RTMP but chunks, and no publisher
	Films        int           // on demand: choose among so many files
}

// A report is what it has seen, in the time that was measured.
type report struct {
	Bytes, Frames, Missing int64
	P50, P99, Max          float64 // latency of frames in ms
	JoinP50, JoinP95       float64 // from connecting to the first whole keyframe, in ms
	Elapsed                float64 // s
	Lost                   int     // connections
}

// load does the job. On standard output it says "measure" and "measured" when the
// server's clock is to be read, and then prints the report.
func load(ctx context.Context, args []string) error {
	var j job
	if err := json.Unmarshal([]byte(args[0]), &j); err != nil {
		return err
	}
	c, err := newCrowd()
	if err != nil {
		return err
	}
	if !j.Floor && j.Films == 0 {
		if err := publish(ctx, j); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	if err := c.connect(ctx, j); err != nil {
		return err
	}
	go c.run()
	time.Sleep(j.Warm)
	c.reset()
	fmt.Println("measure")
	began := time.Now()
	time.Sleep(j.Time)
	r := c.report()
	fmt.Println("measured")
	r.Elapsed = time.Since(began).Seconds()
	r.JoinP50, r.JoinP95, err = join(ctx, j)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// dial connects and plays, and returns the socket with all but the handshake
// still to be read.
func dial(ctx context.Context, j job, number int) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", j.Address)
	if err != nil || j.Floor {
		return conn, err
	}
	if err := shake(conn); err != nil {
		return conn, err
	}
	name := "show"
	if j.Films > 0 {
		name = fmt.Sprintf("film%d.flv", number%j.Films)
	}
	p := login(j.App, "rtmp://"+j.Address+"/"+j.App)
	start := -2000
	if j.Films > 0 {
		start = number * 7919 % 50 * 1000
	}
	p = appendCommand(p, 1, "play", 0, nil, name, start)
	_, err = conn.Write(p)
	return conn, err
}

func shake(conn net.Conn) error {
	if _, err := conn.Write(greeting()); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1+2*1536))
	return err
}

// publish begins to publish, and goes on until the process ends.
func publish(ctx context.Context, j job) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", j.Address)
	if err != nil {
		return err
	}
	if err := shake(conn); err != nil {
		return err
	}
	p := login(j.App, "rtmp://"+j.Address+"/"+j.App)
	p = appendMessage(p, 128, 2, typeChunkSize, 0, 0, []byte{0, pubChunk >> 16, pubChunk >> 8 & 0xff, pubChunk & 0xff})
	p = appendCommand(p, 1, "publish", 0, nil, "show", "live")
	if _, err := conn.Write(p); err != nil {
		return err
	}
	go io.Copy(io.Discard, conn)       //nolint:errcheck // answers
	time.Sleep(100 * time.Millisecond) // until it is on air: nothing here waits for answers
	p = appendMessage(nil, pubChunk, 6, typeVideo, 1, 0, videoConfig)
	p = appendMessage(p, pubChunk, 4, typeAudio, 1, 0, audioConfig)
	if _, err := conn.Write(p); err != nil {
		return err
	}
	go func() {
		f, began := newFilm(), time.Now()
		for {
			kind, due, body := f.next()
			time.Sleep(time.Until(began.Add(due)))
			mark(kind, body)
			p = appendMessage(p[:0], pubChunk, csidOf[kind], kind, 1, uint32(due.Milliseconds()), body)
			if _, err := conn.Write(p); err != nil {
				fmt.Fprintln(os.Stderr, "bench: publisher:", err)
				return
			}
		}
	}()
	return nil
}

// join connects joiners at odd moments, and says how long they took to have their
// first keyframe.
func join(ctx context.Context, j job) (p50, p95 float64, err error) {
	if j.Joiners == 0 {
		return 0, 0, nil
	}
	took, errs := make([]time.Duration, j.Joiners), make([]error, j.Joiners)
	var wait sync.WaitGroup
	for n := range j.Joiners {
		time.Sleep(time.Duration(90+n*37%60) * time.Millisecond) // anywhere in a GOP
		wait.Go(func() { took[n], errs[n] = joinOnce(ctx, j, n) })
	}
	wait.Wait()
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return ms(took[len(took)/2]), ms(took[len(took)*95/100]), errors.Join(errs...)
}

func joinOnce(ctx context.Context, j job, number int) (time.Duration, error) {
	began := time.Now()
	conn, err := dial(ctx, j, number)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck
	done := false
	w := newWalker(j, func(s *chunkStream) { done = done || s.kind == typeVideo && s.head[0] == 0x17 && s.head[1] == 1 })
	buffer := make([]byte, 64<<10)
	_ = conn.SetReadDeadline(began.Add(10 * time.Second))
	for !done {
		n, err := conn.Read(buffer)
		if err != nil {
			return 0, err
		}
		w.walk(buffer[:n])
	}
	return time.Since(began), nil
}

func newWalker(j job, message func(*chunkStream)) *walker {
	w := &walker{size: 128, message: message}
	if j.Floor {
		w.size = pubChunk
	}
	return w
}

// A crowd is the viewers. One goroutine reads all of them.
type crowd struct {
	epoll   int
	viewers map[int32]*viewer
	now     time.Time // when what is being walked through was read

	mu      sync.Mutex
	bytes   int64
	frames  int64
	missing int64
	lost    int
	late    [40_000]int64 // frames by latency, in tenths of a ms
}

type viewer struct {
	*walker
	fd   int
	next [2]uint64 // number of the frame to come on each track, 0: any
}

func newCrowd() (*crowd, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &crowd{epoll: fd, viewers: make(map[int32]*viewer)}, err
}

// connect adds the viewers, some at a time.
func (c *crowd) connect(ctx context.Context, j job) error {
	n := j.Viewers
	conns, errs := make([]net.Conn, n), make([]error, n)
	slots := make(chan struct{}, 20)
	var wait sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wait.Go(func() {
			conns[i], errs[i] = dial(ctx, j, i)
			<-slots
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, conn := range conns {
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
		v := &viewer{fd: fd}
		v.walker = newWalker(j, func(s *chunkStream) { c.frame(v, s) })
		c.viewers[int32(fd)] = v
		err = syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
		if err != nil {
			return err
		}
	}
	return nil
}

// run reads what comes until the process ends.
func (c *crowd) run() {
	runtime.LockOSThread()
	events := make([]syscall.EpollEvent, 256)
	buffer := make([]byte, 256<<10)
	for {
		n, err := syscall.EpollWait(c.epoll, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			fmt.Fprintln(os.Stderr, "bench: epoll:", err)
			os.Exit(1)
		}
		c.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			n, err := syscall.Read(int(e.Fd), buffer)
			if errors.Is(err, syscall.EAGAIN) {
				continue
			}
			if n <= 0 {
				_ = syscall.Close(int(e.Fd))
				c.lost++
				continue
			}
			c.now = time.Now()
			c.bytes += int64(n)
			c.viewers[e.Fd].walk(buffer[:n])
		}
		c.mu.Unlock()
	}
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
	at := c.now.Sub(stamp.sent) / (100 * time.Microsecond)
	c.late[min(max(at, 0), time.Duration(len(c.late)-1))]++
}

func (c *crowd) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes, c.frames, c.missing = 0, 0, 0
	c.late = [len(c.late)]int64{}
}

func (c *crowd) report() report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := report{Bytes: c.bytes, Frames: c.frames, Missing: c.missing, Lost: c.lost}
	var sum int64
	for tenths, n := range c.late {
		if n == 0 {
			continue
		}
		if sum < c.frames/2 {
			r.P50 = float64(tenths) / 10
		}
		if sum < c.frames*99/100 {
			r.P99 = float64(tenths) / 10
		}
		r.Max = float64(tenths) / 10
		sum += n
	}
	return r
}
