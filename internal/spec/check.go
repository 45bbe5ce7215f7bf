package spec

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Limits that Check holds a host to.
const (
	MinMemoryMiB   = 128
	maxMemoryMiB   = 1 << 24
	MaxVCPU        = 255
	MinStopTimeout = time.Second
	MaxStopTimeout = time.Hour
	// MaxShares leaves room for bield's own devices among the 24 virtio-mmio
	// slots of QEMU's microvm machine (hw/i386/microvm.c).
	MaxShares = 16
	// MaxNameservers is what a resolver reads (resolv.conf(5), MAXNS).
	MaxNameservers = 3
	// MaxInterfaceName is IFNAMSIZ without its final NUL (linux/if.h).
	MaxInterfaceName = 15
	// MaxVMs bounds what one host is asked to look at.
	MaxVMs = 1024
	// MaxProblems is how many Check lists; what is beyond is counted.
	MaxProblems = 200
	// maxNameBytes is the length of a label (RFC 1035, section 2.3.4).
	maxNameBytes = 63
	// maxMessageBytes bounds what a problem repeats of a stranger's text.
	maxMessageBytes = 1 << 10
	maxOvercommit   = 1000
	minPrefixBits   = 8
	maxPrefixBits   = 30
	maxPackages     = 2000
	maxKeys         = 256
	maxKeyBytes     = 16 << 10
	// maxSystemUID is the last of the ids that Debian assigns statically
	// (Debian policy 9.2.2).
	maxSystemUID = 99
)

// Problem is one rule that a host breaks.
type Problem struct {
	// Path leads to the option: "vms", "claude-home", "ip". A share is
	// named by its index in VM.Shares: "vms", "claude-home", "shares", "0", "tag".
	Path []string
	// Message says what is wrong and, behind a dash, what to write instead.
	Message string
}

func (p Problem) String() string { return strings.Join(p.Path, ".") + ": " + p.Message }

// Check holds h to every rule that needs no I/O and returns what it breaks;
// none means that the host may be applied as far as h alone can tell. It takes
// any value, also one that a stranger made: its work grows with the size of h
// and no faster. Of more than MaxProblems problems a last one says how many
// there are, and of more than MaxVMs VMs it says only that.
func Check(h Host) []Problem {
	c := newChecker(h)
	if len(h.VMs) > MaxVMs {
		c.add(location{"vms"}, "%d VMs are too many — keep to %d", len(h.VMs), MaxVMs)
		return c.problems
	}
	c.checkHost()
	c.checkNames()
	for i := range h.VMs {
		// Each problem of a VM repeats its name.
		if len(h.VMs[i].Name) <= maxNameBytes {
			c.checkVM(&h.VMs[i])
		}
	}
	c.checkUnique()
	return c.all()
}

type checker struct {
	host     Host
	problems []Problem
	omitted  int
	targets  int // looked at
	// What all VMs are held against is made once; stateDir is "" where it is
	// itself at fault.
	stateDir  string
	usedIPs   map[netip.Addr]bool
	usedMACs  map[string]bool
	suggestIP func() string
}

func newChecker(h Host) *checker {
	c := &checker{host: h, usedIPs: map[netip.Addr]bool{}, usedMACs: map[string]bool{}}
	for i := range h.VMs[:min(len(h.VMs), MaxVMs)] {
		c.usedIPs[h.VMs[i].IP], c.usedMACs[h.VMs[i].MAC] = true, true
	}
	if stateDirProblem(h.StateDir) == "" {
		c.stateDir = h.StateDir
	}
	c.suggestIP = sync.OnceValue(c.freeIP)
	return c
}

// all is what was found and how much more there is.
func (c *checker) all() []Problem {
	if c.omitted == 0 {
		return c.problems
	}
	message := fmt.Sprintf("and %d problems more — mend those listed first", c.omitted)
	return append(c.problems, Problem{Path: location{"vms"}, Message: message})
}

type location []string

func (l location) to(parts ...string) location { return append(slices.Clip(l), parts...) }

func vmAt(v *VM) location { return location{"vms", v.Name} }

func (c *checker) add(at location, format string, args ...any) {
	if len(c.problems) == MaxProblems {
		c.omitted++
		return
	}
	message := fmt.Sprintf(format, args...)
	if len(message) > maxMessageBytes {
		message = strings.ToValidUTF8(message[:maxMessageBytes], "") + "…"
	}
	c.problems = append(c.problems, Problem{Path: at, Message: message})
}

// say adds a problem unless message is empty.
func (c *checker) say(at location, message string) {
	if message != "" {
		c.add(at, "%s", message)
	}
}

func (c *checker) checkHost() {
	h := c.host
	c.say(location{"bridge"}, interfaceProblem(h.Bridge))
	if h.ExternalInterface != "" {
		c.say(location{"externalInterface"}, interfaceProblem(h.ExternalInterface))
		if h.ExternalInterface == h.Bridge {
			c.add(location{"externalInterface"}, "is the bridge itself — name the interface that leads out, or leave it away")
		}
	}
	c.say(location{"subnet"}, subnetProblem(h.Subnet))
	c.say(location{"stateDir"}, stateDirProblem(h.StateDir))
	c.checkNameservers()
	c.checkHostPorts()
	if h.MemoryReserveMiB < 0 || h.MemoryReserveMiB > maxMemoryMiB {
		c.add(location{"memoryReserve"}, "%d MB is out of range — the default is %d", h.MemoryReserveMiB, DefaultMemoryReserveMiB)
	}
	if o := h.MemoryOvercommit; o != 0 && !(o >= 0.1 && o <= maxOvercommit) {
		c.add(location{"memoryOvercommit"}, "%v is out of range — write a ratio such as 1.0 or 2.5, or leave it away", o)
	}
}

func subnetProblem(p netip.Prefix) string {
	const write = "write for example 192.168.83 or 10.20.0.0/16"
	switch a := p.Addr(); {
	case !p.IsValid():
		return "is missing — " + write
	case !a.Is4():
		return fmt.Sprintf("%s is not IPv4 — %s", p, write)
	case p.Masked() != p:
		return fmt.Sprintf("%s is an address in a network, not a network — write %s", p, p.Masked())
	case p.Bits() < minPrefixBits || p.Bits() > maxPrefixBits:
		return fmt.Sprintf("/%d is no size for a network of VMs — use /%d to /%d", p.Bits(), minPrefixBits, maxPrefixBits)
	case a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.As4()[0] == 0 || a.As4()[0] >= 240:
		return fmt.Sprintf("%s cannot be used for hosts — %s", p, write)
	}
	return ""
}

func stateDirProblem(dir string) string {
	if m := pathProblem(dir); m != "" {
		return m
	}
	if dir == "/" || within(dir, "/proc") || within(dir, "/sys") || within(dir, "/dev") {
		return fmt.Sprintf("%q cannot hold state — the default is %s", dir, DefaultStateDir)
	}
	return ""
}

func (c *checker) checkNameservers() {
	at := location{"nameservers"}
	if len(c.host.Nameservers) > MaxNameservers {
		c.add(at, "%d name servers: a resolver reads only %d — remove some", len(c.host.Nameservers), MaxNameservers)
	}
	seen := map[netip.Addr]bool{}
	for i, a := range c.host.Nameservers {
		at := at.to(strconv.Itoa(i))
		switch {
		case !a.Is4():
			c.add(at, "%s is not an IPv4 address: guests have no IPv6 — write for example 1.1.1.1", a)
		case a.IsLoopback():
			c.add(at, "%s would be the guest itself — name a server that the guest can reach", a)
		case a.IsUnspecified() || a.IsMulticast() || a.As4()[0] >= 240:
			c.add(at, "%s is no server's address — write for example 1.1.1.1", a)
		case seen[a]:
			c.add(at, "%s is there twice — remove one", a)
		}
		seen[a] = true
	}
}

// checkNames blames the second VM of a name, as a path cannot tell them apart.
func (c *checker) checkNames() {
	seen := map[string]bool{}
	for i := range c.host.VMs {
		v := &c.host.VMs[i]
		if seen[v.Name] {
			c.add(vmAt(v), "two VMs are named %.80q — rename one", v.Name)
		}
		seen[v.Name] = true
		c.say(vmAt(v), NameProblem(v.Name))
	}
}

// NameProblem says why name cannot be a VM's name, which is also its guest's
// host name (RFC 1123, section 2.1, in lower case), or is "".
func NameProblem(name string) string {
	const write = "use at most 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
	switch {
	case len(name) > maxNameBytes:
		return fmt.Sprintf("the name has %d characters — %s", len(name), write)
	case !madeOf(name, lower+digits, lower+digits+"-") || !endsIn(name, lower+digits):
		return fmt.Sprintf("%q is no host name — %s", name, write)
	case !strings.ContainsFunc(name, unicode.IsLower):
		return fmt.Sprintf("%q would be read as an address — put a letter in it", name)
	case name == "localhost":
		return "\"localhost\" is every machine's name for itself — choose another"
	}
	return ""
}

func interfaceProblem(name string) string {
	switch {
	case name == "":
		return "is empty — name an interface, for example " + DefaultBridge
	case len(name) > MaxInterfaceName:
		return fmt.Sprintf("%q has %d characters, Linux allows %d — shorten it", name, len(name), MaxInterfaceName)
	case !madeOf(name, letters+digits+"_", letters+digits+"_.-"):
		return fmt.Sprintf("%q is no interface name — use letters, digits, - _ and .", name)
	case name == "lo" || name == "all" || name == "default":
		return fmt.Sprintf("%q has a meaning of its own in Linux — choose another name", name)
	}
	return ""
}

func (c *checker) checkVM(v *VM) {
	at := vmAt(v)
	c.say(at.to("ip"), c.ipProblem(v.IP))
	c.say(at.to("mac"), macProblem(v.MAC))
	c.checkTapName(v)
	if v.VCPU < 0 || v.VCPU > MaxVCPU {
		c.add(at.to("vcpu"), "%d is out of range — write 1 to %d", v.VCPU, MaxVCPU)
	}
	if v.MemoryMiB < MinMemoryMiB || v.MemoryMiB > maxMemoryMiB {
		c.add(at.to("mem"), "%d MB is out of range — write at least %d", v.MemoryMiB, MinMemoryMiB)
	}
	if v.StopTimeout < MinStopTimeout || v.StopTimeout > MaxStopTimeout {
		c.add(at.to("stopTimeout"), "%s is out of range — write 1s to 1h", v.StopTimeout)
	}
	c.say(at.to("restart"), oneOf(v.Restart, RestartNever, RestartOnFailure, RestartAlways))
	c.say(at.to("hypervisor"), oneOf(v.Hypervisor, HypervisorAuto, HypervisorQEMU, HypervisorCloudHypervisor))
	c.say(at.to("init"), oneOf(v.Init, InitBield, InitSystemd))
	c.checkUser(at.to("user"), v.User)
	c.checkImage(at.to("image"), v.Image)
	c.checkShares(at, v)
	c.checkEgress(at.to("egress"), v.Egress)
}

func oneOf[T ~string](got T, want ...T) string {
	if slices.Contains(want, got) {
		return ""
	}
	names := make([]string, len(want))
	for i, w := range want {
		names[i] = string(w)
	}
	return fmt.Sprintf("%q is unknown — write %s or %s", got, strings.Join(names[:len(names)-1], ", "), names[len(names)-1])
}

func (c *checker) ipProblem(ip netip.Addr) string {
	subnet := c.host.Subnet
	switch {
	case !ip.IsValid():
		return "is missing: the VM's IPv4 address — " + c.suggestIP()
	case !ip.Is4():
		return fmt.Sprintf("%s is not IPv4 — %s", ip, c.suggestIP())
	case subnetProblem(subnet) != "":
		return ""
	}
	var wrong string
	switch {
	case !subnet.Contains(ip):
		wrong = "lies outside the subnet " + subnet.String()
	case ip == subnet.Addr():
		wrong = "is the address of the network itself"
	case ip == c.host.Gateway():
		wrong = "is the gateway, the host's own address"
	case ip == broadcast(subnet):
		wrong = "is the broadcast address"
	default:
		return ""
	}
	return fmt.Sprintf("%s %s — %s", ip, wrong, c.suggestIP())
}

func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | math.MaxUint32>>p.Bits()
	binary.BigEndian.PutUint32(a[:], n)
	return netip.AddrFrom4(a)
}

// freeIP looks at one address more than there are VMs, so it ends.
func (c *checker) freeIP() string {
	if subnetProblem(c.host.Subnet) != "" {
		return "write for example 192.168.83.2"
	}
	last := broadcast(c.host.Subnet)
	for a := c.host.Gateway().Next(); a.Less(last); a = a.Next() {
		if !c.usedIPs[a] {
			return fmt.Sprintf("%s is free", a)
		}
	}
	return "no address is free: use a larger subnet"
}

func macProblem(mac string) string {
	const write = "write six pairs such as 02:00:00:01:b8:4b"
	hw, err := net.ParseMAC(mac)
	switch {
	case err != nil || len(hw) != 6:
		return fmt.Sprintf("%q is no MAC address — %s", mac, write)
	case hw.String() != mac:
		return fmt.Sprintf("%q is written unusually — write %s", mac, hw)
	case hw[0]&1 != 0:
		return fmt.Sprintf("%s is a multicast address: its first pair must be even — for example 02", mac)
	case mac == "00:00:00:00:00:00":
		return fmt.Sprintf("%s belongs to nobody — %s", mac, write)
	}
	return ""
}

func (c *checker) checkTapName(v *VM) {
	switch v.Tap() {
	case c.host.Bridge:
		c.add(location{"bridge"}, "%q is the tap of the VM %q — choose another name", c.host.Bridge, v.Name)
	case c.host.ExternalInterface:
		c.add(location{"externalInterface"}, "%q is the tap of the VM %q — name the interface that leads out", v.Tap(), v.Name)
	}
}

// checkUnique finds what two VMs may not have both, and blames the later one.
func (c *checker) checkUnique() {
	ips, macs, taps := map[netip.Addr]string{}, map[string]string{}, map[string]string{}
	for i := range c.host.VMs {
		v := &c.host.VMs[i]
		if len(v.Name) > maxNameBytes {
			continue // it needs another name first
		}
		if other, twice := ips[v.IP]; twice && v.IP.IsValid() {
			c.add(vmAt(v).to("ip"), "%s is also the IP of the VM %q — %s", v.IP, other, c.suggestIP())
		}
		if other, twice := macs[v.MAC]; twice && v.MAC != "" {
			c.add(vmAt(v).to("mac"), "%s is also the MAC of the VM %q — set another `mac` for one of them, for example %s",
				v.MAC, other, c.freeMAC(v.Name))
		}
		if other, twice := taps[v.Tap()]; twice && other != v.Name {
			c.add(vmAt(v), "the tap %s would also be that of the VM %q — rename one", v.Tap(), other)
		}
		ips[v.IP], macs[v.MAC], taps[v.Tap()] = v.Name, v.Name, v.Name
	}
}

// freeMAC gives up where a stranger has taken all that it tries.
func (c *checker) freeMAC(name string) string {
	mac := ""
	for n := range 16 {
		if mac = DerivedMAC(name + "-" + strconv.Itoa(n+1)); !c.usedMACs[mac] {
			break
		}
	}
	return mac
}
