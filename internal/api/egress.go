package api

import "time"

// EgressCheck says whether a VM may go somewhere, and why.
type EgressCheck struct {
	VM string `json:"vm"`
	// Target is HOST or HOST:PORT, as it was asked.
	Target string `json:"target"`
	// Port is the one that is meant, also where none was given.
	Port uint16 `json:"port"`
	Mode string `json:"mode"`
	// Allowed says that a connection would be let through now.
	Allowed bool `json:"allowed"`
	// Rule is what opens it: "names: *.example.org", "mode public".
	Rule string `json:"rule,omitempty"`
	// Reason says why not, and what to do.
	Reason string `json:"reason,omitempty"`
	// Addresses are what a name resolves to now.
	Addresses []EgressAddress `json:"addresses,omitempty"`
}

// EgressAddress is one address of a name that was asked about.
type EgressAddress struct {
	Address string `json:"address"`
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason,omitempty"`
}

// Denial is what was refused to a VM, as often as it was.
type Denial struct {
	VM string `json:"vm"`
	// Kind is "dns", "tls", "http" or "tcp" where the egress process refused it,
	// and the protocol where the kernel did.
	Kind string `json:"kind"`
	// Name is what was asked for, Address where it was; either may be empty.
	Name    string    `json:"name,omitempty"`
	Address string    `json:"address,omitempty"`
	Port    uint16    `json:"port,omitempty"`
	Reason  string    `json:"reason"`
	Count   uint64    `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}
