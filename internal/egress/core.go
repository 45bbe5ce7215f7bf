package egress

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
)

// core is what resolver, proxy and control share.
type core struct {
	rules   atomic.Pointer[rules]
	own     func(netip.Addr) bool
	records *records
	denials *denials
	log     *slog.Logger
	// ctx gives the context that ends with the process.
	ctx func() context.Context
}

// newCore knows no guest yet, and so denies everything.
func newCore(ctx context.Context, log *slog.Logger) *core {
	c := &core{
		own: newOwnAddresses().has, records: newRecords(), denials: newDenials(), log: log,
		ctx: func() context.Context { return ctx },
	}
	c.rules.Store(newRules(Policy{}, c.own))
	return c
}

// set takes a policy and says which VMs stay: those with their name and address.
func (c *core) set(p Policy) (stays func(vm string) bool) {
	before, after := c.rules.Load(), newRules(p, c.own)
	c.rules.Store(after)
	stays = func(vm string) bool {
		is, was := after.byName[vm], before.byName[vm]
		return is != nil && (was == nil || was.IP == is.IP)
	}
	c.records.keep(stays)
	c.denials.keep(func(vm string) bool { return after.byName[vm] != nil })
	return stays
}
