package fakes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"bield/internal/guestlink"
	"bield/internal/probe"
)

// runProbe plays the program that the host brings to verify the guest.
func (v *guest) runProbe(st *guestlink.Stream) {
	var order guestlink.Run
	if err := st.Decode(&order); err != nil {
		_ = st.Answer(err, nil)
		return
	}
	if v.plan.Verify == VerifyRefuses {
		_ = st.Answer(fmt.Errorf("no programs \x1b[31mhere"), nil)
		return
	}
	if st.Answer(nil, nil) != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, st, int64(order.Size)); err != nil || st.Answer(nil, nil) != nil {
		return
	}
	orders := readOrders(st)
	switch v.plan.Verify {
	case VerifyNever:
		forever()
	case VerifyEndless:
		for {
			if st.WriteChunk(guestlink.ChunkOutput, make([]byte, 8<<10)) != nil {
				return
			}
		}
	case VerifyGarbage:
		_ = st.WriteChunk(guestlink.ChunkOutput, []byte("{\"id\": \x1b[2J}\n"))
	case VerifyChunks:
		_, _ = st.Write(bytes.Repeat([]byte{0xff}, 100))
	default:
		v.tellResults(st, orders)
	}
	_ = st.WriteExit(guestlink.Exit{})
	_, _, _ = st.ReadChunk() // until the host has read all
}

// readOrders reads the first batch.
func readOrders(st *guestlink.Stream) (orders []probe.Order) {
	var input []byte
	for {
		kind, data, err := st.ReadChunk()
		if err != nil || kind != guestlink.ChunkInput {
			return nil
		}
		input = append(input, data...)
		if bytes.HasSuffix(input, []byte{'\n'}) {
			_ = json.Unmarshal(input, &orders)
			return orders
		}
	}
}

func (v *guest) tellResults(st *guestlink.Stream, orders []probe.Order) {
	var out bytes.Buffer
	results := json.NewEncoder(&out)
	for i, o := range orders {
		r := probe.Result{ID: o.ID, Outcome: "EPERM"}
		switch {
		case v.plan.Verify == VerifyHalf && i == len(orders)/2:
			_ = st.WriteChunk(guestlink.ChunkOutput, out.Bytes())
			return
		case v.plan.Verify == VerifyEscapes:
			r.Outcome = "\x1b]0;owned\a\nno\thole"
		case v.plan.Verify == VerifyConnects && o.Verb == probe.TCP:
			r = probe.Result{ID: o.ID, Outcome: probe.Silent, Connected: true, LocalPort: 40000}
		}
		_ = results.Encode(r)
	}
	for i := 0; v.plan.Verify == VerifyMany && i < 10; i++ {
		_ = results.Encode(probe.Result{ID: 1, Outcome: probe.OK})
	}
	_ = results.Encode(probe.Result{Done: true})
	_ = st.WriteChunk(guestlink.ChunkOutput, out.Bytes())
	for { // the host ends the input once it has looked
		if kind, _, err := st.ReadChunk(); err != nil || kind == guestlink.ChunkInputEnd {
			return
		}
	}
}
