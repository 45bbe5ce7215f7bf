package fakes

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

// machine is what a command line of QEMU's asks for.
type machine struct {
	name, initrd string
	// files are those that QEMU opens beside the initramfs: kernel and disk.
	files []string
	// Descriptors of listening sockets, and of the tap.
	qmp, events, serial, link, tap int
	// stopped says that its CPUs wait for the command cont.
	stopped bool
	// shares maps tags to sockets.
	shares map[string]string
}

func runQEMU(dir string, p Plan, args []string) error {
	if slices.Contains(args, "--version") {
		fmt.Println("QEMU emulator version 7.2.22 (a fake)")
		return nil
	}
	m, err := parseMachine(args)
	if err != nil {
		return err
	}
	g := p.VMs[m.name]
	switch {
	case g.Crash == AtStart:
		fmt.Fprintln(os.Stderr, QEMU()+": "+g.Says)
		return exit(max(1, g.Exit))
	case g.Hang == AtStart:
		forever()
	}
	return m.run(dir, g)
}

// run opens what QEMU opens before its monitor answers, and plays the guest.
func (m machine) run(dir string, g Guest) error {
	if err := checkTap(m.tap); err != nil {
		return err
	}
	for _, name := range m.files {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("could not open %s: %w", name, err)
		}
		_ = f.Close()
	}
	config, err := readGuestConfig(m.initrd)
	if err != nil {
		return err
	}
	files, err := connectShares(m.shares)
	if err != nil {
		return err
	}
	listeners := map[int]net.Listener{}
	for _, fd := range []int{m.qmp, m.events, m.serial, m.link} {
		if listeners[fd], err = net.FileListener(os.NewFile(uintptr(fd), "listener")); err != nil {
			return fmt.Errorf("-chardev socket,fd=%d: %w", fd, err)
		}
	}
	if config.Link.VsockPort != 0 {
		return errors.New("the guest waits for its host on vsock, which this machine has not")
	}
	v, told := newGuest(m.name, g, config, files, filepath.Join(dir, "net")), &events{}
	v.freeze(m.stopped)
	go serve(listeners[m.serial], v.console.attach)
	go serve(listeners[m.link], v.serveLink)
	go serve(listeners[m.qmp], func(conn net.Conn) { v.serveQMP(conn) })
	go serve(listeners[m.events], told.serve)
	go v.boot()
	code := <-v.off
	told.shutdown(code)
	return exit(max(0, code))
}

// serve takes one connection at a time, as QEMU's sockets do.
func serve(listener net.Listener, use func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		use(conn)
		_ = conn.Close()
	}
}

// parseMachine reads the options that this QEMU needs; of the others it takes
// any.
func parseMachine(args []string) (machine, error) {
	m := machine{shares: map[string]string{}, stopped: slices.Contains(args, "-S")}
	fds, sockets := map[string]int{}, map[string]string{}
	for i := 0; i+1 < len(args); i++ {
		values := optionList(args[i+1])
		switch args[i] {
		case "-name":
			m.name = values["guest"]
		case "-initrd":
			m.initrd = args[i+1]
		case "-kernel":
			m.files = append(m.files, args[i+1])
		case "-drive":
			m.files = append(m.files, values["file"])
		case "-netdev":
			m.tap = number(values["fd"])
		case "-chardev":
			fds[values["id"]], sockets[values["id"]] = number(values["fd"]), values["path"]
		case "-device":
			if values[""] == "vhost-user-fs-device" {
				m.shares[values["tag"]] = sockets[values["chardev"]]
			}
		}
	}
	m.qmp, m.events, m.serial, m.link = fds["qmp"], fds["events"], fds["serial"], fds["link"]
	if m.name == "" || m.initrd == "" || len(m.files) == 0 || m.qmp < 3 || m.events < 3 || m.serial < 3 || m.link < 3 || m.tap < 3 {
		return m, fmt.Errorf("this command line makes no machine of bield's: %q", args)
	}
	if !slices.Contains(args, "virtserialport,bus=ports.0,nr=1,chardev=link,name="+guestconfig.LinkPort) {
		return m, errors.New("the guest link has no port")
	}
	return m, nil
}

// optionList reads "first,key=value,…"; a comma in a value is doubled. The
// first, if it has no key, has the key "".
func optionList(text string) map[string]string {
	const comma = "\x00"
	values := map[string]string{}
	for part := range strings.SplitSeq(strings.ReplaceAll(text, ",,", comma), ",") {
		key, value, found := strings.Cut(part, "=")
		if !found {
			key, value = "", part
		}
		if _, have := values[key]; !have {
			values[key] = strings.ReplaceAll(value, comma, ",")
		}
	}
	return values
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// checkTap refuses a descriptor that is no tap with the header that virtio
// needs.
func checkTap(fd int) error {
	request, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, request); err != nil {
		return fmt.Errorf("-netdev tap,fd=%d: no tap: %w", fd, err)
	}
	const wanted = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if flags := int(request.Uint16()); flags&wanted != wanted {
		return fmt.Errorf("-netdev tap,fd=%d: flags %#x lack some of %#x", fd, flags, wanted)
	}
	return nil
}
