package firewall

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attack is one frame that must not arrive, and does without our rules.
type attack struct {
	name string
	// from sends the frame on its eth0; it must not be seen on interface at
	// in namespace to (nil: the host).
	from  space
	frame []byte
	to    *space
	at    string
	// by is the chain that must count the drop, as family and name.
	by [2]string
}

func (l *lab) attacks() []attack {
	m1, m2, other := parseMAC(guest1MAC), parseMAC(guest2MAC), parseMAC(strangerMAC)
	all := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	v6 := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	pad := string(make([]byte, 64))
	const ip, ar = unix.ETH_P_IP, unix.ETH_P_ARP
	check, checkIP, checkARP := [2]string{"bridge", chainCheck}, [2]string{"bridge", chainCheckIPv4}, [2]string{"bridge", chainCheckARP}
	forward, from := [2]string{"bridge", chainForward}, [2]string{"inet", chainFrom}
	g1, g2, br := l.guest1, l.guest2, l.bridgeMAC
	vlan := append([]byte{0, 5, 8, 0}, udp4(guest1IP, hostIP, 9, 7, "VLAN tag"+pad)...)
	return []attack{
		{"spoofed MAC", g1, ethernet(br, m2, ip, udp4(guest1IP, hostIP, 9, 7, "spoofed MAC")), nil, "microbr", check},
		{"MAC and IP of the other", g1, ethernet(br, m2, ip, udp4(guest2IP, hostIP, 9, 7, "MAC and IP of the other")), nil, "microbr", check},
		{"spoofed IP of the other", g1, ethernet(br, m1, ip, udp4(guest2IP, hostIP, 9, 7, "spoofed IP of the other")), nil, "microbr", checkIP},
		{"spoofed IP of the gateway", g1, ethernet(br, m1, ip, udp4(hostIP, hostIP, 9, 7, "spoofed IP of the gateway")), nil, "microbr", checkIP},
		{"spoofed IP from outside", g1, ethernet(br, m1, ip, udp4("203.0.113.77", hostIP, 9, 7, "spoofed IP from outside")), nil, "microbr", checkIP},
		{"no IP yet", g1, ethernet(all, m1, ip, udp4("0.0.0.0", "255.255.255.255", 68, 67, "no IP yet")), nil, "microbr", checkIP},
		{"ARP for the other", g1, ethernet(all, m1, ar, arp(2, m1, guest2IP, hostIP, "ARP for the other"+pad)), nil, "microbr", checkARP},
		{"ARP for the gateway", g1, ethernet(all, m1, ar, arp(2, m1, hostIP, guest2IP, "ARP for the gateway"+pad)), nil, "microbr", checkARP},
		{"ARP with a false MAC", g1, ethernet(all, m1, ar, arp(2, m2, guest1IP, hostIP, "ARP with a false MAC"+pad)), nil, "microbr", checkARP},
		{"ARP of other lengths", g1, ethernet(all, m1, ar, append([]byte{0, 1, 8, 0, 8, 4}, arp(2, m1, guest1IP, hostIP, "ARP of other lengths"+pad)[6:]...)), nil, "microbr", checkARP},
		{"router advertisement", g1, ethernet(v6, m1, unix.ETH_P_IPV6, routerAdvertisement("router advertisement")), nil, "microbr", check},
		{"router advertisement to guests", g1, ethernet(v6, m1, unix.ETH_P_IPV6, routerAdvertisement("router advertisement to guests")), &g2, "eth0", check},
		{"VLAN tag", g1, ethernet(br, m1, unix.ETH_P_8021Q, vlan), nil, "microbr", check},
		{"DHCP server", g1, ethernet(all, m1, ip, udp4(guest1IP, "255.255.255.255", 67, 68, "DHCP server")), nil, "microbr", checkIP},
		{"spanning tree", g1, ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, m1, 46, []byte("spanning tree"+pad)), &g2, "eth0", check},
		{"guest to guest", g1, ethernet(m2, m1, ip, udp4(guest1IP, guest2IP, 9, 7, "guest to guest")), &g2, "eth0", forward},
		{"guest to guest, back", g2, ethernet(m1, m2, ip, udp4(guest2IP, guest1IP, 9, 7, "guest to guest, back")), &g1, "eth0", forward},
		{"broadcast to guests", g1, ethernet(all, m1, ar, arp(1, m1, guest1IP, guest2IP, "broadcast to guests"+pad)), &g2, "eth0", forward},
		{"guest to stranger", g1, ethernet(other, m1, ip, udp4(guest1IP, strangerIP, 9, 7, "guest to stranger")), &l.stranger, "eth0", forward},
		{"stranger to guest", l.stranger, ethernet(m1, other, ip, udp4(strangerIP, guest1IP, 9, 7, "stranger to guest")), &g1, "eth0", forward},
		{"hairpin", g1, ethernet(br, m1, ip, udp4(guest1IP, guest2IP, 9, 7, "hairpin")), &g2, "eth0", from},
		{"hairpin, back", g2, ethernet(br, m2, ip, udp4(guest2IP, guest1IP, 9, 7, "hairpin, back")), &g1, "eth0", from},
		{"internet to guest", l.internet, l.inbound(externalMAC(), internetIP, "internet to guest"), &g1, "eth0", [2]string{"inet", chainTo}},
		{"intranet to guest", l.intranet, l.inbound(secondMAC(), intranetIP, "intranet to guest"), &g1, "eth0", [2]string{"inet", chainTo}},
	}
}

// inbound comes from the machine outside, whose MAC nobody checks.
func (l *lab) inbound(to net.HardwareAddr, from, data string) []byte {
	return ethernet(to, net.HardwareAddr{2, 0, 0, 3, 0, 1}, unix.ETH_P_IP, udp4(from, guest1IP, 9, 7, data))
}

func externalMAC() net.HardwareAddr { return hostMAC("ext0") }
func secondMAC() net.HardwareAddr   { return hostMAC("lan0") }

func hostMAC(name string) net.HardwareAddr {
	link, err := net.InterfaceByName(name)
	if err != nil {
		panic(err)
	}
	return link.HardwareAddr
}

// announce has every machine on the bridge say where it is, for an earlier
// attack may have told the bridge otherwise.
func (l *lab) announce(t *testing.T) {
	t.Helper()
	at := l.packets(nil, "microbr")
	l.hear(t, l.packets(&l.guest1, "eth0"), at, guest1MAC, guest1IP)
	l.hear(t, l.packets(&l.guest2, "eth0"), at, guest2MAC, guest2IP)
	l.hear(t, l.packets(&l.stranger, "eth0"), at, strangerMAC, strangerIP)
}

// hear repeats an ARP announcement from one packet socket until another hears it.
func (l *lab) hear(t *testing.T, from, at int, mac, ip string) {
	t.Helper()
	drain(t, at)
	mark := "this is " + mac
	frame := ethernet(net.HardwareAddr{255, 255, 255, 255, 255, 255}, parseMAC(mac), unix.ETH_P_ARP, arp(1, parseMAC(mac), ip, ip, mark))
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, err := unix.Write(from, frame)
		must(t, err)
		if arrived(t, at, mark, 20*time.Millisecond) {
			return
		}
	}
	t.Fatalf("%s is not heard", ip)
}

// ready waits until every link carries frames both ways: the kernel takes up
// to a second to notice that a veth pair is up.
func (l *lab) ready(t *testing.T) {
	t.Helper()
	l.announce(t)
	bridge := l.packets(nil, "microbr")
	for _, s := range []*space{&l.guest1, &l.guest2, &l.stranger} {
		l.hear(t, bridge, l.packets(s, "eth0"), l.bridgeMAC.String(), hostIP)
	}
	for _, o := range []struct {
		space          *space
		name, ip, host string
	}{{&l.internet, "ext0", internetIP, externalIP}, {&l.intranet, "lan0", intranetIP, secondIP}} {
		here, there := l.packets(nil, o.name), l.packets(o.space, "eth0")
		l.hear(t, here, there, hostMAC(o.name).String(), o.host)
		l.hear(t, there, here, "02:00:00:03:00:01", o.ip)
	}
}

// run sends the attack until it has arrived, or was counted as dropped.
func (a attack) run(t *testing.T, l *lab, protected bool) {
	t.Helper()
	owner := l.config.Owner
	l.announce(t)
	out, in := l.packets(&a.from, "eth0"), l.packets(a.to, a.at)
	drain(t, in)
	before := dropped(t, owner, a.by[0], a.by[1])
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, err := unix.Write(out, a.frame)
		must(t, err)
		seen := arrived(t, in, a.name, 20*time.Millisecond)
		switch {
		case seen && protected:
			t.Fatal("it arrived")
		case seen:
			return
		case protected && dropped(t, owner, a.by[0], a.by[1]) > before:
			return
		}
	}
	if protected {
		t.Fatalf("it did not arrive, but %s %s counted no drop", a.by[0], a.by[1])
	}
	t.Fatal("without our rules it did not arrive either: the attack shows nothing")
}

func TestAttacks(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	owner := l.config.Owner
	for _, setting := range bridgeNetfilter(t) {
		t.Run(setting.name, func(t *testing.T) {
			setting.apply(t)
			must(t, Remove(t.Context(), owner))
			for _, a := range l.attacks() {
				t.Run("open/"+a.name, func(t *testing.T) { a.run(t, l, false) })
			}
			for _, external := range []string{"", "ext0"} {
				c := l.config
				c.ExternalInterface = external
				must(t, Set(t.Context(), c))
				for _, a := range l.attacks() {
					t.Run("closed"+external+"/"+a.name, func(t *testing.T) { a.run(t, l, true) })
				}
			}
		})
	}
}

type netfilterSetting struct {
	name  string
	apply func(*testing.T)
}

// bridgeNetfilter is both settings of br_netfilter, where the kernel has it:
// with 1 the IP rules see bridged packets too.
func bridgeNetfilter(t *testing.T) []netfilterSetting {
	t.Helper()
	const path = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(path); err != nil {
		return []netfilterSetting{{"without br_netfilter", func(*testing.T) {}}}
	}
	set := func(value string) func(*testing.T) {
		return func(t *testing.T) { must(t, os.WriteFile(path, []byte(value), 0)) }
	}
	return []netfilterSetting{{"bridge-nf-call-iptables=0", set("0")}, {"bridge-nf-call-iptables=1", set("1")}}
}

// TestReservedAddresses sends packets for the host in frames to addresses that
// skip the bridge, so that they reach the host as if from the tap.
func TestReservedAddresses(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	server, err := net.ListenPacket("udp4", "0.0.0.0:7")
	must(t, err)
	defer server.Close()
	out := l.packets(&l.guest1, "eth0")
	for _, c := range []struct {
		name string
		last byte
		by   [2]string
	}{
		{"LLDP", 0x0e, [2]string{"inet", chainPre}},
		{"LACP", 0x02, [2]string{"bridge", chainInput}},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, Remove(t.Context(), l.config.Owner))
			to := net.HardwareAddr{1, 0x80, 0xc2, 0, 0, c.last}
			frame := ethernet(to, parseMAC(guest1MAC), unix.ETH_P_IP, udp4(guest1IP, hostIP, 9, 7, c.name))
			_, err = unix.Write(out, frame)
			must(t, err)
			if !receives(t, server, patience) {
				t.Error("without our rules it did not arrive either: the attack shows nothing")
			}
			must(t, Set(t.Context(), l.config))
			for end := time.Now().Add(patience); dropped(t, l.config.Owner, c.by[0], c.by[1]) == 0; {
				if time.Now().After(end) {
					t.Fatal("no drop was counted")
				}
				_, err = unix.Write(out, frame)
				must(t, err)
			}
			if receives(t, server, 20*time.Millisecond) {
				t.Error("it arrived")
			}
		})
	}
}

func receives(t *testing.T, server net.PacketConn, wait time.Duration) bool {
	t.Helper()
	must(t, server.SetReadDeadline(time.Now().Add(wait)))
	_, _, err := server.ReadFrom(make([]byte, 100))
	return err == nil
}
