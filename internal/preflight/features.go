package preflight

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// feature is a part of the kernel, by its option and the module that it may be.
type feature struct {
	name, option string
	// module is "" where the option only extends another's module.
	module string
}

// features are what bieldd uses; overlay, virtiofs and EROFS are the guest's.
func features() []feature {
	return []feature{
		{"tun", "TUN", "tun"},
		{"bridge", "BRIDGE", "bridge"},
		{"nftables", "NF_TABLES", "nf_tables"},
		{"nftables family inet", "NF_TABLES_INET", ""},
		{"nftables family bridge", "NF_TABLES_BRIDGE", ""},
		{"nft ct", "NFT_CT", "nft_ct"},
		{"nft nat", "NFT_NAT", "nft_nat"},
		{"nft masquerade", "NFT_MASQ", "nft_masq"},
		{"network namespaces", "NET_NS", ""},
		{"user namespaces", "USER_NS", ""},
		{"seccomp filters", "SECCOMP_FILTER", ""},
	}
}

// presence is where a part of the kernel is.
type presence int

const (
	unknown   presence = iota
	absent             // this kernel was built without it
	gone               // it is a module, and this kernel's modules are not there
	available          // it is a module that is not loaded
	present            // built in or loaded
)

func (h Host) kernelFeatures() Result {
	k := h.readKernel()
	var have, absentOnes, goneOnes, unknownOnes []string
	for _, f := range features() {
		switch k.find(f) {
		case present, available:
			have = append(have, f.name)
		case absent:
			absentOnes = append(absentOnes, f.name+" (CONFIG_"+f.option+")")
		case gone:
			goneOnes = append(goneOnes, f.name)
		default:
			unknownOnes = append(unknownOnes, f.name)
		}
	}
	_, tunErr := os.Stat(h.path("dev/net/tun"))
	switch {
	case goneOnes != nil:
		return fail(fmt.Sprintf("the modules of the running kernel %s are not there: %s", k.release, strings.Join(goneOnes, ", ")),
			"reboot, if the kernel was upgraded since the last time", "otherwise install the modules of this kernel (Debian, Ubuntu: linux-modules; cloud images: linux-modules-extra)")
	case absentOnes != nil:
		return fail("the kernel was built without "+strings.Join(absentOnes, ", "), "use the distribution's own kernel, or build one with these options")
	case tunErr != nil && k.find(features()[0]) == available:
		return fail("there is no /dev/net/tun", "sudo modprobe tun")
	case tunErr != nil:
		return fail("there is no /dev/net/tun", "sudo mkdir -p /dev/net && sudo mknod -m 666 /dev/net/tun c 10 200", "in a container: pass the device in (--device /dev/net/tun)")
	case have == nil:
		return skipped("this kernel says neither by a configuration nor by lists of modules what is in it")
	case unknownOnes != nil:
		return ok("%s; not known: %s", strings.Join(have, ", "), strings.Join(unknownOnes, ", "))
	}
	return ok("%s", strings.Join(have, ", "))
}

// kernelParts is what a kernel tells of itself.
type kernelParts struct {
	release string
	// options are those of its configuration without CONFIG_, "y" or "m"; nil
	// where there is none to read.
	options map[string]string
	// modules, builtin and loaded are module names with underscores. modules is
	// nil where there is no list.
	modules, builtin, loaded map[string]bool
}

func (h Host) readKernel() kernelParts {
	k := kernelParts{loaded: map[string]bool{}}
	// Without a release the files below are missed, and all is unknown.
	k.release, _ = h.release()
	k.options = h.kernelOptions(k.release)
	for _, dir := range []string{"lib/modules/", "usr/lib/modules/", "run/booted-system/kernel-modules/lib/modules/"} {
		if list := moduleList(h.path(dir + k.release + "/modules.dep")); list != nil {
			k.modules = list
			k.builtin = moduleList(h.path(dir + k.release + "/modules.builtin"))
			break
		}
	}
	entries, _ := os.ReadDir(h.path("sys/module"))
	for _, e := range entries {
		k.loaded[e.Name()] = true
	}
	return k
}

func (k kernelParts) find(f feature) presence {
	option := k.options[f.option]
	switch {
	case f.module != "" && (k.loaded[f.module] || k.builtin[f.module]), option == "y":
		return present
	case f.module == "" && option == "m":
		return present
	case k.modules[f.module]:
		return available
	case option == "m":
		return gone
	case k.options != nil:
		return absent
	case k.modules != nil && f.module != "":
		return absent
	}
	return unknown
}

// maxKernelFile bounds what is read of a list or configuration of a kernel.
const maxKernelFile = 16 << 20

// moduleList reads the names in modules.dep or modules.builtin (depmod(8)): the
// path of a module stands first in each line.
func moduleList(file string) map[string]bool {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	names := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(f, maxKernelFile))
	lines.Buffer(nil, maxKernelFile)
	for lines.Scan() {
		first, _, _ := strings.Cut(lines.Text(), ":")
		name, _, isModule := strings.Cut(path.Base(first), ".ko")
		if isModule {
			names[strings.ReplaceAll(name, "-", "_")] = true
		}
	}
	return names
}

// kernelOptions reads the configuration of the running kernel where the
// distributions keep it.
func (h Host) kernelOptions(release string) map[string]string {
	for _, name := range []string{"proc/config.gz", "boot/config-" + release, "lib/modules/" + release + "/config", "usr/lib/modules/" + release + "/config"} {
		f, err := os.Open(h.path(name))
		if err != nil {
			continue
		}
		options, err := parseOptions(f, strings.HasSuffix(name, ".gz"))
		_ = f.Close()
		if err == nil && len(options) > 0 {
			return options
		}
	}
	return nil
}

func parseOptions(r io.Reader, zipped bool) (map[string]string, error) {
	if zipped {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	}
	options := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(r, maxKernelFile))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		name, isOption := strings.CutPrefix(name, "CONFIG_")
		if isOption && slices.Contains([]string{"y", "m"}, value) {
			options[name] = value
		}
	}
	return options, lines.Err()
}
