package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"bield/internal/guestconfig"
	"bield/internal/spec"
	"bield/internal/state"
	"bield/internal/verify"
	"bield/internal/witness"
)

// facts gathers what the attempts are made from and held against.
func (v *verification) facts() (verify.Facts, error) {
	bridge, err := net.InterfaceByName(v.record.Host.Bridge)
	if err != nil {
		return verify.Facts{}, fmt.Errorf("find the bridge %s: %w", v.record.Host.Bridge, err)
	}
	mac, err := net.ParseMAC(v.vm.MAC)
	if err != nil {
		return verify.Facts{}, err
	}
	f := verify.Facts{
		Cookie: v.cookie.String(), Mark: v.cookie.Mark,
		IP: v.vm.IP, MAC: mac, Tap: v.vm.Tap(), Bridge: bridge.Name, BridgeMAC: bridge.HardwareAddr,
		Gateway: v.record.Host.Gateway(), Subnet: v.record.Host.Subnet,
		CanaryTCP: v.canaries.TCP(), CanaryUDP: v.canaries.UDP(), CanaryIP: witness.RawProtocols(),
		RootOnDisk: v.vm.StoreOnDisk, NonPublic: spec.NonPublic(), Home: v.vm.User.Home,
		PID: os.Getpid(), Boot: fmt.Sprintf("%d-%d", v.record.VMM.PID, v.record.VMM.StartTime),
	}
	v.addSpec(&f)
	for _, add := range []func(*verify.Facts) error{v.addNetwork, v.addShares, v.addMachine} {
		if err := add(&f); err != nil {
			return f, err
		}
	}
	return f, nil
}

// addSpec adds what the spec opens.
func (v *verification) addSpec(f *verify.Facts) {
	f.Mode = string(v.vm.Egress.Effective())
	for _, t := range v.vm.Egress.Allow {
		if t.Prefix.IsValid() {
			f.Allow = append(f.Allow, verify.Allowed{Prefix: t.Prefix, Port: t.Port})
		}
	}
	f.TrustBridge, f.GuestToGuest = v.host.TrustBridge, v.host.GuestToGuest
	for _, p := range v.host.HostPorts {
		f.HostPorts = append(f.HostPorts, verify.Port{Proto: p.Protocol, Port: p.Port})
	}
	f.Nameservers = v.host.Nameservers
	v.e.hostMu.Lock()
	own := v.e.firewallConfig().Ports
	v.e.hostMu.Unlock()
	for _, p := range []verify.Port{{Proto: "udp", Port: own.DNS}, {Proto: "tcp", Port: own.DNSTCP}, {Proto: "tcp", Port: own.Proxy}} {
		if p.Port != 0 {
			f.OwnPorts = append(f.OwnPorts, p)
		}
	}
}

// addNetwork adds what there is to be reached.
func (v *verification) addNetwork(f *verify.Facts) (err error) {
	if f.Addresses, err = witness.Addresses(); err != nil {
		return err
	}
	others := slices.DeleteFunc(f.Addresses, func(a netip.Addr) bool { return a == f.Gateway })
	f.Addresses = append([]netip.Addr{f.Gateway}, others...)
	if f.Neighbours, err = witness.Neighbours(f.Bridge); err != nil {
		return err
	}
	if f.Siblings, err = v.siblings(); err != nil {
		return err
	}
	sockets, err := witness.Sockets()
	if err != nil {
		return err
	}
	for _, s := range sockets {
		p := verify.Port{Proto: s.Proto, Port: s.Local.Port()}
		canary := p == verify.Port{Proto: "tcp", Port: f.CanaryTCP} || p == verify.Port{Proto: "udp", Port: f.CanaryUDP}
		if s.Listens && !canary {
			f.Listeners = append(f.Listeners, verify.Listener{Port: p, Address: s.Local.Addr()})
		}
	}
	return nil
}

// addShares adds what the VM has of the host's files. As whom they are served,
// their processes say.
func (v *verification) addShares(f *verify.Facts) error {
	list := slices.Clone(v.vm.Shares)
	list = append(list, spec.Share{Tag: spec.HostKeysTag, MountPoint: spec.HostKeysMount, ReadOnly: true})
	if !v.vm.StoreOnDisk {
		list = append(list, spec.Share{Tag: spec.RootTag, ReadOnly: true})
	}
	for _, s := range list {
		id := v.record.share(s.Tag).Process
		if id == nil {
			return fmt.Errorf("share %s: nothing serves it", s.Tag)
		}
		uid, _, err := id.Usage()
		if err != nil {
			return fmt.Errorf("share %s: %w", s.Tag, err)
		}
		f.Shares = append(f.Shares, verify.Share{Tag: s.Tag, MountPoint: s.MountPoint, ReadOnly: s.ReadOnly, UID: uid})
	}
	return nil
}

// Kinds of virtio devices (virtio 1.2, section 5).
const (
	virtioNet      = 1
	virtioBlock    = 2
	virtioConsole  = 3
	virtioEntropy  = 4
	virtioBalloon  = 5
	virtioSocket   = 19
	virtioFS       = 26
	virtioWatchdog = 35
)

func (v *verification) addMachine(f *verify.Facts) (err error) {
	if f.SecretPath, f.Secret, err = v.writeSecret(); err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read this boot's id: %w", err)
	}
	f.BootID = strings.TrimSpace(string(boot))
	if f.CommandLine, err = os.ReadFile("/proc/self/cmdline"); err != nil {
		return fmt.Errorf("read the daemon's command line: %w", err)
	}
	for _, d := range witness.Disks() {
		f.Disks = append(f.Disks, verify.Disk(d))
	}
	f.VirtioDevices = map[int]int{virtioNet: 1, virtioEntropy: 1, virtioBalloon: 1, virtioFS: len(f.Shares)}
	if f.RootOnDisk {
		f.VirtioDevices[virtioBlock] = 1
	}
	if v.record.Hypervisor.Kind == spec.HypervisorCloudHypervisor {
		f.VirtioDevices[virtioSocket], f.VirtioDevices[virtioWatchdog] = 1, 1
	} else {
		f.VirtioDevices[virtioConsole] = 1
		f.VirtioPorts = []string{guestconfig.LinkPort}
	}
	var last verified
	err = state.Read(v.folder().Verified(v.vm.Name), &last)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	f.Earlier = last.Boot
	return err
}
