package network

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxAliasBytes is the longest ifalias: IFALIASZ of linux/if.h (256) less its
// end.
const maxAliasBytes = 255

// dumpTries bounds how often a dump is repeated that links coming and going
// kept interrupting.
const dumpTries = 10

// find returns the link of that name, or nil if there is none.
func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %s: %w", name, advise(err))
	}
	return link, nil
}

// removeLink deletes a link; that it is gone already is no error.
func removeLink(link netlink.Link) error {
	err := netlink.LinkDel(link)
	if err == nil || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("delete interface %s: %w", link.Attrs().Name, advise(err))
}

func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range dumpTries - 1 {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}

func listLinks() ([]netlink.Link, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", advise(err))
	}
	return links, nil
}

// advise adds what a person can do about an error of the kernel's.
func advise(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: this needs root, or CAP_NET_ADMIN in this network namespace", err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: mount /proc/sys writable for bield", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: the running kernel lacks this kind of interface; load its module (`modprobe bridge`, `modprobe tun`)", err)
	}
	return err
}

// checkName refuses what the kernel would refuse as an interface's name, and
// what it would take for a pattern.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("interface name %q: give it a name of 1 to 15 characters", name)
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("interface name %q: it has %d bytes, Linux allows 15", name, len(name))
	case strings.ContainsFunc(name, func(r rune) bool {
		return r == '/' || r == ':' || r == '%' || r > unicode.MaxASCII || !unicode.IsGraphic(r) || unicode.IsSpace(r)
	}):
		return fmt.Errorf("interface name %q: use letters, digits, '-', '_' and '.'", name)
	}
	return nil
}

func checkOwner(owner string) error {
	switch {
	case owner == "":
		return errors.New("the owner's mark is empty")
	case len(owner) > maxAliasBytes:
		return fmt.Errorf("the owner's mark %.20q… has %d bytes, an ifalias holds %d: use a shorter run directory", owner, len(owner), maxAliasBytes)
	case strings.ContainsFunc(owner, unicode.IsControl):
		return fmt.Errorf("the owner's mark %q has control characters: use another run directory", owner)
	}
	return nil
}
