package fakes

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
)

// The VM's configuration as vm.info has it: the schemas of the API's description,
// less what no option here sets.
type (
	chConfig struct {
		CPUs           chCPUs           `json:"cpus"`
		Memory         chMemory         `json:"memory"`
		Payload        chPayload        `json:"payload"`
		Disks          []chDisk         `json:"disks,omitempty"`
		Net            []chNet          `json:"net,omitempty"`
		RNG            chRNG            `json:"rng"`
		Balloon        *chBalloon       `json:"balloon,omitempty"`
		FS             []chFS           `json:"fs,omitempty"`
		Serial         chConsole        `json:"serial"`
		Console        chConsole        `json:"console"`
		Vsock          *chVsockConfig   `json:"vsock,omitempty"`
		IOMMU          bool             `json:"iommu"`
		Watchdog       bool             `json:"watchdog"`
		PVPanic        bool             `json:"pvpanic"`
		LandlockEnable bool             `json:"landlock_enable"`
		LandlockRules  []chLandlockRule `json:"landlock_rules,omitempty"`
	}
	chCPUs struct {
		Boot   int  `json:"boot_vcpus"`
		Max    int  `json:"max_vcpus"`
		Nested bool `json:"nested"`
	}
	chMemory struct {
		Size      int64 `json:"size"`
		Shared    bool  `json:"shared"`
		Hugepages bool  `json:"hugepages"`
		Mergeable bool  `json:"mergeable"`
		THP       bool  `json:"thp"`
	}
	chPayload struct {
		Kernel    string `json:"kernel"`
		Cmdline   string `json:"cmdline,omitempty"`
		Initramfs string `json:"initramfs,omitempty"`
	}
	chDisk struct {
		Path      string `json:"path"`
		Readonly  bool   `json:"readonly"`
		NumQueues int    `json:"num_queues"`
		QueueSize int    `json:"queue_size"`
		ID        string `json:"id"`
		ImageType string `json:"image_type"`
	}
	chNet struct {
		MAC       string `json:"mac"`
		NumQueues int    `json:"num_queues"`
		QueueSize int    `json:"queue_size"`
		ID        string `json:"id"`
		fds       []int
	}
	chRNG struct {
		Src string `json:"src"`
	}
	chBalloon struct {
		Size              int64  `json:"size"`
		DeflateOnOOM      bool   `json:"deflate_on_oom"`
		FreePageReporting bool   `json:"free_page_reporting"`
		ID                string `json:"id"`
	}
	chFS struct {
		Tag       string `json:"tag"`
		Socket    string `json:"socket"`
		NumQueues int    `json:"num_queues"`
		QueueSize int    `json:"queue_size"`
		ID        string `json:"id"`
	}
	chConsole struct {
		Mode   string `json:"mode"`
		File   string `json:"file,omitempty"`
		Socket string `json:"socket,omitempty"`
	}
	chVsockConfig struct {
		CID    int64  `json:"cid"`
		Socket string `json:"socket"`
		ID     string `json:"id"`
	}
	chLandlockRule struct {
		Path   string `json:"path"`
		Access string `json:"access"`
	}
)

// chConfigOf parses and checks what the options say of the machine, the first
// mistake is the error.
func chConfigOf(args chArguments) (chConfig, error) {
	var errs chain
	options := func(option, missing string) chOptions {
		text := args.one(option)
		if text == "" {
			text = missing
		}
		return parseCHOptions(option, text, &errs)
	}
	c := chConfig{
		Payload:        chPayload{Kernel: args.one("kernel"), Cmdline: args.one("cmdline"), Initramfs: args.one("initramfs")},
		CPUs:           chCPUsOf(options("cpus", "boot=1")),
		Memory:         chMemoryOf(options("memory", "size=512M")),
		RNG:            chRNG{Src: options("rng", "src=/dev/urandom").text("src")},
		Serial:         chConsoleOf(options("serial", "null")),
		Console:        chConsoleOf(options("console", "tty")),
		Watchdog:       args.has("watchdog"),
		PVPanic:        args.has("pvpanic"),
		LandlockEnable: args.has("landlock"),
	}
	if args.has("balloon") {
		c.Balloon = chBalloonOf(options("balloon", ""), c.Memory.Size)
	}
	if args.has("vsock") {
		c.Vsock = chVsockOf(options("vsock", ""))
	}
	many := func(option string, take func(i int, o chOptions)) {
		for i, text := range args[option] {
			take(i, parseCHOptions(option, text, &errs))
		}
	}
	many("disk", func(i int, o chOptions) { c.Disks = append(c.Disks, chDiskOf(i, o, c)) })
	many("net", func(i int, o chOptions) { c.Net = append(c.Net, chNetOf(i, o, c)) })
	many("fs", func(i int, o chOptions) { c.FS = append(c.FS, chFSOf(i, o, c)) })
	many("landlock-rules", func(_ int, o chOptions) { c.LandlockRules = append(c.LandlockRules, chLandlockRuleOf(o)) })
	if len(errs) > 0 {
		return c, errs
	}
	return c, c.check()
}

func chCPUsOf(o chOptions) chCPUs {
	c := chCPUs{Boot: o.number("boot", 1), Nested: o.toggle("nested", runtime.GOARCH == "amd64")}
	c.Max = o.number("max", c.Boot)
	if c.Boot < 1 || c.Max < c.Boot {
		o.fail("max vCPUs %d is smaller than boot vCPUs %d, or those are none", c.Max, c.Boot)
	}
	return c
}

func chMemoryOf(o chOptions) chMemory {
	m := chMemory{
		Size: o.size("size", 512<<20), Shared: o.toggle("shared", false), Hugepages: o.toggle("hugepages", false),
		Mergeable: o.toggle("mergeable", false), THP: o.toggle("thp", true),
	}
	if m.Shared && m.Mergeable {
		o.fail("shared and mergeable can't both be on")
	}
	return m
}

func chConsoleOf(o chOptions) chConsole {
	for mode, key := range map[string]string{"Off": "off", "Null": "null", "Pty": "pty", "Tty": "tty", "File": "file", "Socket": "socket"} {
		if o.has(key) {
			if mode == "Socket" && o.option == "console" {
				o.fail("No socket option support for console device")
			}
			return chConsole{Mode: mode, File: o.values["file"], Socket: o.values["socket"]}
		}
	}
	o.fail("invalid console")
	return chConsole{}
}

func chBalloonOf(o chOptions, ram int64) *chBalloon {
	b := &chBalloon{
		Size: o.size("size", 0), DeflateOnOOM: o.toggle("deflate_on_oom", false),
		FreePageReporting: o.toggle("free_page_reporting", false), ID: o.id("_balloon"),
	}
	if b.Size >= ram {
		o.fail("the balloon of %d is not smaller than the memory", b.Size)
	}
	return b
}

func chVsockOf(o chOptions) *chVsockConfig {
	v := &chVsockConfig{CID: int64(o.number("cid", 0)), Socket: o.text("socket"), ID: o.id("_vsock")}
	if v.CID < 3 || v.CID >= 1<<32-1 {
		o.fail("invalid vsock CID %d", v.CID)
	}
	return v
}

// chDiskOf wants to be told that an image is raw: what is found out by itself as
// raw may not be written to in its first sector (v51).
func chDiskOf(i int, o chOptions, c chConfig) chDisk {
	types := map[string]string{"raw": "Raw", "qcow2": "Qcow2", "vhd": "FixedVhd", "vhdx": "Vhdx", "": "Unknown"}
	kind, ok := types[o.values["image_type"]]
	if !ok {
		o.fail("image_type: %q", o.values["image_type"])
	}
	d := chDisk{
		Path: o.text("path"), Readonly: o.toggle("readonly", false), NumQueues: o.number("num_queues", 1),
		QueueSize: o.queueSize(128), ID: o.id(fmt.Sprintf("_disk%d", i)), ImageType: kind,
	}
	if d.NumQueues < 1 || d.NumQueues > c.CPUs.Boot {
		o.fail("Number of queues %d exceeds number of vCPUs %d", d.NumQueues, c.CPUs.Boot)
	}
	return d
}

func chNetOf(i int, o chOptions, c chConfig) chNet {
	n := chNet{
		MAC: o.values["mac"], NumQueues: o.number("num_queues", 2), QueueSize: o.queueSize(256),
		ID: o.id(fmt.Sprintf("_net%d", i)), fds: o.list("fd"),
	}
	if _, err := net.ParseMAC(n.MAC); err != nil {
		o.fail("mac: %v", err)
	}
	switch {
	case len(n.fds) == 0:
		o.fail("this fake takes taps as descriptors alone")
	case n.NumQueues != 2*len(n.fds):
		o.fail("Number of queues to virtio_net (%d) does not match the number of FDs (%d * 2)", n.NumQueues, len(n.fds))
	case len(n.fds) > c.CPUs.Boot:
		o.fail("Number of queue pairs %d exceeds number of vCPUs %d", len(n.fds), c.CPUs.Boot)
	}
	for _, fd := range n.fds {
		if fd <= 2 {
			o.fail("Reserved fd number (<= 2)")
		}
	}
	return n
}

func chFSOf(i int, o chOptions, c chConfig) chFS {
	f := chFS{
		Tag: o.text("tag"), Socket: o.text("socket"), NumQueues: o.number("num_queues", 1), QueueSize: o.queueSize(1024),
		ID: o.id(fmt.Sprintf("_fs%d", i)),
	}
	switch {
	case len(f.Tag) > 36:
		o.fail("tag: longer than 36 bytes")
	case f.NumQueues < 1 || f.NumQueues > c.CPUs.Boot:
		o.fail("Number of queues %d exceeds number of vCPUs %d", f.NumQueues, c.CPUs.Boot)
	case !c.Memory.Shared && !c.Memory.Hugepages:
		o.fail("Using vhost-user requires using shared memory or huge pages")
	}
	return f
}

func chLandlockRuleOf(o chOptions) chLandlockRule {
	r := chLandlockRule{Path: o.text("path"), Access: o.text("access")}
	if r.Access == "" || len(r.Access) > 2 || strings.Trim(r.Access, "rw") != "" {
		o.fail("access: %q", r.Access)
	}
	if _, err := os.Stat(r.Path); err != nil {
		o.fail("landlock path does not exist: %q", r.Path)
	}
	return r
}

// id is a device's own, or the one that it gets.
func (o chOptions) id(missing string) string {
	if !o.has("id") {
		return missing
	}
	if strings.HasPrefix(o.values["id"], "__") {
		o.fail("id: %q is reserved", o.values["id"])
	}
	return o.values["id"]
}

// deviceIDs are those of the devices that a driver in the guest activates.
func (c chConfig) deviceIDs() []string {
	ids := []string{"_rng"}
	for _, d := range c.Disks {
		ids = append(ids, d.ID)
	}
	for _, n := range c.Net {
		ids = append(ids, n.ID)
	}
	for _, f := range c.FS {
		ids = append(ids, f.ID)
	}
	if c.Balloon != nil {
		ids = append(ids, c.Balloon.ID)
	}
	if c.Vsock != nil {
		ids = append(ids, c.Vsock.ID)
	}
	if c.Watchdog {
		ids = append(ids, "__watchdog")
	}
	return ids
}

// check is what concerns several options.
func (c chConfig) check() error {
	seen := map[string]bool{}
	for _, id := range c.deviceIDs() {
		if seen[id] {
			return chain{"Failed to parse the VM configuration", "Error validating VM configuration", fmt.Sprintf("Identifier %s is not unique", id)}
		}
		seen[id] = true
	}
	return nil
}
