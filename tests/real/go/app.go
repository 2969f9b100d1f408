// Answers `COUNT SUM QUERY`. The count lies in a file of the container that is mapped, and not open; the sum is of a private mapping.
package main

import (
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const size = 1 << 20

func mapped(name string, flags int) []byte {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		panic(err)
	}
	memory, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, flags)
	if err != nil {
		panic(err)
	}
	return memory
}

func main() {
	shared, private := mapped("/data/shared", syscall.MAP_SHARED), mapped("/data/private", syscall.MAP_PRIVATE)
	for i := range private {
		private[i] = byte(i)
	}
	count := (*int64)(unsafe.Pointer(&shared[size/2]))
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		sum := 0
		for _, b := range private {
			sum += int(b)
		}
		fmt.Fprintln(answer, atomic.AddInt64(count, 1), sum, request.URL.RawQuery)
	})
	panic(http.ListenAndServe("127.0.0.1:8000", nil))
}
