package preflight

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"bield/internal/obstacles"
)

func (h Host) otherFirewalls(ctx context.Context) Result {
	if !h.root() {
		return needsRoot("reading the firewall's rules")
	}
	v, err := look(ctx)
	if err != nil {
		return warn(err.Error())
	}
	guests := obstacles.GuestsOf(h.Config.Host, cmp.Or(h.Config.Host.ExternalInterface, v.outward()))
	// Where the module is not loaded there are no rules, and to ask would load it.
	where := h.readKernel().find(feature{"nftables", "NF_TABLES", "nf_tables"})
	reader := obstacles.Reader{Root: h.Root, NoNFTables: where != present && where != unknown}
	found, err := reader.Find(ctx, guests)
	switch {
	case found.Obstacles != nil:
		return inTheWay(found, guests)
	case errors.Is(err, obstacles.ErrNoSave):
		return warn(err.Error(), "install iptables, and run this again")
	case errors.Is(err, obstacles.ErrMayNotRead):
		return skipped(obstacles.ErrMayNotRead.Error(), "run this in the host's own user namespace")
	case err != nil:
		return warn(err.Error())
	case found.Tables == 0:
		return ok("none")
	}
	return ok("%d table%s of others, and nothing in them stops guests", found.Tables, map[bool]string{false: "s"}[found.Tables == 1])
}

func inTheWay(found obstacles.Found, guests obstacles.Guests) Result {
	var lines, do []string
	for _, o := range found.Obstacles {
		lines = append(lines, o.String())
		for _, command := range o.Advice(guests) {
			if !slices.Contains(do, command) {
				do = append(do, command)
			}
		}
	}
	if found.Sure() {
		return fail(strings.Join(lines, "\n"), do...)
	}
	return warn(strings.Join(lines, "\n"), do...)
}
