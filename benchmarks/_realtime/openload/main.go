// openload sends HTTP/1.1 requests at a constant rate, whatever the server does (an open loop), from one thread.
//
// A latency counts from the moment that a request was due, so what a stalled server or a slow generator keeps back is
// in it. Each connection has one request under way at a time; where none is free, one more is opened, up to a limit,
// and above it requests wait in a queue while their clocks run. Every request is a record in a file: when it was due,
// sent and answered, its status, and a class, which is a piece of the answer's body.
//
// It sleeps between requests, and sends within 0.1 ms: a generator that took its core whole would leave the kernel's own
// work, some 2 percent of a core in pieces of 4 ms, to the server's core alone.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	noAnswer  = 0  // status of a request that nothing was answered to when the run ended
	broken    = -1 // the connection ended, or was refused, before the whole answer was there
	notHTTP   = -2 // what was answered is not HTTP/1.1 with a Content-Length
	recordLen = 32
	stamp     = "X-Request-Start: t=0000000000000000" // becomes the microsecond at which the request was due
	wakeNs    = 60_000                                // what waking up takes, at most, as a rule
	longNs    = 50_000_000
	pwait2    = 441 // epoll_pwait2, whose timeout is in nanoseconds
)

type record struct {
	due, sent, done int64 // nanoseconds since the start; 0: did not happen
	status, class   int32
}

type conn struct {
	fd       int
	in       []byte // what was received of the answer under way
	out      []byte // what is still to be sent
	own      []byte // a copy of the request with the time in it
	request  int    // index of the record, -1: free
	need     int    // bytes of the whole answer, 0: its head is not complete
	body     int    // where the body begins
	writable bool   // waits for EPOLLOUT
	close    bool   // the server wants the connection closed after this answer
}

type generator struct {
	address  syscall.SockaddrInet4
	stamps   []int // where each request says when it was due, -1: it does not
	begin    int64 // microseconds since 1970 at the start
	epoll    int
	conns    map[int]*conn
	free     []*conn
	limit    int
	requests [][]byte
	records  []record
	waiting  []int // requests that are due and have no connection yet, a queue
	head     int
	start    time.Time
	left     int // records without an end
	from, to []byte
	classes  map[string]int32
	names    []string
	opened   int
	buffer   []byte
	sample   string
	problem  string
}

func main() {
	port := flag.Int("port", 0, "port on 127.0.0.1")
	rate := flag.Float64("rate", 1000, "requests a second")
	seconds := flag.Float64("seconds", 10, "how long requests are sent")
	file := flag.String("requests", "", "file of requests: each a line with its length in bytes, then the request as it goes over the wire; sent in turn")
	output := flag.String("records", "", "file for the records, 32 bytes each, little endian")
	first := flag.Int("connections", 16, "connections that are opened before the first request")
	limit := flag.Int("max-connections", 1024, "connections that may be open at one time")
	drain := flag.Float64("drain", 5, "seconds to wait for answers after the last request was due")
	from := flag.String("class-from", "", "the class of an answer is what follows this text in its body ...")
	to := flag.String("class-to", "", "... up to this text")
	at := flag.Int64("at", 0, "when to start, in nanoseconds since 1970; 0: at once")
	serve := flag.Bool("serve", false, "answer every request with 3 KB instead: what a load is measured against to know the generator's own limit")
	flag.Parse()
	if *serve {
		answerAll(*port)
		return
	}

	runtime.LockOSThread()
	// A sleep ends when it is to end, not up to 50 microseconds later.
	if _, _, code := syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_SET_TIMERSLACK, 1, 0); code != 0 {
		check(code)
	}
	debug.SetGCPercent(-1)
	requests, err := read(*file)
	check(err)
	g := &generator{
		address:  syscall.SockaddrInet4{Port: *port, Addr: [4]byte{127, 0, 0, 1}},
		conns:    map[int]*conn{},
		limit:    *limit,
		requests: requests,
		records:  make([]record, int(*rate**seconds)),
		from:     []byte(*from),
		to:       []byte(*to),
		classes:  map[string]int32{"": 0},
		names:    []string{""},
		buffer:   make([]byte, 1<<18),
	}
	for _, request := range requests {
		at := bytes.Index(request, []byte(stamp))
		if at >= 0 {
			at += len(stamp) - 16
		}
		g.stamps = append(g.stamps, at)
	}
	g.left = len(g.records)
	for i := range g.records {
		g.records[i].due = int64(float64(i) / *rate * 1e9)
	}
	g.waiting = make([]int, 0, len(g.records))
	g.epoll, err = syscall.EpollCreate1(0)
	check(err)
	for i := 0; i < *first; i++ {
		c, err := g.open()
		check(err)
		g.free = append(g.free, c)
	}
	time.Sleep(20 * time.Millisecond)
	if *at > 0 {
		time.Sleep(time.Until(time.Unix(0, *at)))
	}
	usage := cpu()
	took := g.run(int64(*drain * 1e9))
	used := cpu() - usage
	g.write(*output)
	summary, _ := json.Marshal(map[string]any{
		"classes": g.names, "connections": g.opened, "seconds": took.Seconds(), "cpu_seconds": used.Seconds(),
		"start_ns": g.start.UnixNano(), "sample": g.sample, "problem": g.problem,
	})
	fmt.Println(string(summary))
}

// run sends every request when it is due and returns when all are answered, or `drain` nanoseconds after the last.
func (g *generator) run(drain int64) time.Duration {
	events := make([]syscall.EpollEvent, 512)
	g.start = time.Now()
	g.begin = g.start.UnixMicro()
	next, last := 0, g.records[len(g.records)-1].due+drain
	for g.left > 0 {
		now := int64(time.Since(g.start))
		if now > last {
			break
		}
		for next < len(g.records) && g.records[next].due <= now {
			g.waiting = append(g.waiting, next)
			next++
		}
		for g.head < len(g.waiting) && g.send(g.waiting[g.head]) {
			g.head++
		}
		var sleep int64
		if next >= len(g.records) {
			sleep = longNs
		} else {
			sleep = min(g.records[next].due-int64(time.Since(g.start))-wakeNs, longNs)
		}
		count, err := wait(g.epoll, events, sleep)
		if err == syscall.EINTR {
			continue
		}
		check(err)
		for i := 0; i < count; i++ {
			if c := g.conns[int(events[i].Fd)]; c != nil {
				g.handle(c, events[i].Events)
			}
		}
	}
	return time.Since(g.start)
}

// send gives a request to a free connection, or to a new one; false where all are busy.
func (g *generator) send(index int) bool {
	var c *conn
	if n := len(g.free); n > 0 {
		c, g.free = g.free[n-1], g.free[:n-1]
	} else {
		if len(g.conns) >= g.limit {
			return false
		}
		var err error
		if c, err = g.open(); err != nil {
			g.note(err)
			g.records[index].sent = int64(time.Since(g.start))
			g.finish(index, broken, 0)
			return true
		}
	}
	c.request, c.need, c.in = index, 0, c.in[:0]
	number := index % len(g.requests)
	c.out = g.requests[number]
	if at := g.stamps[number]; at >= 0 {
		c.own = append(c.own[:0], c.out...)
		strconv.AppendInt(c.own[at:at], g.begin+g.records[index].due/1000, 10)
		c.out = c.own
	}
	g.records[index].sent = int64(time.Since(g.start))
	g.flush(c)
	return true
}

// wait returns the connections that are ready, after so many nanoseconds at most; at once where that is not above 0.
func wait(epoll int, events []syscall.EpollEvent, ns int64) (int, error) {
	timeout := syscall.NsecToTimespec(max(ns, 0))
	count, _, code := syscall.Syscall6(
		pwait2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
		uintptr(unsafe.Pointer(&timeout)), 0, 0)
	if code != 0 {
		return 0, code
	}
	return int(count), nil
}

func (g *generator) open() (*conn, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err = syscall.SetNonblock(fd, true); err == nil {
		// Where the server's queue of connections is full, this one is made later: nothing here waits for it.
		if err = syscall.Connect(fd, &g.address); err == syscall.EINPROGRESS {
			err = nil
		}
	}
	if err == nil {
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	if err == nil {
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
		err = syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_ADD, fd, &event)
	}
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	c := &conn{fd: fd, request: -1, in: make([]byte, 0, 1<<14)}
	g.conns[fd] = c
	g.opened++
	return c, nil
}

func (g *generator) flush(c *conn) {
	for len(c.out) > 0 {
		n, err := syscall.Write(c.fd, c.out)
		if err == syscall.EAGAIN || err == syscall.ENOTCONN {
			g.watch(c, true)
			return
		}
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			g.note(err)
			g.lose(c)
			return
		}
		c.out = c.out[n:]
	}
	g.watch(c, false)
}

func (g *generator) watch(c *conn, writable bool) {
	if c.writable == writable {
		return
	}
	c.writable = writable
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(c.fd)}
	if writable {
		event.Events |= syscall.EPOLLOUT
	}
	check(syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_MOD, c.fd, &event))
}

func (g *generator) handle(c *conn, events uint32) {
	if events&syscall.EPOLLOUT != 0 && c.request >= 0 {
		g.flush(c)
		if g.conns[c.fd] != c {
			return
		}
	}
	n, err := syscall.Read(c.fd, g.buffer)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return
	}
	if n <= 0 || err != nil {
		if c.request >= 0 && err != nil {
			g.note(err)
		}
		g.lose(c)
		return
	}
	c.in = append(c.in, g.buffer[:n]...)
	if c.request < 0 { // bytes that nobody asked for
		g.lose(c)
		return
	}
	if c.need == 0 {
		end := bytes.Index(c.in, []byte("\r\n\r\n"))
		if end < 0 {
			return
		}
		length, closing := lengthOf(c.in[:end+2])
		if length < 0 {
			g.problem = "no Content-Length: " + string(c.in[:min(len(c.in), 300)])
			g.finish(c.request, notHTTP, 0)
			c.request = -1
			g.lose(c)
			return
		}
		c.body, c.need, c.close = end+4, end+4+length, closing
	}
	if len(c.in) < c.need {
		return
	}
	status, _ := strconv.Atoi(string(c.in[9:12]))
	if g.sample == "" || (status != 200 && g.problem == "") {
		text := string(c.in[:min(len(c.in), 6000)])
		if status == 200 {
			g.sample = text
		} else {
			g.problem = text
		}
	}
	g.finish(c.request, int32(status), g.classOf(c.in[c.body:c.need]))
	c.request = -1
	if c.close {
		g.lose(c)
	} else {
		g.free = append(g.free, c)
	}
}

// lengthOf reads the two header fields that decide where an answer ends; -1: it does not say its length.
func lengthOf(head []byte) (length int, closing bool) {
	length = -1
	for len(head) > 0 {
		end := bytes.Index(head, []byte("\r\n"))
		line := head[:end]
		head = head[end+2:]
		if colon := bytes.IndexByte(line, ':'); colon > 0 {
			name, value := line[:colon], bytes.TrimSpace(line[colon+1:])
			if len(name) == 14 && bytes.EqualFold(name, []byte("content-length")) {
				length, _ = strconv.Atoi(string(value))
			} else if len(name) == 10 && bytes.EqualFold(name, []byte("connection")) {
				closing = bytes.EqualFold(value, []byte("close"))
			}
		}
	}
	return length, closing
}

func (g *generator) classOf(body []byte) int32 {
	if len(g.from) == 0 {
		return 0
	}
	begin := bytes.Index(body, g.from)
	if begin < 0 {
		return 0
	}
	rest := body[begin+len(g.from):]
	end := bytes.Index(rest, g.to)
	if end < 0 {
		return 0
	}
	if found, ok := g.classes[string(rest[:end])]; ok {
		return found
	}
	name := string(rest[:end])
	g.classes[name] = int32(len(g.names))
	g.names = append(g.names, name)
	return g.classes[name]
}

func (g *generator) finish(index int, status, class int32) {
	r := &g.records[index]
	r.done, r.status, r.class = int64(time.Since(g.start)), status, class
	g.left--
}

// lose closes a connection; a request that was under way in it failed.
func (g *generator) lose(c *conn) {
	if c.request >= 0 {
		g.finish(c.request, broken, 0)
		c.request = -1
	} else {
		for i, other := range g.free {
			if other == c {
				g.free = append(g.free[:i], g.free[i+1:]...)
				break
			}
		}
	}
	delete(g.conns, c.fd)
	syscall.Close(c.fd)
}

func (g *generator) note(err error) {
	if g.problem == "" {
		g.problem = err.Error()
	}
}

func (g *generator) write(path string) {
	if path == "" {
		return
	}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&g.records[0])), len(g.records)*recordLen)
	check(os.WriteFile(path, bytes, 0o644))
}

func read(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	var found [][]byte
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		length, err := strconv.Atoi(string(data[:end]))
		if err != nil {
			return nil, err
		}
		found = append(found, data[end+1:end+1+length])
		data = data[end+1+length:]
	}
	return found, err
}

func cpu() time.Duration {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "openload:", err)
		os.Exit(1)
	}
}
