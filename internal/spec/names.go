package spec

import (
	"crypto/sha256"
	"encoding/hex"
)

func nameHash(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// DerivedMAC is the MAC address of a VM that sets none: a locally administered
// prefix and the first two bytes of the SHA-256 of its name.
func DerivedMAC(name string) string {
	h := nameHash(name)
	return "02:00:00:01:" + h[0:2] + ":" + h[2:4]
}

// Tap is the name of the VM's tap on the host: 13 of the 15 characters that
// Linux allows.
func (v VM) Tap() string { return "mv" + nameHash(v.Name)[:11] }

// Host uid ranges that bield uses, in the part that systemd's registry
// (https://systemd.io/UIDS-GIDS) leaves unassigned.
const (
	// ImageUIDBase is where uid 0 of every image lies on the host;
	// ImageUIDCount ids follow.
	ImageUIDBase  = 1879048192
	ImageUIDCount = 65536
	// VMMUIDBase is the first uid of VMMs; each VM has one of its own.
	VMMUIDBase  = ImageUIDBase + 1<<20
	VMMUIDCount = 1 << 27
)
