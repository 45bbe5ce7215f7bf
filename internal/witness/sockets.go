package witness

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Socket is one of the host's, as /proc/net has it (proc(5)).
type Socket struct {
	Proto string // "tcp" or "udp"
	Local netip.AddrPort
	// Remote is who it is connected to, the zero address if it listens.
	Remote netip.AddrPort
	// Listens says that it takes what anybody sends.
	Listens bool
}

// States of sockets in /proc/net (net/tcp_states.h).
const (
	stateClose  = "07" // of a UDP socket that is not connected
	stateListen = "0A"
)

// Sockets lists those of the network namespace.
func Sockets() ([]Socket, error) {
	var all []Socket
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open("/proc/thread-self/net/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		sockets, err := parseSockets(name[:3], f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("list sockets: %s: %w", name, err)
		}
		all = append(all, sockets...)
	}
	return all, nil
}

func parseSockets(proto string, r io.Reader) ([]Socket, error) {
	var all []Socket
	lines := bufio.NewScanner(r)
	lines.Scan() // names of the columns
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 {
			return nil, fmt.Errorf("line %q", lines.Text())
		}
		local, err := parseEndpoint(f[1])
		if err != nil {
			return nil, err
		}
		remote, err := parseEndpoint(f[2])
		if err != nil {
			return nil, err
		}
		all = append(all, Socket{proto, local, remote, f[3] == stateListen || f[3] == stateClose && proto == "udp"})
	}
	return all, lines.Err()
}

// parseEndpoint reads "0100007F:0016": words in the machine's order, a port.
func parseEndpoint(text string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("address %q", text)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q", text)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}
