package preflight

import (
	"bytes"
	"compress/gzip"
	"errors"
	"maps"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKernel(t *testing.T) {
	for release, want := range map[string]State{
		"6.1.0-37-cloud-amd64": OK, "5.10.0": OK, "5.9.16-arch1-1": Fail, "4.19.0": Fail, "10.0-rc1": OK, "odd": Warn,
	} {
		if r := judgeKernel(release, "amd64"); r.State != want {
			t.Errorf("%s: %+v", release, r)
		}
	}
	for arch, want := range map[string]State{"amd64": OK, "arm64": Warn, "riscv64": Fail} {
		if r := judgeKernel("6.1.0", arch); r.State != want {
			t.Errorf("%s: %+v", arch, r)
		}
	}
	h := fakeHost(t, map[string]string{"proc/sys/kernel/osrelease": "4.19.0\n"})
	if r := h.kernel(); r.State != Fail {
		t.Errorf("an old kernel: %+v", r)
	}
	if r := fakeHost(t, nil).kernel(); r.State != Warn {
		t.Errorf("without /proc: %+v", r)
	}
}

// all is a configuration in which every feature has the value.
func all(value string) string {
	text := "# a comment\nCONFIG_LOCALVERSION=\"\"\n"
	for _, f := range features() {
		text += "CONFIG_" + f.option + "=" + value + "\n"
	}
	return text
}

// zipped is text as /proc/config.gz has it.
func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	must(t, errors.Join(err, w.Close()))
	return b.String()
}

const modulesDep = "kernel/drivers/net/tun.ko.xz:\nkernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz\n" +
	"kernel/net/netfilter/nf_tables.ko:\nkernel/net/netfilter/nft_ct.ko:\nkernel/net/netfilter/nft-nat.ko.zst:\nkernel/net/netfilter/nft_masq.ko:\n"

func TestKernelFeatures(t *testing.T) {
	const release = "proc/sys/kernel/osrelease"
	tests := []struct {
		name  string
		files map[string]string
		want  State
		words []string
	}{
		{"built in", map[string]string{"proc/config.gz": zipped(t, all("y")), "dev/net/tun": ""}, OK, []string{"tun, bridge, nftables", "family bridge"}},
		{"Debian's modules", map[string]string{"boot/config-6.1.0": all("m"), "lib/modules/6.1.0/modules.dep": modulesDep, "dev/net/tun": ""}, OK, []string{"nft masquerade"}},
		{"NixOS's modules", map[string]string{"proc/config.gz": zipped(t, all("m")), "run/booted-system/kernel-modules/lib/modules/6.1.0/modules.dep": modulesDep, "dev/net/tun": ""}, OK, nil},
		{"upgraded and not rebooted", map[string]string{"proc/config.gz": zipped(t, all("m")), "lib/modules/6.2.0/modules.dep": modulesDep}, Fail, []string{"6.1.0", "reboot"}},
		{"loaded, and gone from disk", map[string]string{"proc/config.gz": zipped(t, all("m")), "sys/module/tun/": "", "sys/module/bridge/": "",
			"sys/module/nf_tables/": "", "sys/module/nft_ct/": "", "sys/module/nft_nat/": "", "sys/module/nft_masq/": "", "dev/net/tun": ""}, OK, nil},
		{"built without", map[string]string{"boot/config-6.1.0": "CONFIG_TUN=y\n# CONFIG_NF_TABLES is not set\n", "dev/net/tun": ""}, Fail, []string{"CONFIG_NF_TABLES", "CONFIG_NF_TABLES_BRIDGE"}},
		{"only lists", map[string]string{"lib/modules/6.1.0/modules.dep": modulesDep, "dev/net/tun": ""}, OK, []string{"not known: nftables family inet"}},
		{"a list without bridge", map[string]string{"lib/modules/6.1.0/modules.dep": "kernel/tun.ko:\n", "lib/modules/6.1.0/modules.builtin": "kernel/nf_tables.ko\n", "dev/net/tun": ""}, Fail, []string{"bridge (CONFIG_BRIDGE)"}},
		{"no device", map[string]string{"proc/config.gz": zipped(t, all("y"))}, Fail, []string{"/dev/net/tun", "mknod"}},
		{"module of the device not loaded", map[string]string{"boot/config-6.1.0": all("m"), "lib/modules/6.1.0/modules.dep": modulesDep}, Fail, []string{"modprobe tun"}},
		{"says nothing", map[string]string{"dev/net/tun": ""}, Skipped, nil},
		{"a damaged configuration", map[string]string{"proc/config.gz": "no gzip", "dev/net/tun": ""}, Skipped, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := maps.Clone(tt.files)
			files[release] = "6.1.0\n"
			expect(t, fakeHost(t, files).kernelFeatures(), tt.want, tt.words...)
		})
	}
}

func TestSystemCalls(t *testing.T) {
	expect(t, judgeCalls(calls{}), OK, "pidfd")
	expect(t, judgeCalls(calls{pidfd: unix.ENOSYS}), Fail, "pidfd_open", "function not implemented")
	expect(t, judgeCalls(calls{memfd: unix.EPERM}), Fail, "memfd_create")
	expect(t, judgeCalls(calls{notify: errors.New("none")}), Warn, "seccomp user notification")
	if c := tryCalls("/proc/sys/kernel/seccomp/actions_avail"); c.pidfd != nil || c.memfd != nil {
		t.Errorf("this kernel: %+v", c)
	}
}

func TestUserNamespaces(t *testing.T) {
	const kernel = "proc/sys/kernel/"
	tests := []struct {
		name  string
		files map[string]string
		want  State
		words []string
	}{
		{"free", nil, OK, nil},
		{"a maximum", map[string]string{"proc/sys/user/max_user_namespaces": "15000\n", kernel + "unprivileged_userns_clone": "1\n"}, OK, nil},
		{"none at all", map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}, Fail, []string{"sudo sysctl -w user.max_user_namespaces="}},
		{"Debian hardened", map[string]string{kernel + "unprivileged_userns_clone": "0\n"}, Fail, []string{"sudo sysctl -w kernel.unprivileged_userns_clone=1"}},
		{"Ubuntu, its profile removed", map[string]string{kernel + "apparmor_restrict_unprivileged_userns": "1\n"}, Fail, []string{"/etc/apparmor.d/virtiofsd", "apparmor_parser"}},
		{"Ubuntu", map[string]string{kernel + "apparmor_restrict_unprivileged_userns": "1\n", "etc/apparmor.d/virtiofsd": "profile virtiofsd { userns, }"}, OK, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, fakeHost(t, tt.files).userNamespaces(), tt.want, tt.words...)
		})
	}
}

// TestTryUserNamespace tries one for real, within a limit of none.
func TestTryUserNamespace(t *testing.T) {
	needRoot(t)
	if err := (Host{}).tryUserNamespace(); err != nil {
		t.Errorf("a user namespace as root: %v", err)
	}
	if !inChild(t, unix.CLONE_NEWUSER|unix.CLONE_NEWNS) {
		return
	}
	must(t, os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0))
	expect(t, Host{}.userNamespaces(), Fail, "max_user_namespaces is 0")
	if err := (Host{}).tryUserNamespace(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a namespace too many: %v", err)
	}
}

func TestLandlock(t *testing.T) {
	expect(t, judgeLandlock(0), Warn, "none", "lsm=")
	expect(t, judgeLandlock(1), OK, "version 1: files; newer kernels also bound truncation, TCP")
	expect(t, judgeLandlock(5), OK, "newer kernels also bound signals")
	expect(t, judgeLandlock(7), OK, "version 7", "abstract sockets")
}

func TestCgroups(t *testing.T) {
	for _, c := range []struct {
		has  Cgroups
		want State
		word string
	}{
		{Cgroups{Found: "version 2 below /sys/fs/cgroup: memory, pids, cpu"}, OK, "version 2"},
		{Cgroups{Found: "version 1: pids", Lacks: []string{"memory", "cpu"}}, Warn, "no limits of memory, cpu"},
		{Cgroups{Err: errors.New("read-only")}, Warn, "read-only: VMs run without limits"},
	} {
		h := Host{Cgroups: func() Cgroups { return c.has }}
		expect(t, h.cgroups(), c.want, c.word)
	}
}

func TestKVM(t *testing.T) {
	tests := []struct{ flags, want string }{
		{"fpu vmx hypervisor", "modprobe kvm_intel"}, {"svm", "modprobe kvm_amd"},
		{"fpu hypervisor", "nested virtualization"}, {"fpu", "firmware"},
	}
	for _, tt := range tests {
		h := fakeHost(t, map[string]string{"proc/cpuinfo": "processor\t: 0\nflags\t\t: " + tt.flags + "\nbugs\t:\n"})
		h.KVM = func() (bool, string) { return false, "there is no /dev/kvm" }
		expect(t, h.kvm(), Warn, "guests are emulated", "there is no /dev/kvm", tt.want)
		h.KVM = func() (bool, string) { return true, "" }
		expect(t, h.kvm(), OK)
	}
}
