// Package obstacles finds what other firewalls of the host would do to the
// packets that guests can't do without, and opens a way where such a firewall
// has a place for that.
//
// It reads the rules of nftables, by netlink, and of the legacy iptables, and
// walks each base chain with each packet; what it does not understand of a rule
// may match or not, and so makes the answer unsure. Reading changes nothing. An
// Opening is made by the firewall's own program (iptables for Docker's chain
// DOCKER-USER, firewall-cmd for firewalld), carries the owner's mark where there
// is room for one, ends with a reboot, and can be made and taken back any number
// of times.
package obstacles
