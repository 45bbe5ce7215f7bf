package fakes

import (
	"fmt"
	"slices"
	"strings"
)

// chKind is how often an option may stand on cloud-hypervisor's command line, and
// with how many values.
type chKind int

const (
	chUnknown chKind = iota
	chFlag           // once, without a value
	chOne            // once, with one
	chMany           // with one and more, and as often as wanted (v52)
)

// chKindOf knows the options of v52 and v53 (cloud-hypervisor/src/main.rs) without
// those of feature builds.
func chKindOf(option string) chKind {
	for kind, names := range map[chKind]string{
		chFlag: "landlock no-shutdown pvpanic watchdog version",
		chOne: "api-socket balloon cmdline console cpus debug-console event-monitor firmware initramfs kernel log-file " +
			"log-format memory platform restore rng seccomp serial tpm vsock",
		chMany: "device disk fs generic-vhost-user landlock-rules memory-zone net numa pci-segment pmem rate-limit-group user-device vdpa",
	} {
		if slices.Contains(strings.Fields(names), option) {
			return kind
		}
	}
	return chUnknown
}

// clapError is what clap complains of: exit code 2.
type clapError string

func (e clapError) Error() string {
	return "error: " + string(e) + "\n\nUsage: cloud-hypervisor [OPTIONS]\n\nFor more information, try '--help'."
}

// chArguments are options by name, without dashes; a flag's value is "".
type chArguments map[string][]string

// parseCHArguments is clap's part. With v53 --rtc is one more.
func parseCHArguments(args []string, major int) (chArguments, error) {
	found := chArguments{}
	for i := 0; i < len(args); i++ {
		option, inline, hasInline := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		if strings.Trim(args[i], "v") == "-" && len(args[i]) > 1 {
			continue // -v, -vv
		}
		if args[i] == "-V" {
			option = "version"
		} else if !strings.HasPrefix(args[i], "--") {
			return nil, clapError(fmt.Sprintf("unexpected argument '%s' found", args[i]))
		}
		kind := chKindOf(option)
		if option == "rtc" && major >= 53 {
			kind = chOne
		}
		if kind == chUnknown {
			return nil, clapError(fmt.Sprintf("unexpected argument '--%s' found", option))
		}
		if len(found[option]) > 0 && kind != chMany {
			return nil, clapError(fmt.Sprintf("the argument '--%s' cannot be used multiple times", option))
		}
		if kind == chFlag {
			found[option] = []string{""}
			continue
		}
		values := []string{inline}
		if !hasInline {
			values = chValues(args[i+1:], kind)
			i += len(values)
		}
		if len(values) == 0 {
			return nil, clapError(fmt.Sprintf("a value is required for '--%s <%s>' but none was supplied", option, option))
		}
		found[option] = append(found[option], values...)
	}
	return found, found.checkWords()
}

// chValues are those that belong to an option.
func chValues(rest []string, kind chKind) []string {
	n := 0
	for n < len(rest) && !strings.HasPrefix(rest[n], "-") && (n == 0 || kind == chMany) {
		n++
	}
	return rest[:n]
}

// checkWords is what else clap looks at.
func (a chArguments) checkWords() error {
	if s := a.one("seccomp"); s != "" && !slices.Contains([]string{"true", "false", "log", "errno"}, s) {
		return clapError(fmt.Sprintf("invalid value '%s' for '--seccomp <seccomp>'", s))
	}
	if a.has("version") || a.has("kernel") || a.has("firmware") {
		return nil
	}
	return clapError("the following required arguments were not provided:\n  <--kernel <kernel>|--firmware <firmware>>")
}

func (a chArguments) has(option string) bool { return len(a[option]) > 0 }

func (a chArguments) one(option string) string {
	if !a.has(option) {
		return ""
	}
	return a[option][0]
}
