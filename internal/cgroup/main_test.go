package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"bield/internal/process"
)

// The test binary is also the programs that the tests put into groups.
func TestMain(m *testing.M) {
	process.MaybeLaunch()
	if len(os.Args) > 2 && os.Args[1] == "play" {
		play(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

func play(part string) {
	switch part {
	case "hog":
		hog()
	case "bomb":
		bomb()
	}
	fmt.Println("up")
	time.Sleep(time.Minute)
}

// hog takes more and more memory, 512 MiB at most.
func hog() {
	var all [][]byte
	for range 512 {
		all = append(all, bytes.Repeat([]byte{1}, 1<<20))
	}
	fmt.Println("took", len(all))
}

// bomb starts children until it may no more, 200 at most, each in a session of its
// own.
func bomb() {
	started := 0
	for range 200 {
		child := exec.Command("/usr/bin/setsid", "/usr/bin/sleep", "60")
		if err := child.Start(); err != nil {
			fmt.Println("refused after " + strconv.Itoa(started) + ": " + err.Error())
			return
		}
		started++
	}
	fmt.Println("started", started)
}
