package fakes

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/getkin/kin-openapi/openapi3filter"
)

const (
	// chConnections is how many the API serves at a time; another gets 503.
	chConnections = 10
	// chBody bounds a request's body.
	chBody = 51200
	// chGoodbye bounds how long answers are still sent at the end.
	chGoodbye = time.Second
)

// chServer is the API's thread.
type chServer struct {
	vmm      *chVMM
	contract contract
	faults   faults
	server   *http.Server
	listener net.Listener
	// one serialises the requests.
	one sync.Mutex
	// told says that somebody knows that the machine runs.
	told bool
}

// chRequest is one that the VMM's thread is to act on.
type chRequest struct {
	action string
	answer chan chAnswer
}

type chAnswer struct {
	status int
	body   []byte
}

func newCHServer(v *chVMM, listener net.Listener) (*chServer, error) {
	c, err := newContract()
	if err != nil {
		return nil, err
	}
	s := &chServer{vmm: v, contract: c, faults: faults{plan: v.plan.VMM}, listener: &fewConns{Listener: listener}}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	return s, nil
}

func (s *chServer) serve() { _ = s.server.Serve(s.listener) }

// end lets answers that are on their way go out.
func (s *chServer) end() {
	ctx, cancel := context.WithTimeout(context.Background(), chGoodbye)
	defer cancel()
	_ = s.server.Shutdown(ctx)
}

// ServeHTTP takes one request after another.
func (s *chServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.one.Lock()
	defer s.one.Unlock()
	if s.vmm.plan.Mute && s.told {
		forever()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, chBody+1))
	if err != nil || len(body) > chBody {
		refusal{http.StatusBadRequest, "Payload too large"}.write(w)
		return
	}
	request := s.contract.request(r, body)
	action := strings.TrimPrefix(r.URL.Path, "/api/v1/")
	fault := s.faults.of(action)
	if fault.before(w, s.listener) {
		return
	}
	answer, ok := s.vmm.ask(action)
	if !ok {
		hijack(w, "")
		return
	}
	if fault.after(w) {
		return
	}
	s.told = s.told || action == "vm.info"
	s.write(w, request, action, answer)
}

// write sends an answer that the description allows. v52 differs from it in what
// it says of a VM in the wrong state, of its own end, and of what is not set.
func (s *chServer) write(w http.ResponseWriter, to *openapi3filter.RequestValidationInput, action string, a chAnswer) {
	if len(a.body) > 0 {
		w.Header().Set("Content-Type", "application/json")
	}
	if s.vmm.plan.VMM.State == "" {
		s.contract.answer(to, a.status, w.Header(), a.body)
	}
	if s.vmm.major < 53 {
		a = a.before53(action)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

func (a chAnswer) before53(action string) chAnswer {
	switch {
	case a.status >= http.StatusBadRequest:
		return chAnswer{http.StatusInternalServerError, a.body}
	case action == "vmm.shutdown":
		return chAnswer{http.StatusOK, nil}
	case action != "vm.info":
		return a
	}
	var info map[string]any
	if err := json.Unmarshal(a.body, &info); err != nil {
		panic(err) // it was made a moment ago
	}
	config := info["config"].(map[string]any)
	for _, unset := range []string{"rate_limit_groups", "pmem", "devices", "user_devices", "vdpa", "numa", "pci_segments", "platform", "tpm"} {
		config[unset] = nil
	}
	a.body, _ = json.Marshal(info)
	return a
}

// refusal is an error's answer: its causes, the outermost first.
type refusal struct {
	status int
	words  string
}

func (r refusal) answer() chAnswer {
	body, _ := json.Marshal([]string{"Error from API", r.words})
	return chAnswer{r.status, body}
}

func (r refusal) write(w http.ResponseWriter) {
	a := r.answer()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// ask has the VMM's thread act on a request; ok says that it has not ended.
func (v *chVMM) ask(action string) (answer chAnswer, ok bool) {
	asked := chRequest{action, make(chan chAnswer, 1)}
	select {
	case v.requests <- asked:
		return <-asked.answer, true
	case <-v.over:
		return chAnswer{}, false
	}
}

// act does what a request asks for, in the VMM's thread; ends says that the VMM
// is to end then.
func (v *chVMM) act(action string) (answer chAnswer, ends bool) {
	done := chAnswer{status: http.StatusNoContent}
	switch action {
	case "vmm.ping":
		body, _ := json.Marshal(map[string]any{
			"build_version": v.version, "version": strings.TrimPrefix(v.version, "v") + ".0", "pid": os.Getpid(), "features": []string{"kvm"},
		})
		return chAnswer{http.StatusOK, body}, false
	case "vm.info":
		return chAnswer{http.StatusOK, v.info()}, false
	case "vmm.shutdown":
		v.shutDown()
		return done, true
	case "vm.pause", "vm.resume", "vm.power-button", "vm.shutdown":
		if refused := v.change(action); refused != nil {
			return refused.answer(), false
		}
		return done, false
	}
	return refusal{http.StatusInternalServerError, "this fake can't do that"}.answer(), false
}

// change does what needs a VM in a certain state. The statuses are the
// description's.
func (v *chVMM) change(action string) *refusal {
	if v.guest == nil {
		if action == "vm.pause" || action == "vm.power-button" || action == "vm.shutdown" {
			return &refusal{http.StatusMethodNotAllowed, "VM is not booted"}
		}
		return &refusal{http.StatusNotFound, "VM is not booted"}
	}
	switch {
	case action == "vm.shutdown":
		v.shutDown()
	case action == "vm.power-button":
		go v.guest.pressButton()
	case action == "vm.pause" && v.state == chRunning:
		v.become("pausing", "paused", chPaused, true)
	case action == "vm.resume" && v.state == chPaused:
		v.become("resuming", "resumed", chRunning, false)
	default:
		return &refusal{http.StatusMethodNotAllowed, fmt.Sprintf("InvalidStateTransition(%s, %s)", v.state, action)}
	}
	return nil
}

func (v *chVMM) become(before, after, state string, still bool) {
	v.events.tell("vm", before)
	v.guest.freeze(still)
	v.state = state
	v.events.tell("vm", after)
}

// fewConns turns away more connections than chConnections.
type fewConns struct {
	net.Listener
	mu   sync.Mutex
	open int
}

func (l *fewConns) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.count(1) <= chConnections {
			return &countedConn{Conn: conn, listener: l}, nil
		}
		l.count(-1)
		const body = `{ "error": "Too many open connections" }`
		fmt.Fprintf(conn, "HTTP/1.1 503 \r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		_ = conn.Close()
	}
}

func (l *fewConns) count(more int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open += more
	return l.open
}

type countedConn struct {
	net.Conn
	listener *fewConns
	once     sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.listener.count(-1) })
	return c.Conn.Close()
}
