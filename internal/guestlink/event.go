package guestlink

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Stages of a boot, in order. A stage is started and then done or failed.
const (
	StageModules  = "modules"
	StageRoot     = "root"
	StageShares   = "shares"
	StageNetwork  = "network"
	StageUser     = "user"
	StageHostKeys = "hostkeys"
	StageSSHD     = "sshd"
	// StageReady is done once, when sshd listens.
	StageReady    = "ready"
	StagePowerOff = "poweroff"
)

// Stages lists them in boot order.
func Stages() []string {
	return []string{StageModules, StageRoot, StageShares, StageNetwork, StageUser,
		StageHostKeys, StageSSHD, StageReady, StagePowerOff}
}

// States of a stage.
const (
	StateStarted = "started"
	StateDone    = "done"
	StateFailed  = "failed"
)

const (
	maxEventLine = 4 << 10
	maxMessage   = 1 << 10
	maxStage     = 32
)

// Event is one thing that happened in the guest since its kernel started.
type Event struct {
	// Seq counts from 1 and only grows; a gap means that the guest dropped
	// old events.
	Seq uint64 `json:"seq"`
	// Uptime is in milliseconds since the kernel started.
	Uptime int64  `json:"uptime"`
	Stage  string `json:"stage"`
	State  string `json:"state"`
	// Message is one line without control characters, at most 1 KiB.
	Message string `json:"message,omitempty"`
}

// parseEvent reads one event of a guest that may be hostile.
func parseEvent(line []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("event: %w: %w", errLine, err)
	}
	switch {
	case e.Seq == 0 || e.Seq == math.MaxUint64:
		return Event{}, fmt.Errorf("event: %w: sequence number %d", errLine, e.Seq)
	case e.Uptime < 0:
		return Event{}, fmt.Errorf("event: %w: uptime %d", errLine, e.Uptime)
	case !stageName(e.Stage):
		return Event{}, fmt.Errorf("event: %w: name of a stage", errLine)
	case e.State != StateStarted && e.State != StateDone && e.State != StateFailed:
		return Event{}, fmt.Errorf("event: %w: state of stage %s", errLine, e.Stage)
	}
	e.Message = CleanText(e.Message, maxMessage)
	return e, nil
}

// stageName accepts stages of later versions too.
func stageName(s string) bool {
	return s != "" && len(s) <= maxStage && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// CleanText makes text of a guest safe to print in one line: no control or
// format characters (escape sequences, bidirectional overrides), valid UTF-8,
// at most limit bytes.
func CleanText(s string, limit int) string {
	if len(s) > 4*limit {
		s = s[:4*limit]
	}
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r == '\r' || r == utf8.RuneError {
			return ' '
		}
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) || unicode.In(r, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	for len(s) > limit {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}
