package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"bield/internal/spec"
)

// option is one thing that a VM's spec says, in words.
type option struct {
	name string
	text func(spec.VM) string
	// live says that it can be given to a VM that runs.
	live bool
}

// options lists all of spec.VM but its name, in the order in which a person is
// told of them. Lists have a comparison of their own.
func options() []option {
	return []option{
		{name: "ip", text: func(v spec.VM) string { return v.IP.String() }},
		{name: "mac", text: func(v spec.VM) string { return v.MAC }},
		{name: "vcpu", text: func(v spec.VM) string { return orDefault(v.VCPU) }},
		{name: "mem", text: func(v spec.VM) string { return strconv.Itoa(v.MemoryMiB) }},
		{name: "hypervisor", text: func(v spec.VM) string { return string(v.Hypervisor) }},
		{name: "init", text: func(v spec.VM) string { return string(v.Init) }},
		{name: "storeOnDisk", text: func(v spec.VM) string { return strconv.FormatBool(v.StoreOnDisk) }},
		{name: "image", text: func(v spec.VM) string { return image(v.Image) }},
		{name: "user", text: func(v spec.VM) string { return user(v.User) }},
		{name: "egress", text: func(v spec.VM) string { return string(v.Egress.Effective()) }, live: true},
		{name: "stopTimeout", text: func(v spec.VM) string { return v.StopTimeout.String() }, live: true},
		{name: "autostart", text: func(v spec.VM) string { return strconv.FormatBool(v.Autostart) }, live: true},
		{name: "restart", text: func(v spec.VM) string { return string(v.Restart) }, live: true},
		{name: "restartIfChanged", text: func(v spec.VM) string { return strconv.FormatBool(v.RestartIfChanged) }, live: true},
	}
}

func orDefault(n int) string {
	if n == 0 {
		return "default"
	}
	return strconv.Itoa(n)
}

func image(i spec.Image) string {
	text := i.Suite
	if text == "" {
		text = "the host's distribution"
	}
	for _, part := range []string{i.Mirror, i.Keyring} {
		if part != "" {
			text += " " + part
		}
	}
	return text
}

func user(u spec.User) string {
	return fmt.Sprintf("%s (%d:%d, %s, %s)", u.Name, u.UID, u.GID, u.Home, u.Shell)
}

// differ compares what a VM was started with to what it should be: what can be
// given to it while it runs, and what needs a restart.
func differ(is, want spec.VM) (live, restart []string) {
	for _, o := range options() {
		if a, b := o.text(is), o.text(want); a != b {
			change := fmt.Sprintf("%s %s → %s", o.name, a, b)
			if o.live {
				live = append(live, change)
			} else {
				restart = append(restart, change)
			}
		}
	}
	if text := listed(is.User.AuthorizedKeys, want.User.AuthorizedKeys, keyName); text != "" {
		live = append(live, "authorizedKeys"+text)
	}
	if text := listed(targets(is.Egress.Names), targets(want.Egress.Names), itself); text != "" {
		live = append(live, "egress.names"+text)
	}
	if text := listed(targets(is.Egress.Allow), targets(want.Egress.Allow), itself); text != "" {
		live = append(live, "egress.allow"+text)
	}
	if text := listed(is.Image.Packages, want.Image.Packages, itself); text != "" {
		restart = append(restart, "extraPackages"+text)
	}
	return live, append(restart, shares(is.Shares, want.Shares)...)
}

// differHost compares what of the host's own settings a VM was started with. A
// forced restart is one that a VM can't be kept from: the ground that it stands
// on goes.
func differHost(is, want spec.Host) (live, restart, forced []string) {
	add := func(list *[]string, name, a, b string) {
		if a != b {
			*list = append(*list, fmt.Sprintf("%s %s → %s", name, a, b))
		}
	}
	add(&forced, "bridge", is.Bridge, want.Bridge)
	add(&forced, "subnet", is.Subnet.String(), want.Subnet.String())
	add(&restart, "nameservers", addresses(is.Nameservers), addresses(want.Nameservers))
	add(&forced, "stateDir", is.StateDir, want.StateDir)
	add(&live, "externalInterface", orAny(is.ExternalInterface), orAny(want.ExternalInterface))
	add(&live, "trustBridge", strconv.FormatBool(is.TrustBridge), strconv.FormatBool(want.TrustBridge))
	add(&live, "guestToGuest", strconv.FormatBool(is.GuestToGuest), strconv.FormatBool(want.GuestToGuest))
	if text := listed(ports(is.HostPorts), ports(want.HostPorts), itself); text != "" {
		live = append(live, "hostPorts"+text)
	}
	return live, restart, forced
}

func ports(list []spec.HostPort) []string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return texts
}

// targets writes a list of targets; what preset one comes from is no difference.
func targets(list []spec.Target) []string {
	texts := make([]string, len(list))
	for i, t := range list {
		texts[i] = t.String()
		if t.Private {
			texts[i] += " (private)"
		}
	}
	return texts
}

func orAny(name string) string {
	if name == "" {
		return "any"
	}
	return name
}

func addresses(list []netip.Addr) string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	return strings.Join(texts, ",")
}

// shares compares two lists of shares; who owned a folder when the file was
// read is no difference.
func shares(is, want []spec.Share) []string {
	text := func(s spec.Share) string {
		mode := ""
		if s.ReadOnly {
			mode = " read-only"
		}
		if s.User != nil {
			mode += fmt.Sprintf(" as %d:%d", s.User.UID, s.User.GID)
		}
		return fmt.Sprintf("%s at %s%s", s.Source, s.MountPoint, mode)
	}
	var changes []string
	for _, s := range want {
		switch i := slices.IndexFunc(is, func(o spec.Share) bool { return o.Tag == s.Tag }); {
		case i < 0:
			changes = append(changes, fmt.Sprintf("share %s +%s", s.Tag, text(s)))
		case text(is[i]) != text(s):
			changes = append(changes, fmt.Sprintf("share %s %s → %s", s.Tag, text(is[i]), text(s)))
		}
	}
	for _, s := range is {
		if !slices.ContainsFunc(want, func(o spec.Share) bool { return o.Tag == s.Tag }) {
			changes = append(changes, fmt.Sprintf("share %s -%s", s.Tag, text(s)))
		}
	}
	if len(changes) == 0 && !slices.EqualFunc(is, want, func(a, b spec.Share) bool { return a.Tag == b.Tag }) {
		changes = append(changes, "the order of shares")
	}
	return changes
}

// listed says what was added to and removed from a list, or is "".
func listed(is, want []string, name func(string) string) string {
	var text strings.Builder
	for _, s := range want {
		if !slices.Contains(is, s) {
			text.WriteString(" +" + name(s))
		}
	}
	for _, s := range is {
		if !slices.Contains(want, s) {
			text.WriteString(" -" + name(s))
		}
	}
	return text.String()
}

func itself(s string) string { return s }

// keyName is the comment of a public key, or its kind.
func keyName(line string) string {
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return "?"
	}
	return fields[len(fields)-1][:min(40, len(fields[len(fields)-1]))]
}
