// mixed - goroutines that have threads of their own, and child processes, in turn; each child is a process of ../main.c that checks
// itself, and is held by a pidfd, as os/exec holds it since Go 1.23.
//
// It answers on port 7000 as the other services do: `verify` and `exit STATUS`. Nothing is restarted or repaired.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	turns           = 4
	sysPidfdOpen    = 434
	sysPidfdSend    = 424
	nap             = 10 * time.Millisecond
	firstOfChildren = 7001
)

type child struct {
	pid   int
	pidfd uintptr
}

// count counts on a thread of its own, for as long as that is the same.
func count(counter *int64) {
	runtime.LockOSThread()
	for before := syscall.Gettid(); syscall.Gettid() == before; time.Sleep(nap) {
		atomic.AddInt64(counter, 1)
	}
}

func goesOn(counter *int64) bool {
	before := atomic.LoadInt64(counter)
	for tries := 0; tries < 500; tries++ {
		if atomic.LoadInt64(counter) >= before+2 {
			return true
		}
		time.Sleep(nap)
	}
	return false
}

func startChild(port int) child {
	command := exec.Command("/services/service", "one")
	command.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", port))
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Start(); err != nil {
		panic(err)
	}
	pidfd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(command.Process.Pid), 0, 0)
	if errno != 0 {
		panic(errno)
	}
	return child{command.Process.Pid, pidfd}
}

func ask(port int) string {
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err.Error()
	}
	defer connection.Close()
	fmt.Fprintln(connection, "verify")
	line, _ := bufio.NewReader(connection).ReadString('\n')
	return strings.TrimSpace(line)
}

func verify(counters []*int64, children []child) string {
	for _, counter := range counters {
		if !goesOn(counter) {
			return "error a thread stands still"
		}
	}
	for i, child := range children {
		if answer := ask(firstOfChildren + i); !strings.HasPrefix(answer, fmt.Sprintf("ok pid=%d ", child.pid)) {
			return fmt.Sprintf("error child %d says %s", child.pid, answer)
		}
		if _, _, errno := syscall.Syscall6(sysPidfdSend, child.pidfd, 0, 0, 0, 0, 0); errno != 0 {
			return fmt.Sprintf("error the pidfd of child %d: %s", child.pid, errno)
		}
	}
	return fmt.Sprintf("ok pid=%d threads=%d children=%d count=%d", os.Getpid(), len(counters), len(children), *counters[0])
}

func main() {
	var counters []*int64
	var children []child
	for turn := 0; turn < turns; turn++ {
		counters = append(counters, new(int64))
		go count(counters[turn])
		goesOn(counters[turn])
		children = append(children, startChild(firstOfChildren+turn))
	}
	for turn := range children {
		for !strings.HasPrefix(ask(firstOfChildren+turn), "ok") {
			time.Sleep(nap)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:7000")
	if err != nil {
		panic(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		line, _ := bufio.NewReader(connection).ReadString('\n')
		status := 0
		if n, _ := fmt.Sscanf(line, "exit %d", &status); n == 1 {
			fmt.Fprintln(connection, "ok")
			os.Exit(status)
		}
		fmt.Fprintln(connection, verify(counters, children))
		connection.Close()
	}
}
