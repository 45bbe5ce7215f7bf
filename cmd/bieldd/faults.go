//go:build faults

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// What tests ask of this build by its environment.
const (
	// envFault names the point at which the daemon kills itself.
	envFault = "BIELD_FAULT"
	// envFaultLog is the file that all points are appended to, one a line.
	envFaultLog = "BIELD_FAULT_LOG"
	// envStats is the file that SIGUSR1 has the stats written to.
	envStats = "BIELD_FAULT_STATS"
)

// hook is for the engine. A point that comes again has its number behind it:
// "amid one: tap #2".
func hook() func(string) {
	go writeStats(os.Getenv(envStats))
	fault, log := os.Getenv(envFault), os.Getenv(envFaultLog)
	var mu sync.Mutex
	seen := map[string]int{}
	return func(point string) {
		mu.Lock()
		defer mu.Unlock()
		if seen[point]++; seen[point] > 1 {
			point = fmt.Sprintf("%s #%d", point, seen[point])
		}
		note(log, point)
		if point == fault {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {} // until it has come
		}
	}
}

func note(path, line string) {
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.WriteString(line + "\n")
		_ = f.Close()
	}
	if err != nil {
		panic(err)
	}
}

// stats are what a daemon that leaks has more and more of.
type stats struct {
	Goroutines int    `json:"goroutines"`
	HeapBytes  uint64 `json:"heapBytes"` // after a collection
	Stacks     string `json:"stacks"`
}

// writeStats writes them at each SIGUSR1.
func writeStats(path string) {
	if path == "" {
		return
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGUSR1)
	for range asked {
		runtime.GC()
		runtime.GC() // what finalizers freed in the first
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		data, err := json.Marshal(stats{runtime.NumGoroutine(), m.HeapAlloc, string(stacks)})
		if err == nil {
			err = os.WriteFile(path+".new", data, 0o600)
		}
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			panic(err)
		}
	}
}
