// waits - waits in the ways of Go; see waits.py.
package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

const wait = 200 * time.Millisecond

var names = []string{"sleep", "after", "context", "ticker", "deadline", "back"}
var counts [6]atomic.Int64

func again(way int, once func()) {
	go func() {
		for ; ; counts[way].Add(1) {
			once()
		}
	}()
}

// readWithDeadline waits for a datagram that nobody sends.
func readWithDeadline() {
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	again(4, func() {
		socket.SetReadDeadline(time.Now().Add(wait))
		socket.ReadFrom(make([]byte, 1))
	})
}

func readClock() {
	begin := time.Now()
	for last := time.Duration(0); ; time.Sleep(2 * time.Millisecond) {
		now := time.Since(begin)
		if now < last {
			counts[5].Add(1)
		}
		last = now
	}
}

func main() {
	again(0, func() { time.Sleep(wait) })
	again(1, func() { <-time.After(wait) })
	again(2, func() {
		limited, cancel := context.WithTimeout(context.Background(), wait)
		<-limited.Done()
		cancel()
	})
	ticker := time.NewTicker(wait)
	again(3, func() { <-ticker.C })
	readWithDeadline()
	go readClock()
	listener, err := net.Listen("tcp", "127.0.0.1:7000")
	if err != nil {
		panic(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		var words []string
		for way, name := range names {
			words = append(words, fmt.Sprintf("%s=%d", name, counts[way].Load()))
		}
		fmt.Fprintln(connection, strings.Join(words, " "))
		connection.Close()
	}
}
