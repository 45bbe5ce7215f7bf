package fakes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What Landlock's ABI 3 knows, which is the one that cloud-hypervisor asks for,
// as its "r" and "w" (vmm/src/landlock.rs).
const (
	landlockRead = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockMake = unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	landlockWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | landlockMake
	// landlockOfFile is what a rule for a file may say.
	landlockOfFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// landlockRules are the given ones and those that cloud-hypervisor adds. That of
// the vsock socket covers a file that is not there yet, and so nothing.
func (c chConfig) landlockRulesOfAll() []chLandlockRule {
	rules := append([]chLandlockRule{
		{c.Payload.Kernel, "r"}, {c.Payload.Initramfs, "r"}, {c.RNG.Src, "rw"},
		{c.Serial.Socket, "rw"}, {c.Serial.File, "rw"}, {c.Console.File, "rw"},
	}, c.LandlockRules...)
	for _, d := range c.Disks {
		rules = append(rules, chLandlockRule{d.Path, "rw"})
	}
	for _, f := range c.FS {
		rules = append(rules, chLandlockRule{f.Socket, "rw"})
	}
	if len(c.Net) > 0 {
		rules = append(rules, chLandlockRule{"/dev/net/tun", "rw"})
	}
	return rules
}

// errNoLandlock says that the kernel has none: cloud-hypervisor then goes on
// without.
var errNoLandlock = errors.New("the kernel has no Landlock")

// restrict confines the calling thread, for good.
func (c chConfig) restrict() error {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: landlockRead | landlockWrite}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		return errNoLandlock
	}
	if errno != 0 {
		return fmt.Errorf("make a Landlock ruleset: %w", errno)
	}
	defer unix.Close(int(ruleset))
	for _, rule := range c.landlockRulesOfAll() {
		if err := addLandlockRule(int(ruleset), rule); err != nil {
			return fmt.Errorf("rule of Landlock for %s: %w", rule.Path, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fmt.Errorf("apply Landlock: %w", errno)
	}
	return nil
}

// addLandlockRule leaves out what is not there.
func addLandlockRule(ruleset int, rule chLandlockRule) error {
	fd, err := unix.Open(rule.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	beneath := unix.LandlockPathBeneathAttr{Parent_fd: int32(fd)}
	if strings.Contains(rule.Access, "r") {
		beneath.Allowed_access |= landlockRead
	}
	if strings.Contains(rule.Access, "w") {
		beneath.Allowed_access |= landlockWrite
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		beneath.Allowed_access &= landlockOfFile
	}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&beneath)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// mayMake is Landlock's word where the kernel has none, so that a rule that lacks
// is found out there too.
func (c chConfig) mayMake(path string) error {
	for _, rule := range c.LandlockRules {
		below, err := filepath.Rel(rule.Path, path)
		if err == nil && filepath.IsLocal(below) && below != "." && strings.Contains(rule.Access, "w") {
			return nil
		}
	}
	return &os.PathError{Op: "bind", Path: path, Err: unix.EACCES}
}
