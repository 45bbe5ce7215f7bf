package witness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Addresses lists the host's IPv4 addresses but those of loopback.
func Addresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var list []netip.Addr
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			list = append(list, p.Addr())
		}
	}
	return list, nil
}

// Neighbours lists those that the host knows on its networks, but for those on
// the link that is left out: its routers first, then whom it has spoken to
// (/proc/net/route, /proc/net/arp).
func Neighbours(but string) ([]netip.Addr, error) {
	var list []netip.Addr
	err := table("route", func(f []string) {
		if len(f) < 3 || f[0] == but {
			return
		}
		if gateway, err := parseEndpoint(f[2] + ":0"); err == nil && !gateway.Addr().IsUnspecified() {
			list = append(list, gateway.Addr())
		}
	})
	if err != nil {
		return nil, err
	}
	const resolved = "0x2" // ATF_COM
	err = table("arp", func(f []string) {
		if len(f) < 6 || f[5] == but || f[2] != resolved {
			return
		}
		if a, err := netip.ParseAddr(f[0]); err == nil {
			list = append(list, a)
		}
	})
	return unique(list), err
}

func unique(list []netip.Addr) []netip.Addr {
	seen := map[netip.Addr]bool{}
	kept := list[:0]
	for _, a := range list {
		if !seen[a] {
			seen[a] = true
			kept = append(kept, a)
		}
	}
	return kept
}

// table visits the lines of a file in /proc/net, but the first, in columns.
func table(name string, visit func(columns []string)) error {
	f, err := os.Open("/proc/thread-self/net/" + name)
	if err != nil {
		return fmt.Errorf("read the host's network: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	for lines.Scan() {
		visit(strings.Fields(lines.Text()))
	}
	return lines.Err()
}

// Disk is a block device of the host's.
type Disk struct {
	Name         string
	Major, Minor uint32
	// Start is what it begins with, nil where the host itself can't read it.
	Start []byte
}

// startBytes is how much of a disk is compared.
const startBytes = 4 << 10

// Disks lists the host's disks, but those in memory and on files.
func Disks() []Disk {
	paths, _ := filepath.Glob("/sys/block/*/dev") // the pattern is right
	var list []Disk
	for _, path := range paths {
		d := Disk{Name: filepath.Base(filepath.Dir(path))}
		number, err := os.ReadFile(path)
		major, minor, found := strings.Cut(strings.TrimSpace(string(number)), ":")
		if err != nil || !found || inMemory(d.Name) {
			continue
		}
		if d.Major, d.Minor, err = numbers(major, minor); err == nil {
			d.Start = start("/dev/" + d.Name)
			list = append(list, d)
		}
	}
	return list
}

func inMemory(name string) bool {
	return strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "zram")
}

func numbers(major, minor string) (uint32, uint32, error) {
	a, err := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return uint32(a), uint32(b), errors.Join(err, err2)
}

func start(path string) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	data := make([]byte, startBytes)
	n, _ := io.ReadFull(f, data) // as much as there is
	return data[:n]
}
