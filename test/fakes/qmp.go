package fakes

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
)

const qmpGreeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "fake"}, "capabilities": ["oob"]}}`

// serveQMP is one conversation of QEMU's monitor.
func (v *guest) serveQMP(conn net.Conn) {
	if v.plan.Mute && v.isRunning() {
		forever()
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", qmpGreeting); err != nil {
		return
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var request struct {
			Execute string          `json:"execute"`
			ID      json.RawMessage `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &request) != nil {
			fmt.Fprint(conn, `{"error": {"class": "GenericError", "desc": "JSON parse error"}}`+"\r\n")
			continue
		}
		answer := fmt.Sprintf(`"error": {"class": "CommandNotFound", "desc": "The command %s has not been found"}`, request.Execute)
		switch request.Execute {
		case "qmp_capabilities":
			answer = `"return": {}`
		case "query-status":
			status := map[bool]string{true: "paused", false: "running"}[v.isStill()]
			answer = fmt.Sprintf(`"return": {"status": %q, "running": %v}`, status, status == "running")
		case "stop", "cont":
			v.freeze(request.Execute == "stop")
			answer = `"return": {}`
		case "system_powerdown":
			// As the real one, which tells of the button before it answers.
			fmt.Fprint(conn, `{"timestamp": {"seconds": 1, "microseconds": 1}, "event": "POWERDOWN"}`+"\r\n")
			answer = `"return": {}`
		}
		line := fmt.Sprintf("{%s, \"id\": %s}\r\n", answer, request.ID)
		if v.plan.HalfAnswers && request.Execute != "qmp_capabilities" && v.hasRun {
			_, _ = io.WriteString(conn, line[:len(line)/2])
			return
		}
		v.hasRun = v.hasRun || request.Execute == "cont"
		if _, err := io.WriteString(conn, line); err != nil {
			return
		}
		if request.Execute == "system_powerdown" {
			v.pressButton()
		}
	}
}
