package main

import (
	"fmt"
	"strings"
	"syscall"
)

// answerAll answers every request, which has to come in one piece, with the same 3 KB from one thread.
func answerAll(port int) {
	body := `{"item_answered_by":{"model":50},"items":"` + strings.Repeat("x", 3000) + `"}`
	answer := []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	listener, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	check(err)
	check(syscall.SetsockoptInt(listener, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
	check(syscall.Bind(listener, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
	check(syscall.Listen(listener, 1024))
	epoll, err := syscall.EpollCreate1(0)
	check(err)
	watch := func(fd int) {
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
		check(syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &event))
	}
	watch(listener)
	events, buffer := make([]syscall.EpollEvent, 512), make([]byte, 1<<16)
	for {
		count, err := syscall.EpollWait(epoll, events, -1)
		if err == syscall.EINTR {
			continue
		}
		check(err)
		for _, event := range events[:count] {
			fd := int(event.Fd)
			if fd == listener {
				accepted, _, err := syscall.Accept(fd)
				check(err)
				check(syscall.SetsockoptInt(accepted, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1))
				watch(accepted)
				continue
			}
			if n, _ := syscall.Read(fd, buffer); n <= 0 {
				syscall.Close(fd)
			} else if _, err := syscall.Write(fd, answer); err != nil {
				syscall.Close(fd)
			}
		}
	}
}
