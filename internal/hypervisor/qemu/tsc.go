package qemu

import (
	"context"
	"fmt"
	"time"
)

// tscBaseline is how far apart two readings must be: at 50 ns of uncertainty
// each, 20 ms are exact to 5 millionths. The older the daemon, the better.
const tscBaseline = 20 * time.Millisecond

// tscReading is the time stamp counter at a moment of the monotonic clock.
type tscReading struct {
	ticks uint64
	at    time.Time
}

// readTSC takes the reading with the least uncertainty of a few.
func readTSC() tscReading {
	var best tscReading
	shortest := time.Duration(1<<63 - 1)
	for range 16 {
		before := time.Now()
		ticks := rdtsc()
		after := time.Now()
		if took := after.Sub(before); took < shortest {
			shortest = took
			best = tscReading{ticks, before.Add(took / 2)}
		}
	}
	return best
}

// tscKHz is the counter's rate since the first reading. "cpu MHz" of
// /proc/cpuinfo would be the clock of the moment, which differs on laptops.
func tscKHz(ctx context.Context, first tscReading) (int, error) {
	if !hasTSC {
		return 0, fmt.Errorf("no time stamp counter on this architecture")
	}
	if left := tscBaseline - time.Since(first.at); left > 0 {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	now := readTSC()
	nanos := now.at.Sub(first.at).Nanoseconds()
	khz := int(float64(now.ticks-first.ticks) * 1e6 / float64(nanos))
	if khz < 100_000 || khz > 20_000_000 {
		return 0, fmt.Errorf("measure the time stamp counter: %d kHz can't be", khz)
	}
	return khz, nil
}
