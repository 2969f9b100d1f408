// counter answers each HTTP request with the number of requests so far.
package main

import (
	"fmt"
	"log"
	"net/http"
	"sync/atomic"
)

func main() {
	var requests int64
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, atomic.AddInt64(&requests, 1))
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
