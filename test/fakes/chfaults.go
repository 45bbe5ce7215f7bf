package fakes

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// VMMFaults are what can be wrong with a cloud-hypervisor. The zero value is none.
type VMMFaults struct {
	// API is by request, as "vm.pause"; "*" is all that stand not there.
	API map[string]APIFault `json:"api"`
	// State is what vm.info says in the place of the VM's state.
	State   string       `json:"state"`
	Events  EventsFault  `json:"events"`
	Sockets SocketsFault `json:"sockets"`
	// Ends is an event, as "booting", after which the program ends with code 1.
	Ends string `json:"ends"`
}

// APIFault is what can be wrong with the answer to a request.
type APIFault string

// The faults of an answer.
const (
	// APIDrops does what was asked for, and closes without an answer.
	APIDrops APIFault = "drops"
	// APICloses closes the API for good in the place of an answer.
	APICloses APIFault = "closes"
	// APIRefuses answers twice with 500 and does nothing, and then does well.
	APIRefuses APIFault = "refuses"
	// APIDies ends the program in the middle of a request.
	APIDies APIFault = "dies"
	// APIHalf announces a body and sends half of it; APIStalls does so and keeps
	// the connection.
	APIHalf   APIFault = "half"
	APIStalls APIFault = "stalls"
	// APISlow answers after apiDelay.
	APISlow APIFault = "slow"
	// APIMute never answers, and so keeps up every request behind this one.
	APIMute APIFault = "mute"
	// APIEndless has a body without an end.
	APIEndless APIFault = "endless"
	// APIGarbage is no HTTP, and APINoJSON HTTP with a body that is no JSON.
	APIGarbage APIFault = "garbage"
	APINoJSON  APIFault = "noJSON"
	// APIIgnores says that it has done what it has not.
	APIIgnores APIFault = "ignores"
)

const apiDelay = 200 * time.Millisecond

// EventsFault is what can be wrong with the event monitor.
type EventsFault string

// The faults of the event monitor.
const (
	EventsNone    EventsFault = "none"    // never an event
	EventsGarbage EventsFault = "garbage" // in the place of every event
	EventsNoise   EventsFault = "noise"   // before every event
	EventsEndless EventsFault = "endless" // the first never ends
)

// SocketsFault is what can be wrong with the sockets that the program makes.
type SocketsFault string

// The faults of the sockets.
const (
	SerialMissing SocketsFault = "serialMissing"
	VsockGarbage  SocketsFault = "vsockGarbage" // it answers, but not OK
	VsockEndless  SocketsFault = "vsockEndless" // a line without an end
)

// faults deals out what is wrong with answers.
type faults struct {
	plan VMMFaults

	mu      sync.Mutex
	refused int
}

func (f *faults) of(action string) APIFault {
	fault, ok := f.plan.API[action]
	if !ok {
		fault = f.plan.API["*"]
	}
	if fault != APIRefuses {
		return fault
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refused++; f.refused > 2 {
		return ""
	}
	return fault
}

// before is what goes wrong before a request has an effect; done says that it has
// been answered.
func (f APIFault) before(w http.ResponseWriter, listener net.Listener) (done bool) {
	switch f {
	case APIDies:
		os.Exit(1)
	case APIMute:
		forever()
	case APIRefuses:
		refusal{http.StatusInternalServerError, "The VM has a fault"}.write(w)
	case APICloses:
		_ = listener.Close()
		hijack(w, "")
	case APIIgnores:
		w.WriteHeader(http.StatusNoContent)
	case APISlow:
		time.Sleep(apiDelay)
		return false
	default:
		return false
	}
	return true
}

// after is what goes wrong with the answer alone.
func (f APIFault) after(w http.ResponseWriter) (done bool) {
	const half = "HTTP/1.1 200 \r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"state\": \"Running\", \"config\": {"
	switch f {
	case APIDrops:
		hijack(w, "")
	case APIHalf:
		hijack(w, half)
	case APIStalls:
		stall(w, half)
	case APIGarbage:
		hijack(w, "220 mail.example ESMTP\r\n\x1b[2J\x00\r\n\r\n")
	case APINoJSON:
		hijack(w, "HTTP/1.1 200 \r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"state\": [\x1b[2J,")
	case APIEndless:
		endless(w)
	default:
		return false
	}
	return true
}

// hijack sends bytes in the place of an answer and closes.
func hijack(w http.ResponseWriter, text string) {
	if conn := takeOver(w, text); conn != nil {
		_ = conn.Close()
	}
}

// stall sends bytes and leaves it at that until the peer has enough.
func stall(w http.ResponseWriter, text string) {
	if conn := takeOver(w, text); conn != nil {
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
}

func endless(w http.ResponseWriter) {
	conn := takeOver(w, "HTTP/1.1 200 \r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n")
	for conn != nil {
		if _, err := conn.Write(bytes.Repeat([]byte("["), 1<<16)); err != nil {
			_ = conn.Close()
			return
		}
	}
}

func takeOver(w http.ResponseWriter, text string) net.Conn {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return nil
	}
	_, _ = io.WriteString(conn, text)
	return conn
}

// tell makes of an event what its reader gets.
func (f EventsFault) tell(event []byte, write func([]byte)) {
	const noise = "\x00\xff\x1b]0;x\x07 }}] \"vm\": {\"timestamp\": {}, \"source\": 7} {\"source\": \"guest\\\"}{\", \"event\": null} \n"
	switch f {
	case EventsNone:
	case EventsGarbage:
		write([]byte(noise))
	case EventsNoise:
		write([]byte(noise))
		write(event)
	case EventsEndless:
		write(event)
		if bytes.Contains(event, []byte(`"booting"`)) {
			for {
				write(fmt.Appendf(nil, `{"source": "vm", "event": "%s`, bytes.Repeat([]byte("booted"), 500)))
				time.Sleep(time.Millisecond)
			}
		}
	default:
		write(event)
	}
}
