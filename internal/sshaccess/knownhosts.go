package sshaccess

import "fmt"

// Alias is the name a VM has for OpenSSH: its key is pinned under it.
func Alias(vm string) string { return vm + ".bield" }

// KnownHosts is a known_hosts file with the one host key of a VM, under its
// alias and its address. public is an authorized_keys line.
func KnownHosts(vm, ip, public string) []byte {
	return fmt.Appendf(nil, "%s,%s %s\n", Alias(vm), ip, public)
}
