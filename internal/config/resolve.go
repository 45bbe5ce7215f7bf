package config

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"bield/internal/spec"
)

// maxVMs bounds the work that a small file can cause by merging VMs.
const maxVMs = 1024

// resolver makes a spec.Host of a file and reports what does not work out.
type resolver struct {
	*report
	env  Env
	file hostFile
	host spec.Host
	// origins leads from places in the spec to places in the file.
	origins map[string]location
	// paths remembers what was asked of the host.
	paths  map[string]answer
	shared []shared
	// lists are targets of egress by where they stand in the file.
	lists   map[string][]spec.Target
	foundBy []string
}

type answer struct {
	info PathInfo
	err  error
}

func resolve(rep *report, file hostFile, foundBy []string, env Env) spec.Host {
	env.ByName, env.ByUID = remember(env.ByName), remember(env.ByUID)
	env.PublicKeys = remember(env.PublicKeys)
	if env.Preset != nil {
		env.Preset = remember(env.Preset) // a client may have to be asked
	}
	r := &resolver{report: rep, env: env, file: file, foundBy: foundBy,
		origins: map[string]location{}, paths: map[string]answer{}, lists: map[string][]spec.Target{}}
	r.resolveHost()
	names := slices.Sorted(maps.Keys(file.VMs))
	if len(names) > maxVMs {
		r.add(location{"vms"}, "%d VMs are too many — keep to %d", len(names), maxVMs)
		names = nil
	}
	for _, name := range names {
		r.host.VMs = append(r.host.VMs, r.resolveVM(name, file.VMs[name]))
	}
	r.checkPlanted()
	r.checkSpec()
	return r.host
}

// remember asks once for each key.
func remember[K comparable, V any](ask func(K) (V, error)) func(K) (V, error) {
	type result struct {
		value V
		err   error
	}
	known := map[K]result{}
	return func(key K) (V, error) {
		r, ok := known[key]
		if !ok {
			r.value, r.err = ask(key)
			known[key] = r
		}
		return r.value, r.err
	}
}

// checkSpec adds what spec.Check finds, where nothing was said yet.
func (r *resolver) checkSpec() {
	type found struct {
		at      location
		message string
	}
	var list []found
	for _, p := range slices.Concat(spec.Check(r.host), r.checkUnused()) {
		at := r.originOf(p.Path)
		ofUser := len(p.Path) > 3 && p.Path[2] == "user"
		switch ofOwner := ofUser && at[len(at)-1] == "workspace"; {
		case ofOwner:
			p.Message = "its owner cannot be the guest's user: " + p.Message
		case r.flagged[at.key()]:
			continue
		}
		list = append(list, found{at, p.Message})
	}
	for _, f := range list {
		r.add(f.at, "%s", f.message)
	}
}

// checkUnused checks what the host says for VMs, also where no VM takes it.
func (r *resolver) checkUnused() []spec.Problem {
	smallest, at := memory("128"), location{"vms", ""}
	f := &vmFile{Mem: &smallest}
	v := r.resolveOwn("", f)
	if u := mergeUser(r.file.User, nil); u.Name == nil && u.UID == nil {
		v.User = r.fillUser(at, u, anybody(), false)
		r.noteUserOrigins(at, f, u)
	} else {
		v.User = r.resolveUser(at, f)
	}
	v.Image = r.resolveImage(at, f)
	v.Egress = r.resolveEgress(at.to("egress"), f.Egress)
	host := r.host
	host.VMs = []spec.VM{v}
	return slices.DeleteFunc(spec.Check(host), func(p spec.Problem) bool { return r.originOf(p.Path)[0] == "vms" })
}

// originOf replaces the longest part of l that came from elsewhere.
func (r *resolver) originOf(l location) location {
	for n := len(l); n > 0; n-- {
		if o, ok := r.origins[l[:n].key()]; ok {
			return o.to(l[n:]...)
		}
	}
	return l
}

func (r *resolver) resolveHost() {
	f := r.file
	r.host.Bridge = or(f.Bridge, spec.DefaultBridge)
	r.host.ExternalInterface = or(f.ExternalInterface, "")
	if f.ExternalInterface != nil && *f.ExternalInterface == "" {
		r.add(location{"externalInterface"}, "is empty — name an interface, or leave the option away for any")
	}
	r.host.Subnet = r.subnet(or(f.Subnet, spec.DefaultSubnet))
	r.host.StateDir = r.expand(location{"stateDir"}, or(f.StateDir, spec.DefaultStateDir), r.home(f.User, nil))
	r.host.Nameservers = spec.DefaultNameservers()
	if f.Nameservers != nil {
		r.host.Nameservers = make([]netip.Addr, len(f.Nameservers))
		for i, s := range f.Nameservers {
			r.host.Nameservers[i] = r.addr(location{"nameservers", strconv.Itoa(i)}, s, "1.1.1.1")
		}
	}
	r.host.MemoryReserveMiB = spec.DefaultMemoryReserveMiB
	if f.MemoryReserve != nil {
		r.host.MemoryReserveMiB = r.mem(location{"memoryReserve"}, f.MemoryReserve)
	}
	if f.MemoryOvercommit != nil {
		var err error
		if r.host.MemoryOvercommit, err = f.MemoryOvercommit.value(); err != nil {
			r.add(location{"memoryOvercommit"}, "%v", err)
		}
	}
	r.resolveOpenings()
	r.host.VMs = []spec.VM{}
	for i, s := range f.Shares {
		r.place(location{"shares", strconv.Itoa(i)}, s, r.home(f.User, nil))
	}
}

func or[T any](p *T, fallback T) T {
	if p == nil {
		return fallback
	}
	return *p
}

// subnet reads "192.168.83" or a CIDR; the zero Prefix is a reported fault.
func (r *resolver) subnet(s string) netip.Prefix {
	if strings.Count(s, ".") == 2 && !strings.Contains(s, "/") {
		s += ".0/24"
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		r.add(location{"subnet"}, "%s is no subnet — write three octets such as 192.168.83, or a CIDR such as 10.20.0.0/16", quote(or(r.file.Subnet, s)))
	}
	return p
}

func (r *resolver) addr(at location, s, example string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		r.add(at, "%s is no IP address — write for example %s", quote(s), example)
	}
	return a
}

func (r *resolver) resolveVM(name string, f *vmFile) spec.VM {
	at := location{"vms", name}
	v := r.resolveOwn(name, f)
	v.User = r.resolveUser(at, f)
	v.Image = r.resolveImage(at, f)
	v.Shares = r.resolveShares(at, f, v.User)
	v.Egress = r.resolveEgress(at.to("egress"), f.Egress)
	return v
}

// resolveOwn settles the options that concern this VM alone.
func (r *resolver) resolveOwn(name string, f *vmFile) spec.VM {
	at := location{"vms", name}
	v := spec.VM{
		Name:             name,
		MAC:              spec.DerivedMAC(name),
		VCPU:             or(f.VCPU, 0),
		MemoryMiB:        r.mem(at.to("mem"), f.Mem),
		Autostart:        or(f.Autostart, false),
		StoreOnDisk:      or(f.StoreOnDisk, false),
		Hypervisor:       spec.HypervisorKind(inherit(r, at.to("hypervisor"), f.Hypervisor, r.file.Hypervisor, string(spec.HypervisorAuto))),
		Init:             spec.InitKind(inherit(r, at.to("init"), f.Init, r.file.Init, string(spec.InitBield))),
		StopTimeout:      spec.DefaultStopTimeout,
		Restart:          spec.RestartPolicy(inherit(r, at.to("restart"), f.Restart, r.file.Restart, string(spec.RestartNever))),
		RestartIfChanged: inherit(r, at.to("restartIfChanged"), f.RestartIfChanged, r.file.RestartIfChanged, true),
	}
	if f.MAC != nil {
		v.MAC = usualMAC(*f.MAC)
	}
	if s := inherit(r, at.to("stopTimeout"), f.StopTimeout, r.file.StopTimeout, ""); s != "" {
		v.StopTimeout = r.duration(r.originOf(at.to("stopTimeout")), s)
	}
	if f.VCPU != nil && *f.VCPU == 0 {
		r.add(at.to("vcpu"), "0 is out of range — write 1 to %d", spec.MaxVCPU)
	}
	if f.IP != nil {
		v.IP = r.addr(at.to("ip"), *f.IP, spec.DefaultSubnet+".2")
	}
	return v
}

// inherit takes the host's option of the same name where the VM has none of
// its own, and notes that it came from there.
func inherit[T any](r *resolver, at location, own, host *T, fallback T) T {
	if own == nil && host != nil {
		r.origins[at.key()] = at[len(at)-1:]
	}
	return or(own, or(host, fallback))
}

// usualMAC rewrites what can be read and leaves the rest for spec.Check.
func usualMAC(s string) string {
	if hw, err := net.ParseMAC(s); err == nil {
		return hw.String()
	}
	return s
}

func (r *resolver) mem(at location, own *memory) int {
	if own == nil {
		if limit := r.env.MemoryMiB; limit > 0 && limit < spec.DefaultMemoryMiB {
			r.add(at, "the default of %d MB is more than this host's %d — write less", spec.DefaultMemoryMiB, limit)
		}
		return spec.DefaultMemoryMiB
	}
	n, err := own.mebibytes()
	switch {
	case err != nil:
		r.add(at, "%v", err)
	case r.env.MemoryMiB > 0 && n > r.env.MemoryMiB:
		r.add(at, "%s is more than the %d MB that this host has — write less", brief(string(*own)), r.env.MemoryMiB)
	}
	return n
}

func (r *resolver) duration(at location, s seconds) time.Duration {
	d, err := s.duration()
	if err != nil {
		r.add(at, "%v", err)
	}
	return d
}

func (r *resolver) resolveImage(at location, f *vmFile) spec.Image {
	own, host := or(f.Image, imageFile{}), or(r.file.Image, imageFile{})
	pick := func(name string, own, host *string) string {
		if own == nil && host != nil {
			r.origins[at.to("image", name).key()] = location{"image", name}
		}
		return or(own, or(host, ""))
	}
	m := spec.Image{
		Suite:   pick("suite", own.Suite, host.Suite),
		Mirror:  pick("mirror", own.Mirror, host.Mirror),
		Keyring: pick("keyring", own.Keyring, host.Keyring),
	}
	if m.Keyring != "" {
		keyring := r.originOf(at.to("image", "keyring"))
		m.Keyring = r.expand(keyring, m.Keyring, r.home(r.file.User, f.User))
		r.wantFile(keyring, m.Keyring)
	}
	m.Packages = slices.Compact(slices.Sorted(slices.Values(f.ExtraPackages)))
	for i, p := range f.ExtraPackages {
		sorted, _ := slices.BinarySearch(m.Packages, p)
		r.origins[at.to("image", "packages", strconv.Itoa(sorted)).key()] = at.to("extraPackages", strconv.Itoa(i))
	}
	r.origins[at.to("image", "packages").key()] = at.to("extraPackages")
	return m
}
