package api

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	"bield/internal/spec"
)

// HostEvent is one thing that happened on the host: one line of the answer to
// PathEvents.
type HostEvent = spec.Event

// MaxEventBytes bounds one such line.
const MaxEventBytes = 64 << 10

// EventQuery asks for the events of a host, oldest first.
type EventQuery struct {
	// Follow goes on with those to come.
	Follow bool
	// After leaves out the events up to this number.
	After uint64
	// Since leaves out those of the past before that time: what happens from
	// now on is shown whatever the clock says.
	Since time.Time
	// Tail is how many of the past are wanted at most; negative means all.
	Tail int
	// VMs are the names wanted; none means all, and the host's own events.
	VMs []string
}

// Values is the query as an address carries it.
func (q EventQuery) Values() url.Values {
	v := url.Values{}
	if q.Follow {
		v.Set("follow", "1")
	}
	if q.After > 0 {
		v.Set("after", strconv.FormatUint(q.After, 10))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Tail >= 0 {
		v.Set("tail", strconv.Itoa(q.Tail))
	}
	for _, name := range q.VMs {
		v.Add("vm", name)
	}
	return v
}

// ParseEventQuery reads what Values wrote.
func ParseEventQuery(v url.Values) (q EventQuery, err error) {
	q = EventQuery{Follow: v.Get("follow") == "1", Tail: -1, VMs: v["vm"]}
	if text := v.Get("after"); text != "" {
		if q.After, err = strconv.ParseUint(text, 10, 64); err != nil {
			return q, fmt.Errorf("after=%.40q is no number of an event", text)
		}
	}
	if text := v.Get("tail"); text != "" {
		if q.Tail, err = strconv.Atoi(text); err != nil {
			return q, fmt.Errorf("tail=%.40q is no number of events", text)
		}
	}
	if text := v.Get("since"); text != "" {
		if q.Since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return q, fmt.Errorf("since=%.40q is no time of RFC 3339", text)
		}
	}
	return q, nil
}
