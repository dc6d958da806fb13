// The load client: publishers, any number of viewers that one loop reads, and
// joiners. It is a process of its own, so that its time is not the server's.

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A job is what the load client is to do.
type job struct {
	Address, App string
	FLV          string // where the viewers are sent HTTP-FLV, "": they come to Address
	Floor        bool   // the server is the floor: no RTMP but chunks, and no publisher
	Publishers   int
	Viewers      int
	Stuck        int           // viewers beside those, who read slowly while it is measured for half the time, and then not at all
	Storm        int           // joiners within the first second that is measured
	Joiners      int           // one after another, once all else is measured
	Warm, Time   time.Duration // how long to watch before measuring, 0: the beginning is measured too; and for how long, 0: until nothing comes

	// On demand.
	Films     int           // choose among so many files
	FromStart bool          // and not at random places
	Buffer    time.Duration // what the viewers say they keep, 0: nothing is said
	Path      string        // of the films over HTTP, "": RTMP
}

// A report is what it has seen, in the time that was measured.
type report struct {
	Bytes, Frames, Missing int64   // Bytes are what was sent when nobody watches
	P50, P99, Max          float64 // latency of frames in ms
	JoinP50, JoinP95       float64 // from connecting to the first whole keyframe, in ms
	Lost                   int     // connections
	Resets                 int     // of the stuck
}

// load does the job. On standard output it says "measure" and "measured" when the
// server's clock is to be read, and then prints the report.
func load(ctx context.Context, args []string) error {
	raiseLimit()
	var j job
	if err := json.Unmarshal([]byte(args[0]), &j); err != nil {
		return err
	}
	c, err := newCrowd()
	if err != nil {
		return err
	}
	p, err := publish(ctx, j)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	go c.run()
	if j.Warm == 0 {
		fmt.Println("measure")
	}
	if err := c.connect(ctx, j, j.Viewers); err != nil {
		return err
	}
	stuck, err := connectStuck(ctx, j)
	if err != nil {
		return err
	}
	if j.Warm > 0 {
		time.Sleep(j.Warm)
		c.reset()
		p.sent.Store(0)
		fmt.Println("measure")
	}
	if j.Storm > 0 {
		if err := c.storm(ctx, j); err != nil {
			return fmt.Errorf("storm: %w", err)
		}
	}
	end := time.Now().Add(j.Time)
	if j.Stuck > 0 {
		for time.Until(end) > j.Time/2 {
			readSome(stuck)
		}
	}
	if j.Time == 0 {
		c.finish()
	}
	time.Sleep(time.Until(end))
	r := c.report()
	fmt.Println("measured")
	if j.Viewers == 0 {
		r.Bytes = p.sent.Load()
	}
	r.Lost += int(p.lost.Load())
	r.Resets = resets(stuck)
	if j.Joiners > 0 {
		if r.JoinP50, r.JoinP95, err = join(ctx, j); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// dial connects and plays, and returns the socket with all but the handshake
// still to be read.
func dial(ctx context.Context, j job, number int) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", cmp.Or(j.FLV, j.Address))
	if err != nil || j.Floor {
		return conn, err
	}
	if j.FLV != "" {
		_, err = fmt.Fprintf(conn, "GET /%s/show.flv HTTP/1.1\r\nHost: localhost\r\n\r\n", j.App)
		return conn, err
	}
	name, start := "show", -2000 // start: any, in ms
	if j.Films > 0 {
		name, start = fmt.Sprintf("film%d.flv", number%j.Films), number*7919%50*1000
	}
	if j.FromStart {
		start = 0
	}
	if j.Path != "" {
		_, err = fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: bench\r\nRange: bytes=%d-\r\n\r\n", j.Path, name, start/1000*filmRate)
		return conn, err
	}
	if err := shake(conn); err != nil {
		return conn, err
	}
	p := login(j.App, "rtmp://"+j.Address+"/"+j.App)
	if j.Buffer > 0 {
		p = appendBuffer(p, 1, j.Buffer)
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

// publishers send the same frames to one name each.
type publishers struct {
	conns []net.Conn
	sent  atomic.Int64 // bytes
	lost  atomic.Int64
}

// publish begins to publish, and goes on until the process ends.
func publish(ctx context.Context, j job) (*publishers, error) {
	p := &publishers{}
	for n := range j.Publishers {
		name := "show"
		if n > 0 {
			name = fmt.Sprintf("show%d", n)
		}
		conn, err := publishOne(ctx, j, name)
		if err != nil {
			return nil, err
		}
		p.conns = append(p.conns, conn)
	}
	if len(p.conns) == 0 {
		return p, nil
	}
	time.Sleep(100 * time.Millisecond) // until they are on air: nothing here waits for answers
	b := appendMessage(nil, pubChunk, 6, typeVideo, 1, 0, videoConfig)
	p.send(appendMessage(b, pubChunk, 4, typeAudio, 1, 0, audioConfig))
	go func() {
		f, began := newFilm(), time.Now()
		for {
			kind, due, body := f.next()
			time.Sleep(time.Until(began.Add(due)))
			mark(kind, body)
			b = appendMessage(b[:0], pubChunk, csidOf[kind], kind, 1, uint32(due.Milliseconds()), body)
			p.send(b)
		}
	}()
	return p, nil
}

func publishOne(ctx context.Context, j job, name string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", j.Address)
	if err != nil {
		return nil, err
	}
	if err := shake(conn); err != nil {
		return nil, err
	}
	b := login(j.App, "rtmp://"+j.Address+"/"+j.App)
	b = appendMessage(b, 128, 2, typeChunkSize, 0, 0, []byte{0, pubChunk >> 16, pubChunk >> 8 & 0xff, pubChunk & 0xff})
	b = appendCommand(b, 1, "publish", 0, nil, name, "live")
	if _, err := conn.Write(b); err != nil {
		return nil, err
	}
	go io.Copy(io.Discard, conn) //nolint:errcheck // answers
	return conn, nil
}

func (p *publishers) send(b []byte) {
	for i, conn := range p.conns {
		if conn == nil {
			continue
		}
		n, err := conn.Write(b)
		p.sent.Add(int64(n))
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: publisher:", err)
			p.conns[i] = nil
			p.lost.Add(1)
		}
	}
}

// connectStuck connects the viewers who will not read what they are sent. What
// the kernel keeps for them is to be the server's: their own buffers are small.
func connectStuck(ctx context.Context, j job) ([]net.Conn, error) {
	conns := make([]net.Conn, j.Stuck)
	for i := range conns {
		conn, err := dial(ctx, j, i)
		if err != nil {
			return nil, err
		}
		if err := conn.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
			return nil, err
		}
		conns[i] = conn
	}
	return conns, nil
}

// readSome reads from each as much as a link of some 60 kB a second would take.
func readSome(conns []net.Conn) {
	const pause = 250 * time.Millisecond
	b := make([]byte, 16<<10)
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, _ = conn.Read(b)
	}
	time.Sleep(pause)
}

// resets says how many connections the server has reset.
func resets(conns []net.Conn) (n int) {
	b := make([]byte, 64<<10)
	for _, conn := range conns {
		var err error
		for _ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err == nil; {
			_, err = conn.Read(b)
		}
		if errors.Is(err, syscall.ECONNRESET) {
			n++
		}
	}
	return n
}

// join connects joiners at odd moments, and says how long they took to have their
// first keyframe. Who has none after longestJoin counts as that.
func join(ctx context.Context, j job) (p50, p95 float64, err error) {
	took, errs := make([]time.Duration, j.Joiners), make([]error, j.Joiners)
	var wait sync.WaitGroup
	for n := range j.Joiners {
		time.Sleep(time.Duration(90+n*37%60) * time.Millisecond) // anywhere in a GOP
		wait.Go(func() { took[n], errs[n] = joinOnce(ctx, j, n) })
	}
	wait.Wait()
	p50, p95 = middle(took)
	return p50, p95, errors.Join(errs...)
}

// middle returns the median and the 95th percentile, in ms.
func middle(took []time.Duration) (p50, p95 float64) {
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return ms(took[len(took)/2]), ms(took[len(took)*95/100])
}

const longestJoin = 10 * time.Second

func joinOnce(ctx context.Context, j job, number int) (time.Duration, error) {
	began := time.Now()
	conn, err := dial(ctx, j, number)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck
	done := false
	w := newWalker(j, func(s *chunkStream) { done = done || s.isKey() })
	buffer := make([]byte, 64<<10)
	_ = conn.SetReadDeadline(began.Add(longestJoin))
	for !done {
		n, err := conn.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return 0, err
		}
		w.walk(buffer[:n])
	}
	return time.Since(began), nil
}
