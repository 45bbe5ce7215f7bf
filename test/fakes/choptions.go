package fakes

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// chain is an error as cloud-hypervisor prints it: the outermost cause first.
type chain []string

func (c chain) Error() string {
	var b strings.Builder
	b.WriteString("Error: Cloud Hypervisor exited with the following chain of errors:\n")
	for i, cause := range c {
		fmt.Fprintf(&b, "  %d: %s\n", i, cause)
	}
	return strings.TrimRight(b.String(), "\n")
}

// chPCI are the keys that every PCI device has.
const chPCI = "id pci_segment pci_device_id "

// chKeys are the keys of each option that is a list of them (vmm/src/config.rs).
func chKeys(option string) []string {
	const rates = " bw_size bw_one_time_burst bw_refill_time ops_size ops_one_time_burst ops_refill_time "
	return strings.Fields(map[string]string{
		"api-socket":    "path fd",
		"event-monitor": "path fd",
		"cpus":          "boot max topology kvm_hyperv max_phys_bits affinity features nested core_scheduling",
		"memory": "size mergeable hotplug_method hotplug_size hotplugged_size shared hugepages hugepage_size prefault " +
			"reserve thp",
		"disk": chPCI + rates + "iommu path readonly direct num_queues queue_size vhost_user socket rate_limit_group " +
			"queue_affinity serial backing_files sparse image_type lock_granularity",
		"net": chPCI + rates + "iommu tap ip mask mac host_mac mtu num_queues queue_size fd vhost_user socket vhost_mode " +
			"offload_tso offload_ufo offload_csum",
		"fs":             chPCI + "tag socket num_queues queue_size",
		"vsock":          chPCI + "iommu cid socket",
		"balloon":        chPCI + "size deflate_on_oom free_page_reporting",
		"rng":            chPCI + "iommu src",
		"serial":         "off null pty tty file socket",
		"console":        "off null pty tty file socket iommu",
		"landlock-rules": "path access",
	}[option])
}

// chOptions are the keys of one value, and the option for errors.
type chOptions struct {
	option string
	values map[string]string
	errs   *chain
}

// parseCHOptions splits at commas outside of brackets and quotes. The first = of a
// part splits it, the last of several equal keys counts, an empty value is none
// (option_parser/src/lib.rs). A part without = is a word alone.
func parseCHOptions(option, text string, errs *chain) chOptions {
	o := chOptions{option: option, values: map[string]string{}, errs: errs}
	parts, ok := splitCH(text)
	if !ok {
		o.fail("Invalid syntax: %s", text)
	}
	for _, part := range parts {
		key, value, found := strings.Cut(part, "=")
		if !slices.Contains(chKeys(option), key) {
			o.fail("unknown option: %s", key)
			continue
		}
		value = strings.TrimSpace(value)
		if len(value) > 1 && strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`) {
			value = value[1 : len(value)-1]
		}
		if strings.Contains(value, `"`) {
			o.fail("Invalid syntax: %s", text)
		}
		switch {
		case !found:
			o.values[key] = key
		case value != "":
			o.values[key] = value
		}
	}
	return o
}

func splitCH(text string) (parts []string, ok bool) {
	depth, quoted, begin := 0, false, 0
	for i, r := range text {
		switch {
		case r == '"':
			quoted = !quoted
		case quoted:
		case r == '[':
			depth++
		case r == ']':
			depth--
		case r == ',' && depth == 0:
			parts = append(parts, text[begin:i])
			begin = i + 1
		}
	}
	return append(parts, text[begin:]), depth == 0 && !quoted
}

func (o chOptions) fail(format string, args ...any) {
	if len(*o.errs) == 0 {
		*o.errs = chain{"Failed to parse the VM configuration", "Error parsing --" + o.option, fmt.Sprintf(format, args...)}
	}
}

func (o chOptions) has(key string) bool { return o.values[key] != "" }

// text is a value that must be there.
func (o chOptions) text(key string) string {
	if !o.has(key) {
		o.fail("missing %s", key)
	}
	return o.values[key]
}

func (o chOptions) number(key string, missing int) int {
	if !o.has(key) {
		return missing
	}
	n, err := strconv.Atoi(o.values[key])
	if err != nil || n < 0 {
		o.fail("%s: invalid digit found in string: %q", key, o.values[key])
	}
	return n
}

func (o chOptions) toggle(key string, missing bool) bool {
	switch o.values[key] {
	case "":
		return missing
	case "on", "true":
		return true
	case "off", "false":
		return false
	}
	o.fail("%s: provided string was not a valid toggle: %q", key, o.values[key])
	return false
}

// size is "512M"; the letter is upper-case.
func (o chOptions) size(key string, missing int64) int64 {
	if !o.has(key) {
		return missing
	}
	digits, shift := o.values[key], 0
	for i, unit := range []string{"K", "M", "G"} {
		if d, ok := strings.CutSuffix(digits, unit); ok {
			digits, shift = d, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		o.fail("%s: invalid size: %q", key, o.values[key])
	}
	return n << shift
}

// list is "3", or "[3,4]" with ranges, "[3-5]".
func (o chOptions) list(key string) []int {
	text := strings.TrimSuffix(strings.TrimPrefix(o.values[key], "["), "]")
	if text == "" {
		return nil
	}
	var all []int
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil || from > to {
			o.fail("%s: invalid list: %q", key, o.values[key])
			return nil
		}
		for n := from; n <= to; n++ {
			all = append(all, n)
		}
	}
	return all
}

// queueSize is a power of two.
func (o chOptions) queueSize(missing int) int {
	n := o.number("queue_size", missing)
	if bits.OnesCount(uint(n)) != 1 {
		o.fail("queue_size %d is not a power of two", n)
	}
	return n
}
