package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sockets are what the egress process serves on.
type Sockets struct {
	DNS     net.PacketConn // UDP
	DNSTCP  net.Listener
	Proxy   net.Listener // TCP, redirected connections
	Control net.Listener // unix
	Log     *os.File     // of NFLOG, see OpenLog; may be nil
}

// Descriptors of the egress process, as process.Command.Files gives them.
const (
	firstDescriptor = 3 // UDP for DNS; then in order:
	// 4 TCP for DNS, 5 TCP for redirected connections, 6 the control socket, 7 NFLOG
	descriptors = 5
)

// Ports are where the firewall redirects to, all on the gateway's address.
type Ports struct {
	DNS    uint16 `json:"dns"`    // UDP
	DNSTCP uint16 `json:"dnsTCP"` // TCP
	Proxy  uint16 `json:"proxy"`  // TCP
}

// Inherited are the sockets for an egress process that is about to start.
type Inherited struct {
	// Files are in the order of the process's descriptors, from 3.
	Files []*os.File
	Ports Ports
}

// Close closes the daemon's copies; the process has its own.
func (i Inherited) Close() {
	for _, f := range i.Files {
		_ = f.Close()
	}
}

// Open makes all the sockets: on free ports of the gateway's address, which need
// not be there yet; at controlPath, where a stale socket is replaced; and for the
// NFLOG group. It needs root.
func Open(ctx context.Context, gateway netip.Addr, controlPath string, group uint16) (i Inherited, err error) {
	defer func() {
		if err != nil {
			i.Close()
			i = Inherited{}
		}
	}()
	lc := net.ListenConfig{Control: freeBind}
	at := netip.AddrPortFrom(gateway, 0).String()
	udp, err := lc.ListenPacket(ctx, "udp4", at)
	if err != nil {
		return i, fmt.Errorf("open the port for DNS: %w", err)
	}
	i.Ports.DNS = addressOf(udp.LocalAddr()).Port()
	if err := i.add(udp.(*net.UDPConn)); err != nil {
		return i, err
	}
	for _, port := range []*uint16{&i.Ports.DNSTCP, &i.Ports.Proxy} {
		l, err := lc.Listen(ctx, "tcp4", at)
		if err != nil {
			return i, fmt.Errorf("open a port for guests: %w", err)
		}
		*port = addressOf(l.Addr()).Port()
		if err := i.add(l.(*net.TCPListener)); err != nil {
			return i, err
		}
	}
	if err := i.addControl(ctx, controlPath); err != nil {
		return i, err
	}
	log, err := OpenLog(group)
	if err != nil {
		return i, err
	}
	i.Files = append(i.Files, log)
	return i, nil
}

// add takes a copy of a socket, and closes the original.
func (i *Inherited) add(socket interface {
	File() (*os.File, error)
	Close() error
}) error {
	f, err := socket.File()
	err = errors.Join(err, socket.Close())
	if f != nil {
		i.Files = append(i.Files, f)
	}
	if err != nil {
		return fmt.Errorf("copy a socket: %w", err)
	}
	return nil
}

func (i *Inherited) addControl(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the old control socket of egress: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("open the control socket of egress: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	return i.add(l.(*net.UnixListener))
}

// freeBind lets a socket have the gateway's address before the bridge has.
func freeBind(_, _ string, c syscall.RawConn) error {
	var failure error
	err := c.Control(func(fd uintptr) {
		failure = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
	})
	return errors.Join(err, failure)
}

// inherited takes the sockets that the daemon has left at descriptors 3 to 7.
func inherited() (s Sockets, err error) {
	names := [descriptors]string{"udp", "dns", "proxy", "control", "nflog"}
	var files [descriptors]*os.File
	for n := range files {
		fd := firstDescriptor + n
		if err := unix.SetNonblock(fd, true); err != nil {
			return s, fmt.Errorf("descriptor %d (%s): %w; this is for bieldd to start", fd, names[n], err)
		}
		unix.CloseOnExec(fd)
		files[n] = os.NewFile(uintptr(fd), names[n])
	}
	return fromFiles(files[:])
}

func fromFiles(files []*os.File) (s Sockets, err error) {
	if s.DNS, err = net.FilePacketConn(files[0]); err != nil {
		return s, fmt.Errorf("the socket for DNS: %w", err)
	}
	for n, to := range []*net.Listener{&s.DNSTCP, &s.Proxy, &s.Control} {
		if *to, err = net.FileListener(files[1+n]); err != nil {
			return s, fmt.Errorf("an inherited socket: %w", err)
		}
	}
	for _, f := range files[:4] {
		_ = f.Close() // there is a copy
	}
	s.Log = files[4]
	return s, nil
}
